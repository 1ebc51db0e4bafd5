use super::{message, route, trace};

#[test]
fn routes() {
    for (path, expect) in [
        ("/", "/"),
        ("/api/v1/items/4711", "/api/v1/items/{id}"),
        ("/items/550e8400-e29b-41d4-a716-446655440000/parts", "/items/{id}/parts"),
        ("/2024/05/17/", "/{id}/{id}/{id}/"),
        ("/static/app.9f8c2e71.js", "/static/app.9f8c2e71.js"),
        ("/img/1234.png", "/img/{id}.png"),
        ("/users/alice@example.org", "/users/{id}"),
        ("/p/red-shoes-4711", "/p/{id}"),
        ("/oauth2/token", "/oauth2/token"),
        ("/cart;jsessionid=1A2B", "/cart"),
        ("*", "*"),
    ] {
        let mut found = String::new();
        route::template(path, &mut found);
        assert_eq!(found, expect, "{path}");
    }
    let mut masked = String::new();
    route::mask_query("a=1&b&c=&token=x=y", &mut masked);
    assert_eq!(masked, "a=?&?&c=?&token=?");
    route::mask_parameters("/a;b=1;c/d;;e=f=g/;h=", &mut masked);
    assert_eq!(masked, "/a;b=?;?/d;;e=?/;h=?");
}

#[test]
fn trace_context() {
    let check = |headers: trace::Headers<'_>, expect: (&str, &str)| {
        let (mut trace, mut span) = (String::new(), String::new());
        assert_eq!(trace::ids(headers, &mut trace, &mut span), expect);
    };
    let none = trace::Headers::default();
    check(none, ("", ""));
    let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
    check(trace::Headers { traceparent: zero, ..none }, ("", ""));
    check(trace::Headers { b3: "80f198ee56343ba8-e457b5a2e4d86bd1-1", ..none }, ("80f198ee56343ba8", "e457b5a2e4d86bd1"));
    check(trace::Headers { b3_trace: "80f198ee56343ba8", b3_span: "e4", ..none }, ("80f198ee56343ba8", "e4"));
    check(trace::Headers { uber: "1f%3A2e%3A0%3A1", ..none }, ("1f", "2e"));
    check(trace::Headers { sw8: "1-dHJhY2U=-c2VnbWVudA==-3-c2Vydmlj-aW5z-L3A=-YQ==", ..none }, ("trace", "segment"));
    assert_eq!(trace::client("for=\"203.0.113.7\";proto=http", "1.2.3.4", ""), "203.0.113.7");
    assert_eq!(trace::client("", " 1.2.3.4 , 5.6.7.8", "9.9.9.9"), "1.2.3.4");
}

#[test]
fn error_texts() {
    for (code, text, expect) in [
        (1146, "Table 'shop.missing' doesn't exist", "Table 'shop.missing' doesn't exist"),
        (1054, "Unknown column 'colour' in 'SELECT'", "Unknown column 'colour' in 'SELECT'"),
        (1062, "Duplicate entry 'it's secret' for key 'PRIMARY'", "Duplicate entry '?' for key 'PRIMARY'"),
        (1062, "Duplicate entry 'a' for key 'secret' for key 'items.k'", "Duplicate entry '?' for key 'items.k'"),
        (1064, "You have an error ... to use near 'secret' and 5' at line 1", "You have an error ... to use near '?' at line 1"),
        (1064, "You have an error ... to use near 'secret", "You have an error ... to use near '?'"),
        (1064, "You have an error ... to use near '", "You have an error ... to use near '?'"),
        (
            1366,
            "Incorrect integer value: 'secret' for column `s`.`t`.`c` at row 1",
            "Incorrect integer value: '?' for column `s`.`t`.`c` at row 1",
        ),
        (1690, "BIGINT value is out of range in '(5 - 7)'", "BIGINT value is out of range in '?'"),
        (9999, "It doesn't like \"secret\" or 'secret'.", "It doesn't like '?'."),
        (1213, "Deadlock found when trying to get lock", "Deadlock found when trying to get lock"),
        (1452, "a foreign key constraint fails (`s`.`t`)", "a foreign key constraint fails (`s`.`t`)"),
    ] {
        let mut masked = String::new();
        message::mask(code, text, &mut masked);
        assert_eq!(masked, expect, "{code} {text}");
    }
}

use super::{message, route, trace};

#[track_caller]
fn check_route(path: &str, expect: &str) {
    let mut found = String::new();
    route::Routes::default().template(path, false, &mut found);
    assert_eq!(found, expect, "{path}");
}

/// Paths as applications have them: `path<TAB>template` a line.
#[test]
fn routes_of_real_looking_paths() {
    let lines: Vec<&str> = include_str!("routes.tsv").lines().collect();
    assert!(lines.len() >= 300, "{}", lines.len());
    for line in lines {
        let (path, expect) = line.split_once('\t').unwrap();
        check_route(path, expect);
    }
}

/// Numbers that look random and are the same on every run (Knuth's MMIX).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    fn identifier(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        let letters = |mut number: u64, alphabet: &[u8], length: usize| -> String {
            (0..length)
                .map(|_| {
                    let letter = alphabet[number as usize % alphabet.len()];
                    number = number / alphabet.len() as u64 + 0x9e37_79b9;
                    char::from(letter)
                })
                .collect()
        };
        match a % 9 {
            0 => format!("{}", b % 100_000),
            1 => format!("{b}"),
            2 => format!("{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}", a & 0xffff_ffff, b & 0xffff, b & 0xfff, a & 0xfff, b & 0xffff_ffff_ffff),
            3 => format!("{:016x}{:016x}{:08x}", a | 1 << 60, b, a & 0xffff_ffff),
            4 => format!("{:04}-{:02}-{:02}", 1990 + b % 60, 1 + a % 12, 1 + b % 28),
            5 => format!("ord_{}{}", b % 10, letters(b, b"abcDEFghiJKLmnoPQR0123456789", 16)),
            6 => format!("user{}@example.org", b % 5000),
            7 => format!("red-shoes-{}", 100 + b % 90_000),
            _ => format!("{:024x}", u128::from(a) << 40 | u128::from(b)),
        }
    }

    fn title(&mut self) -> String {
        const WORDS: [&str; 12] = ["how", "to", "brew", "coffee", "rust", "small", "garden", "why", "cats", "sleep", "long", "winter"];
        let (a, count) = (self.next(), 2 + self.next() % 3);
        (0..count).map(|word| WORDS[(a >> (word * 6)) as usize % WORDS.len()]).collect::<Vec<_>>().join("-")
    }
}

/// Identifiers make no template. Titles look like endpoints (`reset-user-password`), so each place keeps its first 64 and folds the rest.
#[test]
fn routes_do_not_explode() {
    const BY_IDENTIFIER: u64 = 200;
    const BY_TITLE: u64 = 5;
    let mut numbers = Numbers(20_240_506);
    let mut routes = route::Routes::default();
    let mut found = std::collections::BTreeSet::new();
    let mut text = String::new();
    let mut titles = std::collections::BTreeSet::new();
    for _ in 0..100_000 {
        let number = numbers.next() % (BY_IDENTIFIER + BY_TITLE);
        let path = match (number.checked_sub(BY_IDENTIFIER), number % 4) {
            (Some(title), _) => {
                let title = format!("/blog{title}x/posts/{}", numbers.title());
                titles.insert(title.clone());
                title
            }
            (None, 0) => format!("/api/v{}/things-{}/{}", number % 3, number / 8, numbers.identifier()),
            (None, 1) => format!("/shop/of-{}/{}/parts/{}", number / 8, numbers.identifier(), numbers.identifier()),
            (None, 2) => format!("/files/in-{}/{}.pdf", number / 8, numbers.identifier().replace('.', "-")),
            _ => format!("/plain/page-{}/edit", number / 8),
        };
        routes.template(&path, false, &mut text);
        found.insert(text.clone());
    }
    let (by_title, by_identifier): (Vec<_>, Vec<_>) = found.iter().cloned().partition(|template: &String| template.starts_with("/blog"));
    assert!(titles.len() > 2000, "{} titles", titles.len());
    assert!(by_identifier.len() as u64 <= BY_IDENTIFIER, "{by_identifier:?}");
    assert!(by_title.len() as u64 <= BY_TITLE * 65, "{} templates of titles", by_title.len());
    assert!(routes.folded() > 0);

    // However many are asked for, what is learned is bounded, and what was kept stays.
    for number in 0..300_000u64 {
        routes.template(&format!("/{}/{}", word(number % 90), word(number)), false, &mut text);
        found.insert(text.clone());
    }
    assert!(found.len() < 10_000, "{}", found.len());
    let kept = by_title.iter().find(|template| !template.contains('{')).unwrap();
    routes.template(kept, false, &mut text);
    assert_eq!(&text, kept);
    // Who tries names that are not there does not use up the room of those that are.
    let mut routes = route::Routes::default();
    for number in 0..1000 {
        routes.template(&format!("/{}", word(number)), true, &mut text);
    }
    routes.template("/orders", false, &mut text);
    assert_eq!(text, "/orders");
}

/// A name of letters alone.
fn word(mut number: u64) -> String {
    let mut text = String::from("w");
    while number > 0 {
        text.push(char::from(b'g' + (number % 20) as u8));
        number /= 20;
    }
    text
}

#[test]
fn routes() {
    for (path, expect) in [
        ("/", "/"),
        ("/api/v1/items/4711", "/api/v1/items/{id}"),
        ("/items/550e8400-e29b-41d4-a716-446655440000/parts", "/items/{id}/parts"),
        ("/2024/05/17/", "/{id}/{id}/{id}/"),
        ("/static/app.9f8c2e71.js", "/static/app.{id}.js"),
        ("/img/1234.png", "/img/{id}.png"),
        ("/users/alice@example.org", "/users/{id}"),
        ("/p/red-shoes-4711", "/p/{id}"),
        ("/oauth2/token", "/oauth2/token"),
        ("/cart;jsessionid=1A2B", "/cart"),
        ("*", "*"),
    ] {
        check_route(path, expect);
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

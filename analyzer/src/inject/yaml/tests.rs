use proptest::prelude::*;
use serde_json::json;

use super::super::patch::{Nulls, Operation};
use super::edit::{plain_or_quoted, write_value};
use super::*;

fn values(text: &str) -> Vec<Value> {
    parse(text).unwrap().iter().map(Document::value).collect()
}

fn add(path: &str, value: Value) -> Operation {
    Operation::Add { path: path.to_owned(), value }
}

fn remove(path: &str) -> Operation {
    Operation::Remove { path: path.to_owned() }
}

/// Operations on the first document of a text; the text they give, or `None` if they cannot be carried out in place.
fn edited(text: &str, operations: Vec<Operation>) -> Option<String> {
    let (text, made) = edit(text, &parse(text).unwrap(), &[Change { document: 0, base: String::new(), operations, nulls: Nulls::new() }]);
    made[0].then_some(text)
}

fn check(text: &str, operations: Vec<Operation>, expect: &str) {
    assert_eq!(edited(text, operations).as_deref(), Some(expect));
}

#[test]
fn values_are_those_that_kubectl_reads() {
    let check = |text: &str, expect: Value| assert_eq!(values(text), [expect], "{text}");
    check(
        "a: 1\nb: '1'\nc: 1.5\nd: true\ne: 'true'\nf: ~\ng:\nh: yes\n",
        json!({"a": 1, "b": "1", "c": 1.5, "d": true, "e": "true", "f": null, "g": null, "h": true}),
    );
    check("{\"a\": [1, {\"b\": \"\\u00e4\"}]}", json!({"a": [1, {"b": "ä"}]}));
    check("a: |\n  one\n  two\nb: >-\n  folded\n  text\n", json!({"a": "one\ntwo\n", "b": "folded text"}));
    check("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}}));
    check("a: !!str 1\nb: 1.2.3\nc: 2026-01-01\nd: 1e3\n", json!({"a": "1", "b": "1.2.3", "c": "2026-01-01", "d": 1000.0}));
    check("[on, Off, y, N, YES, oN, 'no']", json!([true, false, true, false, true, "oN", "no"]));
    check(
        "[0x1f, -0x10, 0o17, 017, 08, 0b11, 1_000, +5, 0x, 18446744073709551615]",
        json!([31, -16, 15, 15, 8, 3, 1000, 5, "0x", u64::MAX]),
    );
    check("[., 0, -0.5, .5, 1., 99999999999999999999]", json!([".", 0, -0.5, 0.5, 1.0, 1e20]));
    assert_eq!(values("---\na: 1\n---\n# nothing\n---\nb: 2\n"), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(values(""), Vec::<Value>::new());
}

#[test]
fn what_is_no_yaml_is_told_with_its_place() {
    let check = |text: &str, document: usize, line: usize| {
        let error = parse(text).unwrap_err();
        assert_eq!((error.document, error.line), (document, line), "{error}");
    };
    check("a: 1\n---\nb: [1\n---\n", 2, 3);
    check("a: 1\nb: 2\na: 3\n", 1, 3);
    check("a: *nowhere\n", 1, 1);
    // Each alias doubles.
    let mut bomb = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..40 {
        bomb.push_str(&format!("a{level}: &a{level} [*a{}, *a{}]\n", level - 1, level - 1));
    }
    assert!(parse(&bomb).unwrap_err().problem.contains("aliases"));
}

#[test]
fn additions_leave_the_rest_as_it_is() {
    check(
        "# web\nspec:\n    # what runs\n    containers:   # list\n    - name: web   # ours\n      image: 'web'\n",
        vec![add("/spec/initContainers", json!([{"name": "s", "args": ["run"], "i": 1}])), add("/spec/containers/0", json!({"name": "t"}))],
        "# web\nspec:\n    # what runs\n    initContainers:\n      -\n        name: s\n        args:\n          - run\n        i: 1\n    \
         containers:   # list\n    - name: t\n    - name: web   # ours\n      image: 'web'\n"
            .replace("      -\n        name: s", "      - name: s")
            .as_str(),
    );
    check("{\"a\": {\"b\": []}}", vec![add("/a/b/0", json!(1)), add("/a/c", json!("x"))], "{\"a\": {\"c\": \"x\", \"b\": [1]}}");
    check("a:\nb: 1\n", vec![add("/a", json!({"x": "y"}))], "a: {\"x\":\"y\"}\nb: 1\n");
    check("a: {}\n", vec![add("/a/x", json!("1"))], "a: {\"x\": \"1\"}\n");
    check("- a: 1\n  b: 2\n", vec![add("/0/c", json!("on"))], "- c: \"on\"\n  a: 1\n  b: 2\n");
    check("a:\n  x: old # why\n", vec![add("/a/x", json!("new"))], "a:\n  x: \"new\" # why\n");
}

#[test]
fn removals_take_whole_entries() {
    check("a:\n  x: 1\n  y: 2\n  z: 3\n", vec![remove("/a/x")], "a:\n  y: 2\n  z: 3\n");
    check("a:\n  x: 1\n  y: 2\n  z: 3\n", vec![remove("/a/y")], "a:\n  x: 1\n  z: 3\n");
    check("a:\n  x: 1\n  y: 2\n  z: 3\nb: 1\n", vec![remove("/a/z"), remove("/a/y")], "a:\n  x: 1\nb: 1\n");
    check("a:\n- x: 1\n  y: 2\n- z: 3\n", vec![remove("/a/1")], "a:\n- x: 1\n  y: 2\n");
    check("a:\n- x: 1\n  y: 2\n- z: 3\n", vec![remove("/a/0")], "a:\n- z: 3\n");
    check("{\"a\": 1, \"b\": 2, \"c\": 3}", vec![remove("/c"), remove("/b")], "{\"a\": 1}");
    check("{\"a\": 1, \"b\": 2, \"c\": 3}", vec![remove("/a")], "{\"b\": 2, \"c\": 3}");
    check("{\"a\": {\"b\": 2}}", vec![remove("/a/b")], "{\"a\": {}}");
}

#[test]
fn what_cannot_be_changed_in_one_place_is_left() {
    assert_eq!(edited("a: &x\n  b: 1\nc: *x\n", vec![add("/a/d", json!(1))]), None);
    assert_eq!(edited("a: &x\n  b: 1\nc: *x\n", vec![add("/c/d", json!(1))]), None);
    // The document beside it is changed all the same.
    let text = "a: &x\n  b: 1\nc: *x\n---\na: 1\n";
    let change =
        |document: usize, path: &str| Change { document, base: String::new(), operations: vec![add(path, json!(1))], nulls: Nulls::new() };
    let (after, made) = edit(text, &parse(text).unwrap(), &[change(0, "/a/d"), change(1, "/b")]);
    assert_eq!((after.as_str(), made), ("a: &x\n  b: 1\nc: *x\n---\nb: 1\na: 1\n", vec![false, true]));
}

#[test]
fn texts_are_quoted_where_a_reader_could_take_them_for_something_else() {
    for (text, expect) in [
        ("web", "web"),
        ("docker.io/a/b:1", "\"docker.io/a/b:1\""),
        ("on", "\"on\""),
        ("No", "\"No\""),
        ("1", "\"1\""),
        ("", "\"\""),
        ("/healthz", "/healthz"),
    ] {
        assert_eq!(plain_or_quoted(text), expect);
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[ -~äß€\n\t]{0,12}".prop_map(Value::from),
        prop_oneof![Just("yes"), Just("- a"), Just("a: b"), Just("# c"), Just("~"), Just("0x1f"), Just("{"), Just("'")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-zA-Z./~ -]{1,6}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_it_was(value in any_value(), pretty: bool) {
        let mut block = "k:".to_owned();
        write_value(&mut block, &value, 0, true);
        prop_assert_eq!(values(&block), vec![json!({"k": value.clone()})], "{}", block);
        let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        // A bare null is a document without content.
        prop_assert_eq!(values(&text), if value.is_null() { Vec::new() } else { vec![value] }, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_told(text in "[ -~\n\tä]{0,200}") {
        if let Ok(documents) = parse(&text) {
            let (same, _) = edit(&text, &documents, &[]);
            prop_assert_eq!(same, text);
        }
    }
}

use super::*;

const FILE: &str = r#"
receivers:
  - name: ops
    webhook: { url: "http://127.0.0.1:9000/hook" }
rules:
  - name: endpoint fails
    target: { service: shop, endpoint: "*" }
    indicator: error_share
    threshold: 5%
    window: 60s
    minimum_count: 20
    level: 1
  - name: slow
    indicator: p99
    comparison: ">="
    threshold: 500ms
    window: 5m
    for: 30s
"#;

#[test]
fn a_file_of_rules() {
    let file = parse(FILE).unwrap();
    assert_eq!(file.receivers.len(), 1);
    let first = &file.rules[0];
    assert_eq!((&first.service, &first.endpoint), (&Selector::One("shop".to_owned()), &Some(Selector::Each)));
    assert_eq!((first.threshold, first.window_ns, first.hold_ns, first.level), (0.05, 60_000_000_000, 0, 1));
    assert_eq!(first.receivers, ["ops"]);
    let second = &file.rules[1];
    assert_eq!((&second.service, &second.endpoint, second.level), (&Selector::Each, &None, 2));
    assert_eq!((second.indicator, second.threshold), (Indicator::Latency(0.99), 500_000_000.0));
    assert_eq!((second.comparison, second.hold_ns), (Comparison::AtLeast, 30_000_000_000));
    assert_eq!(second.indicator.to_string(), "p99");
    assert_eq!(Indicator::Latency(0.999).to_string(), "p99.9");
}

fn check(change: (&str, &str), expect: &str) {
    assert!(FILE.contains(change.0), "{}", change.0);
    let error = parse(&FILE.replacen(change.0, change.1, 1)).unwrap_err().to_string();
    assert!(error.contains(expect), "{error}");
}

#[test]
fn bad_files_are_refused() {
    check(("level: 1", "level: 4"), "level");
    check(("level: 1", "lebel: 1"), "lebel");
    check(("threshold: 5%", "threshold: 5"), "share");
    check(("threshold: 500ms", "threshold: 500"), "unit");
    check(("indicator: p99", "indicator: p101"), "indicator");
    check(("window: 60s", "window: 1s"), "window");
    check(("name: slow", "name: endpoint fails"), "unique");
    check(("comparison: \">=\"", "comparison: \"=>\""), "comparison");
    check(("url: \"http", "url: \"ftp"), "webhook");
    check(("for: 30s", "receivers: [nobody]"), "nobody");
}

#[test]
fn durations() {
    for (text, expect) in [("500ms", 500_000_000), ("1.5s", 1_500_000_000), ("2h", 7_200_000_000_000)] {
        assert_eq!(parse_duration(text), Ok(expect), "{text}");
    }
    for text in ["", "5", "s", "-1s", "1 week", "9999d"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    layer: Layer,
}

/// Flags only: the environment of the test run is not the test's.
fn flags(arguments: &[&str]) -> Layer {
    Line::try_parse_from([&["x"], arguments].concat()).unwrap().layer
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = parse("f", "transport: kafka\nqueue_bytes: 8MiB\ninterface: [eth0, lo]\nunmask: true\nadmin_listen: 0.0.0.0:1\n").unwrap();
    let settings = Settings::resolve(flags(&["--queue-bytes", "16MiB", "-i", "eth1"]), file.clone());
    assert_eq!(settings.queue_bytes, ByteSize(16 << 20));
    assert_eq!(settings.interface, ["eth1"]);
    assert_eq!(settings.transport, TransportChoice::Kafka);
    assert!(settings.unmask);
    assert_eq!(settings.source, SourceChoice::Auto);
    assert!(file.gives("unmask") && !file.gives("source") && !file.gives("nothing"));
    assert!(!Settings::resolve(flags(&["--unmask=false"]), file).unmask);
    assert!(Settings::resolve(flags(&["--unmask"]), Layer::default()).unmask);
}

#[test]
fn a_wrong_file_is_told_with_line_column_and_what_was_meant() {
    let check = |text: &str, expected: &[&str]| {
        let error = parse("podtap.yaml", text).unwrap_err();
        for part in expected {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    check("source: auto\nkafka_broker: x\n", &["podtap.yaml:2:", "kafka_broker", "did you mean \"kafka_brokers\"?"]);
    check("\nsource: epbf\n", &["podtap.yaml:2:", "epbf", "did you mean \"ebpf\"?"]);
    check("queue_bytes: 5 furlongs\n", &["podtap.yaml:1:", "furlongs"]);
    check("stop_grace: 10\n", &["podtap.yaml:1:", "no unit of time"]);
    check("admin_listen: here\n", &["podtap.yaml:1:"]);
    check("source: [auto\n", &["podtap.yaml:"]);
    let error = parse("podtap.yaml", "{ this is: [not yaml\n").unwrap_err();
    assert!(!error.contains("unknown field"), "{error}");
    assert!(parse("f", "# nothing\n\n").is_ok());
}

#[test]
fn sizes_and_times() {
    for (text, bytes) in [("65536", 65536), ("64KiB", 65536), ("1 GiB", 1 << 30), ("5MB", 5_000_000), ("1.5Mi", 1_572_864)] {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)));
    }
    for (text, milliseconds) in [("250ms", 250), ("1.5s", 1500), ("2m", 120_000)] {
        assert_eq!(text.parse(), Ok(Span(Duration::from_millis(milliseconds))));
    }
    assert!("1e400s".parse::<Span>().is_err() && "-1s".parse::<Span>().is_err() && "MiB".parse::<ByteSize>().is_err());
}

#[test]
fn what_cannot_be_together_is_told() {
    let check = |arguments: &[&str], expected: &str| {
        let error = Settings::resolve(flags(arguments), Layer::default()).check().unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check(&["--source", "file"], "needs --read");
    check(&["--source", "pcap", "-r", "x"], "--read is for source file");
    check(&["-r", "x", "-i", "lo"], "exclude each other");
    check(&["--queue-bytes", "5"], "at least 1MiB");
    assert!(Settings::resolve(flags(&["-r", "x"]), Layer::default()).check().is_ok());
}

#[test]
fn every_setting_has_its_twin_in_the_environment_and_is_shown() {
    use clap::CommandFactory;
    let command = Line::command();
    for name in NAMES {
        let argument = command.get_arguments().find(|argument| argument.get_id() == name).unwrap();
        assert_eq!(argument.get_env().unwrap().to_str().unwrap(), format!("PODTAP_{}", name.to_uppercase()));
        assert_eq!(argument.get_long().unwrap(), name.replace('_', "-"));
    }
    let rows = Settings::resolve(flags(&["--kafka-option", "sasl.password=hush"]), Layer::default()).rows();
    assert_eq!(rows.iter().map(|(name, _)| *name).collect::<Vec<_>>(), NAMES);
    assert!(rows.iter().any(|(_, value)| value == "[sasl.password=***]"), "{rows:?}");
}

//! The command line as scripts see it: exit codes, messages, what goes to which stream.

// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn sidecar(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podtap-sidecar"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    sidecar(arguments).output().unwrap()
}

#[track_caller]
fn check(arguments: &[&str], code: i32, says: &str) {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(error.contains(says), "{arguments:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
}

/// A file that is removed with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("podtap-cli-test-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A TCP segment in an Ethernet frame in a pcap record. Checksums are left out, as on a host that offloads them.
fn segment(time: u32, from: u16, to: u16, sequence: u32, acknowledged: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut tcp = [from.to_be_bytes(), to.to_be_bytes()].concat();
    tcp.extend_from_slice(&sequence.to_be_bytes());
    tcp.extend_from_slice(&acknowledged.to_be_bytes());
    tcp.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend_from_slice(payload);
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&(20 + tcp.len() as u16).to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0, 0, 64, 6, 0, 0]);
    let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let (source, destination) = if to == 80 { (client, server) } else { (server, client) };
    ip.extend_from_slice(&source);
    ip.extend_from_slice(&destination);
    let mut frame = vec![2; 12];
    frame.extend_from_slice(&[8, 0]);
    frame.extend(ip);
    frame.extend(tcp);
    let mut record: Vec<u8> = [7, time, frame.len() as u32, frame.len() as u32].iter().flat_map(|word| word.to_le_bytes()).collect();
    record.extend(frame);
    record
}

/// `exchanges` requests on one connection, each answered 2 ms later.
fn capture(exchanges: u32) -> Vec<u8> {
    let request = b"GET /items/5?token=hush HTTP/1.1\r\nHost: shop\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let mut bytes: Vec<u8> = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1].iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(segment(1, 4000, 80, 99, 0, 0x02, b""));
    bytes.extend(segment(2, 80, 4000, 499, 100, 0x12, b""));
    for number in 0..exchanges {
        let (asked, answered) = (100 + number * request.len() as u32, 500 + number * answer.len() as u32);
        let time = 1000 + number * 10_000 % 900_000;
        bytes.extend(segment(time, 4000, 80, asked, answered, 0x18, request));
        bytes.extend(segment(time + 2000, 80, 4000, answered, asked + request.len() as u32, 0x18, answer));
    }
    bytes
}

#[test]
fn wrong_usage_and_wrong_configuration() {
    check(&["run", "--soruce", "ebpf"], 2, "--source");
    check(&["no-such-command"], 2, "no-such-command");
    check(&["run", "--source", "epbf"], 78, "epbf");
    check(&["print", "-i", "lo", "-f", "tcp prot 80"], 78, "syntax error");
    check(&["print", "-r", "x", "--where", "url_pth=/"], 78, "url_path");
    check(&["run", "--source", "file"], 78, "--read");
    let config = Scratch::new("wrong.yaml", b"transport: kafka\nkafka_broker: x:1\n");
    check(&["config", "check", "--config", config.path()], 78, "wrong.yaml:2:");
    check(&["config", "check", "--config", config.path()], 78, "did you mean \"kafka_brokers\"?");
    check(&["config", "check", "--config", "/no/such/file"], 78, "/no/such/file");
    check(&["run", "-i", "lo", "--grpc-endpoint", "analyzer", "--admin-listen", "127.0.0.1:0", "-r", "x"], 78, "exclude each other");
}

/// Standard output, exit code and standard error of `doctor`.
fn doctor(arguments: &[&str]) -> (String, i32, String) {
    let output = run(&[&["doctor"], arguments].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), output.status.code().unwrap(), text(output.stderr))
}

#[test]
fn doctor_refuses_what_run_refuses_and_in_the_same_words() {
    let wrong = Scratch::new("doctor.yaml", b"soruce: pcap\n");
    let file = Scratch::new("doctor.pcap", &capture(1));
    for arguments in [
        &["--config", "/no/such/file"][..],
        &["--config", wrong.path()],
        &["--source", "epbf"],
        &["--source", "file"],
        &["--log-level", "podtap=loud"],
        &["--grpc-endpoint", "analyzer", "-r", file.path()],
        &["-i", "lo", "-f", "tcp prot 80"],
        &["--ring-bytes", "1"],
        &["--transport", "kafka", "--kafka-option", "no.such.option=1", "-r", file.path()],
    ] {
        let (found, code, error) = doctor(arguments);
        let starts = run(&[&["run", "--admin-listen", "127.0.0.1:0"], arguments].concat());
        assert_eq!((code, found.as_str()), (78, ""), "{arguments:?}: {error}");
        let expect = String::from_utf8(starts.stderr).unwrap();
        let last = |text: &str| text.lines().find(|line| line.contains("podtap-sidecar:") || line.contains("error:")).map(str::to_owned);
        assert_eq!((starts.status.code(), last(&expect)), (Some(78), last(&error)), "{arguments:?}");
    }
    let output = sidecar(&["doctor"]).env("PODTAP_SOURCE", "epbf").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PODTAP_SOURCE"), "{output:?}");

    let free = "--admin-listen=127.0.0.1:0";
    let says = |arguments: &[&str], line: &str| {
        let (found, code, error) = doctor(arguments);
        assert!(found.lines().any(|found| found.starts_with(line)), "{arguments:?}: {line:?} is not in\n{found}{error}");
        (found, code)
    };
    assert_eq!(says(&[free, "-i", "nosuch0"], "× source of the settings: no interface \"nosuch0\"").1, 1);
    assert_eq!(says(&[free, "-r", "/no/such/file"], "× source of the settings: cannot read /no/such/file").1, 1);
    assert_eq!(says(&[free, "--spool-dir", "/dev/null/spool"], "× spool_dir: /dev/null/spool: Not a directory").1, 1);
    says(&[free, "-r", file.path()], "√ source of the settings: file opened");
    let folder = std::env::temp_dir();
    says(&[free, "--spool-dir", folder.to_str().unwrap()], "√ spool_dir:");
    assert!(!folder.join("not-there").exists());
    says(&[free, "--spool-dir", folder.join("not-there/spool").to_str().unwrap()], "√ spool_dir:");
    assert!(!folder.join("not-there").exists(), "doctor makes nothing");
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--admin-listen={}", other.local_addr().unwrap());
    assert_eq!(says(&[&listen], "× admin_listen: cannot listen on 127.0.0.1:").1, 1);
}

#[test]
fn what_cannot_be_read() {
    check(&["print", "-r", "/no/such/file"], 66, "No such file");
    check(&["print", "-i", "nosuch0"], 69, "nosuch0");
    let random = Scratch::new("random", &[0x5a; 4096]);
    check(&["print", "-r", random.path()], 65, "not a capture file");
    let empty = Scratch::new("empty", b"");
    check(&["print", "-r", empty.path()], 65, "empty");
}

#[test]
fn a_file_becomes_lines_and_a_cut_one_what_was_whole() {
    let bytes = capture(3);
    let whole = Scratch::new("whole.pcap", &bytes);
    let output = run(&["print", "-r", whole.path(), "--json", "--stats"]);
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["exchange_index"], index);
        assert_eq!(line["url_path"], "/items/5");
        assert_eq!(line["time_to_last_byte_ns"], 2_000_000);
        assert_eq!(line["source"], "file");
        assert!(!line.to_string().contains("hush"), "{line}");
    }
    let account: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(account["podtap_records_total"]["http"], 3);
    assert_eq!(account["podtap_packets_received_total"], 8);

    let unmasked = run(&["print", "-r", whole.path(), "--unmask", "--color", "never"]);
    let text = String::from_utf8(unmasked.stdout).unwrap();
    assert!(text.lines().all(|line| line.contains("GET /items/5?token=hush") && line.contains("2.00ms")), "{text}");

    let cut = Scratch::new("cut.pcap", &bytes[..bytes.len() - 3]);
    let output = run(&["print", "-r", cut.path(), "--json"]);
    assert_eq!(output.status.code(), Some(65));
    // The third request's answer is missing: it is reported as such, or not at all, but never as answered.
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("\"status\":\"ok\"")).count(), 2, "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("at byte"), "{:?}", output.stderr);
}

#[test]
fn filters_choose_packets_and_conditions_choose_records() {
    let file = Scratch::new("filter.pcap", &capture(3));
    let count = |arguments: &[&str]| {
        let output = run(&[&["print", "-r", file.path(), "--json"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    assert_eq!(count(&["-f", "tcp port 80"]), 3);
    assert_eq!(count(&["-f", "tcp port 81"]), 0);
    assert_eq!(count(&["--where", "exchange_index=1"]), 1);
    assert_eq!(count(&["--where", "time_to_last_byte_ns>1ms", "--where", "http_response_status_code=200"]), 3);
    assert_eq!(count(&["--where", "time_to_last_byte_ns>3ms"]), 0);
    assert_eq!(count(&["--quiet"]), 0);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let file = Scratch::new("pipe.pcap", &capture(20_000));
    let mut child = sidecar(&["print", "-r", file.path(), "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn settings_come_from_where_config_show_says() {
    let config = Scratch::new("show.yaml", b"transport: kafka\nqueue_bytes: 8MiB\nlog_level: debug\n");
    let output =
        sidecar(&["config", "show", "--config", config.path(), "--log-level", "warn"]).env("PODTAP_QUEUE_BYTES", "16MiB").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(line("log_level"), "log_level: warn # flag");
    assert_eq!(line("queue_bytes"), "queue_bytes: 16MiB # environment");
    assert_eq!(line("transport"), "transport: kafka # file");
    assert_eq!(line("source"), "source: auto # default");
}

#[test]
fn the_print_transport_carries_a_file_to_its_end() {
    let file = Scratch::new("run.pcap", &capture(5000));
    let output = run(&["run", "--source", "file", "-r", file.path(), "--transport", "print", "--admin-listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 5000);
}

#[test]
fn help_has_examples_and_completion_is_a_script() {
    let help = String::from_utf8(run(&["print", "--help"]).stdout).unwrap();
    assert!(help.contains("Examples:") && help.contains("--where"), "{help}");
    let script = String::from_utf8(run(&["completion", "bash"]).stdout).unwrap();
    assert!(script.contains("podtap-sidecar"));
    assert!(String::from_utf8(run(&["--version"]).stdout).unwrap().starts_with("podtap-sidecar "));
}

#[test]
fn fingerprints_of_json_lines() {
    let lines = Scratch::new("lines.jsonl", b"{\"sql\": \"SELECT 5\"}\nSELECT 6\n");
    let output = run(&["fingerprint", lines.path()]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "{\"fingerprint\":\"select ?\"}\n");
    check(&["fingerprint", lines.path()], 65, "line 2: not a JSON object");
    check(&["fingerprint", "/no/such/file"], 66, "/no/such/file");
}

/// Status line and body of an answer, once somebody answers.
fn get(address: &str, path: &str) -> String {
    for _ in 0..600 {
        if let Ok(mut stream) = std::net::TcpStream::connect(address) {
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            return answer;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("nobody listens on {address}");
}

#[test]
fn a_sidecar_that_keeps_trying_lives_and_says_what_is_wrong() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let listen = format!("--admin-listen={address}");
    check(&["run", "-i", "no-such-interface", &listen], 69, "no-such-interface");
    let mut child = sidecar(&["run", "-i", "no-such-interface", "--keep-trying", &listen]).stderr(Stdio::null()).spawn().unwrap();
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
    let (found, _, _) = doctor(&[&listen]);
    assert!(found.contains("√ admin_listen: ") && found.contains(" is a running sidecar's"), "{found}");
    let ready = get(&address, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("no-such-interface"), "{ready}");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

//! Bad input gives a clear message and the exit code that says what kind of bad it is; never a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podtap_tests::nginx::Nginx;
use podtap_tests::pod::Pod;
use podtap_tests::process::{Output, Process, Spec, run_to_end};
use podtap_tests::run::{Run, binary, program};
use podtap_tests::{Context, Result, http};

/// Runs one of our binaries to its end.
fn run(run: &Run, name: &str, arguments: &[&str]) -> Result<Output> {
    run_to_end(run, &Spec::new(binary(name)?, arguments).folder(run.root()), Duration::from_secs(30))
}

/// Exit code, a message that names what is wrong, and no panic.
fn check(output: &Output, code: i32, names: &[&str]) {
    let text = &output.stderr;
    assert_eq!(output.code, code, "{text}");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    for name in names {
        assert!(text.contains(name), "{name:?} is not in: {text}");
    }
}

/// A capture of a few requests, made by tcpdump from a real nginx.
fn capture(run: &Run, file: &Path) -> Result<()> {
    let pod = Pod::new(run)?;
    let nginx = Nginx::start(run, &pod, None, false)?;
    let spec = Spec::new(program("tcpdump", "tcpdump")?, ["-i", "eth0", "-U", "-Z", "root", "-w"]).argument(file);
    let tcpdump = Process::start(run, "tcpdump", &pod.enter(spec.argument("tcp port 80")))?;
    tcpdump.until("tcpdump listens", Duration::from_secs(20), || Ok(tcpdump.log().contains("listening on").then_some(())))?;
    for number in 1..=20 {
        assert_eq!(http::get(nginx.address(), &format!("/products/{number}"))?.status, 200);
    }
    tcpdump.until("tcpdump has written the requests", Duration::from_secs(20), || {
        Ok((fs::metadata(file).context("the capture")?.len() > 8_000).then_some(()))
    })?;
    tcpdump.signal(libc::SIGINT);
    tcpdump.wait(Duration::from_secs(20)).map(|_| ())
}

#[test]
fn captures_that_are_cut_or_none() -> Result<()> {
    let scratch = Run::start()?;
    let whole = scratch.folder("files")?.join("whole.pcap");
    capture(&scratch, &whole)?;
    let whole_text = whole.display().to_string();
    let output = run(&scratch, "podtap-sidecar", &["print", "-r", &whole_text, "--json"])?;
    check(&output, 0, &[]);
    assert_eq!(output.stdout.lines().count(), 20);

    // Cut in the middle of a packet: what could be read is printed all the same.
    let cut = scratch.folder("files")?.join("cut.pcap");
    let bytes = fs::read(&whole).context("the capture")?;
    fs::write(&cut, &bytes[..bytes.len() * 2 / 3 + 3]).context("a cut capture")?;
    let cut = cut.display().to_string();
    let output = run(&scratch, "podtap-sidecar", &["print", "-r", &cut, "--json"])?;
    check(&output, 65, &[&cut]);
    let read = output.stdout.lines().count();
    assert!((5..20).contains(&read), "{read} of 20 records");
    let output = run(&scratch, "podtap-sidecar", &["run", "--source", "file", "-r", &cut, "--transport", "print"])?;
    check(&output, 65, &[&cut]);

    for (name, content) in [("random.pcap", noise(100_000)), ("empty.pcap", Vec::new()), ("head.pcap", bytes[..11].to_vec())] {
        let file = scratch.folder("files")?.join(name);
        fs::write(&file, content).context("a bad capture")?;
        let file = file.display().to_string();
        let output = run(&scratch, "podtap-sidecar", &["print", "-r", &file, "--json"])?;
        check(&output, 65, &[&file]);
        assert_eq!(output.stdout, "");
    }

    // Right head, random packets: a capture that was read to its end, of traffic that could not be decoded.
    let mut packets = bytes[..24].to_vec();
    for chunk in noise(60_000).chunks(600) {
        packets.extend_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
        packets.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
        packets.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
        packets.extend_from_slice(chunk);
    }
    let file = scratch.folder("files")?.join("noise-in-packets.pcap");
    fs::write(&file, packets).context("a capture of noise")?;
    let output = run(&scratch, "podtap-sidecar", &["print", "-r", &file.display().to_string(), "--json"])?;
    check(&output, 0, &[]);
    Ok(())
}

#[test]
fn what_is_missing_or_not_allowed() -> Result<()> {
    let scratch = Run::start()?;
    let output = run(&scratch, "podtap-sidecar", &["print", "-r", "no-such-file.pcap"])?;
    check(&output, 66, &["no-such-file.pcap"]);
    let folder = scratch.folder("a-folder")?.display().to_string();
    let output = run(&scratch, "podtap-sidecar", &["print", "-r", &folder])?;
    assert!([65, 66].contains(&output.code), "{} {}", output.code, output.stderr);
    check(&output, output.code, &[&folder]);
    for source in ["pcap", "ebpf", "auto"] {
        let arguments = ["run", "--source", source, "-i", "nosuch0", "--transport", "print", "--admin-listen=127.0.0.1:0"];
        check(&run(&scratch, "podtap-sidecar", &arguments)?, 69, &["nosuch0"]);
    }

    let pod = Pod::new(&scratch)?;
    let sidecar = binary("podtap-sidecar")?;
    for source in ["pcap", "ebpf", "auto"] {
        // Still root, so that it may enter the build folder, but without any capability to gain.
        let spec = Spec::new(program("setpriv", "util-linux")?, ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
            .argument(&sidecar)
            .argument("run")
            .argument(format!("--source={source}"))
            .argument("--transport=print")
            .argument("--admin-listen=127.0.0.1:0")
            .folder("/");
        check(&run_to_end(&scratch, &pod.enter(spec), Duration::from_secs(30))?, 77, &["CAP_"]);
    }
    Ok(())
}

/// A folder that any user may enter, gone at the end.
struct Open(PathBuf);

impl Drop for Open {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

#[test]
fn doctor_says_why_a_capability_is_missing() -> Result<()> {
    let scratch = Run::start()?;
    let folder = Open(std::env::temp_dir().join(format!("podtap-doctor-{}", scratch.name())));
    fs::create_dir_all(&folder.0).context("a folder for all users")?;
    let plain = folder.0.join("podtap-sidecar");
    fs::copy(binary("podtap-sidecar")?, &plain).context("the sidecar for all users")?;
    let capable = folder.0.join("podtap-sidecar-capable");
    fs::copy(&plain, &capable).context("another one")?;
    let spec = Spec::new(program("setcap", "libcap2-bin")?, ["cap_net_raw,cap_bpf+p"]).argument(&capable);
    assert_eq!(run_to_end(&scratch, &spec, Duration::from_secs(30))?.code, 0, "setcap");

    let check = |binary: &Path, how: &[&str], outcome: &str, remedy: &str| -> Result<()> {
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups"].into_iter().chain(how.iter().copied());
        let spec = Spec::new(program("setpriv", "util-linux")?, user)
            .argument(binary)
            .argument("doctor")
            .argument("--admin-listen=127.0.0.1:0")
            .folder("/");
        let output = run_to_end(&scratch, &spec, Duration::from_secs(30))?;
        let line = output.stdout.lines().position(|line| line.contains("CAP_NET_RAW: ")).expect("a line of CAP_NET_RAW");
        let found: Vec<&str> = output.stdout.lines().skip(line).take(2).collect();
        assert!(found[0].starts_with(outcome) && found[1].contains(remedy), "{how:?}: {found:?}");
        assert_eq!(output.code, i32::from(outcome.starts_with('×')), "{}{}", output.stdout, output.stderr);
        Ok(())
    };
    check(&plain, &["--bounding-set=-net_raw"], "× CAP_NET_RAW: missing: not in the bounding set", "securityContext.capabilities.add")?;
    check(&plain, &[], "× CAP_NET_RAW: missing: in the bounding set, but the binary's file capability does not have it", "setcap")?;
    check(&capable, &[], "√ CAP_NET_RAW: effective", "")?;
    // setpriv keeps what is permitted over the change of user, as container runtimes do; a second one has lost it.
    check(&capable, &["--no-new-privs"], "√ CAP_NET_RAW: effective", "")?;
    let again = program("setpriv", "util-linux")?.display().to_string();
    let how = [again.as_str(), "--no-new-privs"];
    check(&capable, &how, "× CAP_NET_RAW: missing: in the bounding set, but withheld", "allowPrivilegeEscalation")
}

#[test]
fn configuration_that_is_wrong() -> Result<()> {
    let scratch = Run::start()?;
    for name in ["podtap-sidecar", "podtap-analyzer"] {
        check(&run(&scratch, name, &["run", "--no-such-flag"])?, 2, &["--no-such-flag"]);
        check(&run(&scratch, name, &["no-such-command"])?, 2, &["no-such-command"]);
    }
    check(&run(&scratch, "podtap-clickhouse", &["--no-such-flag"])?, 2, &["--no-such-flag"]);
    check(&run(&scratch, "podtap-sidecar", &["print", "--no-such-flag"])?, 2, &["--no-such-flag"]);

    let file = scratch.folder("configuration")?.join("bad.yaml");
    let path = file.display().to_string();
    for name in ["podtap-sidecar", "podtap-analyzer"] {
        fs::write(&file, "no-such-setting: 1\n").context("a bad configuration")?;
        check(&run(&scratch, name, &["run", "--config", &path])?, 78, &["no-such-setting", &path]);
        fs::write(&file, "{ this is: [not yaml\n").context("a bad configuration")?;
        let output = run(&scratch, name, &["run", "--config", &path])?;
        check(&output, 78, &[&path]);
        assert!(!output.stderr.contains("unknown field"), "not YAML at all, and told as something else: {}", output.stderr);
        check(&run(&scratch, name, &["run", "--config", "no-such-file.yaml"])?, 78, &["no-such-file.yaml"]);
    }
    fs::write(&file, "transport: pigeon\n").context("a bad configuration")?;
    check(&run(&scratch, "podtap-sidecar", &["run", "--config", &path])?, 78, &["pigeon", &path, "1:12"]);
    let rules = scratch.folder("configuration")?.join("rules.yaml");
    fs::write(&rules, "rules:\n  - name: Bad\n    nonsense: 1\n").context("bad rules")?;
    let rules = rules.display().to_string();
    check(&run(&scratch, "podtap-analyzer", &["run", "--rules", &rules])?, 78, &[&rules]);
    // A wrong value is a wrong configuration wherever it stands: flag, environment or file; for `config check` as for `run`.
    check(&run(&scratch, "podtap-sidecar", &["print", "-i", "lo", "-f", "tcp prot 80"])?, 78, &["tcp prot 80"]);
    for (flag, wrong) in [
        ("--transport", "pigeon"),
        ("--queue-bytes", "5 furlongs"),
        ("--admin-listen", "here"),
        ("--grpc-endpoint", "not a url"),
        ("--filter", "tcp prot 80"),
        ("--log-level", "=/="),
    ] {
        let value = format!("{flag}={wrong}");
        check(&run(&scratch, "podtap-sidecar", &["run", &value])?, 78, &[wrong]);
        check(&run(&scratch, "podtap-sidecar", &["config", "check", &value])?, 78, &[wrong]);
    }
    check(&run(&scratch, "podtap-analyzer", &["run", "--kafka-partitions=many"])?, 78, &["many"]);
    check(&run(&scratch, "podtap-clickhouse", &["--listen=nowhere"])?, 78, &["nowhere"]);
    let spec = Spec::new(binary("podtap-clickhouse")?, Vec::<&str>::new()).folder(scratch.root()).environment("PODTAP_CONNECTIONS", "none");
    check(&run_to_end(&scratch, &spec, Duration::from_secs(30))?, 78, &["none", "PODTAP_CONNECTIONS"]);
    let spec = Spec::new(binary("podtap-sidecar")?, ["run"]).folder(scratch.root()).environment("PODTAP_SPOOL_BYTES", "many");
    check(&run_to_end(&scratch, &spec, Duration::from_secs(30))?, 78, &["many", "PODTAP_SPOOL_BYTES"]);
    for brokers in ["--kafka-brokers=", "--kafka-brokers=not a broker", "--kafka-brokers=a:9092,b:many"] {
        check(&run(&scratch, "podtap-sidecar", &["config", "check", "--transport=kafka", brokers])?, 78, &["HOST:PORT"]);
        check(&run(&scratch, "podtap-analyzer", &["config", "check", brokers])?, 78, &["HOST:PORT"]);
    }
    check(&run(&scratch, "podtap-analyzer", &["config", "check", "--kafka-partitions=0"])?, 78, &["kafka-partitions"]);
    Ok(())
}

/// The same bytes on every run (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

//! What becomes of a kubelet's text.

use super::*;

const POD: &str = "/kubepods/burstable/pod8a2e0c86-5b0c-4c7c-8a55-0f9f6f0b3c11";

/// A line about a cgroup of a pod.
fn line(metric: &str, container: &str, cgroup: &str, more: &str, value: &str) -> String {
    let id = if cgroup.is_empty() { POD.to_owned() } else { format!("{POD}/{cgroup}") };
    let labels = format!(r#"container="{container}",id="{id}",image="",name="{cgroup}",namespace="shop",pod="back-1"{more}"#);
    format!("{metric}{{{labels}}} {value} 1700000000500\n")
}

#[test]
fn a_container_its_pods_network_and_the_node() {
    let mut text = String::from("# HELP machine_cpu_cores Number of logical CPU cores.\n# TYPE machine_cpu_cores gauge\n");
    text.push_str("machine_cpu_cores{boot_id=\"b\"} 2\nmachine_memory_bytes{boot_id=\"b\"} 8.36767744e+09\n");
    let node = r#"container_cpu_usage_seconds_total{container="",cpu="total",id="/",image="",name="",namespace="",pod=""}"#;
    text.push_str(&format!("{node} 99.5 1700000000000\n"));
    // The pod's own cgroup sums up its containers.
    text.push_str(&line("container_cpu_usage_seconds_total", "", "", ",cpu=\"total\"", "9"));
    text.push_str(&line("container_cpu_usage_seconds_total", "app", "c1", ",cpu=\"total\"", "8.25"));
    text.push_str(&line("container_cpu_usage_seconds_total", "", "sandbox", ",cpu=\"total\"", "0.01"));
    text.push_str(&line("container_start_time_seconds", "app", "c1", "", "1.7e+09"));
    text.push_str(&line("container_spec_cpu_quota", "app", "c1", "", "50000"));
    text.push_str(&line("container_spec_cpu_period", "app", "c1", "", "100000"));
    text.push_str(&line("container_memory_working_set_bytes", "app", "c1", "", "1.048576e+06"));
    text.push_str(&line("container_spec_memory_limit_bytes", "app", "c1", "", "1.34217728e+08"));
    for (interface, value) in [("eth0", "1000"), ("eth1", "10"), ("lo", "5")] {
        let label = format!(",interface=\"{interface}\"");
        text.push_str(&line("container_network_receive_bytes_total", "", "sandbox", &label, value));
        text.push_str(&line("container_network_transmit_errors_total", "", "sandbox", &label, "1"));
    }
    text.push_str("container_network_receive_bytes_total{id=\"/\n");
    let read = read(&text, "node1", 1);
    assert_eq!((read.malformed, read.overflowed, read.samples.len()), (1, 0, 3));
    let of = |container: &str, pod: &str| read.samples.iter().find(|sample| sample.container == container && sample.pod == pod).unwrap();
    let app = of("app", "back-1");
    assert_eq!((app.cpu_usage_seconds, app.cpu_limit_cores, app.start_time_seconds), (8.25, 0.5, 1.7e9));
    assert_eq!((app.memory_working_set_bytes, app.memory_limit_bytes), (1 << 20, 128 << 20));
    assert_eq!((app.container_id.as_str(), app.pod_uid.as_str()), ("c1", "8a2e0c86-5b0c-4c7c-8a55-0f9f6f0b3c11"));
    assert_eq!((app.time_ms, app.node.as_str(), app.network), (1_700_000_000_500, "node1", Network::default()));
    let pod = of("", "back-1");
    assert_eq!(pod.network, Network { receive_bytes: 1_010, transmit_errors: 2, ..Network::default() });
    assert_eq!((pod.cpu_usage_seconds, pod.container_id.as_str()), (0.0, "sandbox"));
    let node = of("", "");
    assert_eq!((node.cpu_usage_seconds, node.cpu_limit_cores, node.memory_limit_bytes), (99.5, 2.0, 8_367_677_440));
}

#[test]
fn uids() {
    let check = |id: &str, expect: Option<&str>| assert_eq!(pod_uid(id).as_deref(), expect, "{id}");
    check("/kubepods/besteffort/pod12-34/abc", Some("12-34"));
    check("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_34.slice/cri-containerd-abc.scope", Some("12-34"));
    check("/system.slice/containerd.service", None);
    check("/", None);
}

#[test]
fn rows_are_capped() {
    let mut text = String::new();
    for number in 0..MAX_ROWS + 3 {
        text.push_str(&line("container_memory_rss", "app", &format!("c{number}"), "", "1"));
    }
    let read = read(&text, "node1", 7);
    assert_eq!((read.samples.len(), read.overflowed), (MAX_ROWS, 3));
}

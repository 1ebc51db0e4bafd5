//! The sidecar: packets in, request records out. The data's way is
//! `capture -> packet -> reassembly -> protocol -> record -> transport`; read the folders in this order.
//!
//! [`pipeline`] is the pure core (no IO, no clock); [`eventloop`] is the only place with threads, sockets and time.

pub mod capture;
pub mod packet;
pub mod pipeline;
pub mod protocol;
pub mod reassembly;
pub mod record;

pub mod admin;
pub mod capabilities;
pub mod config;
pub mod doctor;
pub mod eventloop;
pub mod fingerprint;
pub mod identity;
pub mod memory;
pub mod print;
pub mod telemetry;
pub mod transport;

/// What `--version` and /version say: version, revision, compiler, features.
pub fn version() -> String {
    let kafka = if cfg!(feature = "kafka") { "kafka" } else { "no kafka" };
    let ebpf = match (cfg!(feature = "ebpf"), capture::ebpf::OBJECT.is_some()) {
        (true, true) => "ebpf",
        (true, false) => "ebpf without its object",
        (false, _) => "no ebpf",
    };
    format!("{} ({}; {}; {kafka}, {ebpf})", env!("CARGO_PKG_VERSION"), podtap_wire::REVISION, env!("PODTAP_RUSTC"))
}

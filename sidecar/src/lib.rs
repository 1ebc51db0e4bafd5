//! The sidecar: packets in, request records out. The data's way is
//! `capture -> packet -> reassembly -> protocol -> record -> transport`; read the folders in this order.
//!
//! [`pipeline`] is the pure core (no IO, no clock); `eventloop` is the only place with threads, sockets and time.

pub mod capture;
pub mod pipeline;

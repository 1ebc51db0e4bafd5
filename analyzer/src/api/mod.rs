//! The analyzer's HTTP interface, thin over [`crate::query`]. The only place that knows JSON beside the bodies of notifications.

pub mod http;

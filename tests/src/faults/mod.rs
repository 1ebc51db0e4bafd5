//! Faults on purpose: senders with a known content, processes that are killed, and the comparison of what SQL answers with what
//! was made.
//!
//! [`content`] is the truth, [`journal`] what each sender notes of it, [`stage`] everything that is killed, [`verify`] the comparison.
//! The senders run in `podtap-fault-sender`, through the sidecar's own spool and transports. Do not compare before the senders have
//! ended by themselves: what they hold is neither lost nor stored.

pub mod chance;
pub mod content;
pub mod journal;
pub mod stage;
pub mod traffic;
pub mod verify;

//! Boots that a partition saw first in the middle: what came before is missing, or came in another partition.
//!
//! Guarantee: each is handed out once, to be looked up in the manifests of all partitions. Never look at once: what another partition
//! holds is in a manifest some seconds later.

use std::sync::{Mutex, PoisonError};

use super::marks::SenderBoot;

/// Starts that wait to be looked up: as many as senders can begin anew between two looks, a few hundred bytes each.
pub const MAX_STARTS: usize = 10_000;

/// Where a partition saw a boot first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootStart {
    /// Whose.
    pub boot: SenderBoot,
    /// The sequence that was seen first, above 1.
    pub sequence: u64,
}

/// Starts that wait.
#[derive(Debug, Default)]
pub struct BootStarts(Mutex<Vec<BootStart>>);

impl BootStarts {
    /// Keeps a start; false if too many wait.
    pub fn note(&self, start: BootStart) -> bool {
        let mut starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = starts.len() < MAX_STARTS;
        if room {
            starts.push(start);
        }
        room
    }

    /// All that wait.
    pub fn take(&self) -> Vec<BootStart> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_the_cap() {
        let starts = BootStarts::default();
        let start = |sequence| BootStart { boot: SenderBoot { sender: "a".to_owned(), boot: [1; 16] }, sequence };
        assert!((0..MAX_STARTS as u64).all(|sequence| starts.note(start(sequence))));
        assert!(!starts.note(start(1)));
        assert_eq!(starts.take().len(), MAX_STARTS);
        assert!(starts.take().is_empty() && starts.note(start(2)));
    }
}

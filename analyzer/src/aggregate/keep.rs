//! What becomes of a record as a row of its own: kept longer, kept as an ordinary one, or left out by sampling.
//!
//! Decided from the bytes of the block alone, record by record in order, so that a block that is read again gives the same rows.
//! Histograms count every record, whatever is decided here. Never decide by a random number: a replay would leave rows behind.

use std::hash::{Hash, Hasher};

use podtap_wire::{DecodedBatch, Status, column};
use rustc_hash::FxHasher;

/// How many of a series in a block are its slowest.
const SLOWEST: usize = 2;
/// Before a series has had so many in the block, none is called slow.
const BEFORE_SLOW: u32 = 8;
const MILLION: u32 = 1_000_000;

/// What becomes of a record as a row of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Kept as an ordinary one.
    #[default]
    Ordinary,
    /// Kept longer.
    Kept,
    /// Not kept; it counts in the histograms all the same.
    LeftOut,
}

/// The share of ordinary requests that are kept as rows of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    kept_of_million: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { kept_of_million: MILLION }
    }
}

impl Sampling {
    /// A share from 0 to 1; `None` if it is none.
    pub fn of_share(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then(|| Self { kept_of_million: (share * f64::from(MILLION)).round() as u32 })
    }

    /// A trace is kept whole, in all services; without one each record goes by its place in its sender's order.
    pub fn keeps(self, batch: &DecodedBatch, row: usize) -> bool {
        if self.kept_of_million == MILLION {
            return true;
        }
        let mut hasher = FxHasher::default();
        let trace_id = batch.text(column(&batch.columns().trace_id, row));
        if trace_id.is_empty() {
            (&batch.sender().boot_id, batch.sender().sequence, row).hash(&mut hasher);
        } else {
            trace_id.hash(&mut hasher);
        }
        // The hasher's low bits are its weak ones.
        let mixed = (hasher.finish() ^ (hasher.finish() >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (mixed * u64::from(MILLION)) >> 32 < u64::from(self.kept_of_million)
    }
}

/// The slowest of a series so far in a block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slowest {
    seen: u32,
    longest: [u64; SLOWEST],
}

impl Slowest {
    /// Takes notice of a latency; true if it is among the slowest so far.
    fn is_slow(&mut self, latency: u64) -> bool {
        self.seen = self.seen.saturating_add(1);
        let Some(place) = self.longest.iter().position(|longest| latency > *longest) else { return false };
        self.longest[place..].rotate_right(1);
        self.longest[place] = latency;
        self.seen > BEFORE_SLOW
    }

    /// What becomes of a record of this series; `sampled` says whether it is kept as an ordinary one.
    pub fn fate(&mut self, latency_ns: Option<u64>, status: Status, sampled: impl FnOnce() -> bool) -> Fate {
        let slow = latency_ns.is_some_and(|latency| self.is_slow(latency));
        if slow || status != Status::Ok {
            return Fate::Kept;
        }
        if sampled() { Fate::Ordinary } else { Fate::LeftOut }
    }
}

#[cfg(test)]
mod tests {
    use podtap_wire::proto::Resource;
    use podtap_wire::{BatchBuilder, RequestRecord};

    use super::*;

    #[test]
    fn the_slowest_so_far() {
        let mut slowest = Slowest::default();
        let slow: Vec<bool> = (1..=8).map(|_| slowest.is_slow(100)).collect();
        assert_eq!(slow, [false; 8], "nothing is slow before there is enough to compare with");
        assert!(slowest.is_slow(200));
        assert!(slowest.is_slow(150), "the second slowest");
        assert!(!slowest.is_slow(120));
        assert!(!slowest.is_slow(150), "as slow as before is not slower");
    }

    #[test]
    fn a_share_is_kept_and_traces_are_whole() {
        let half = Sampling::of_share(0.5).unwrap();
        let batch = |sequence, trace_id| {
            let mut builder = BatchBuilder::new("s".to_owned(), [7; 16], Resource::default());
            (0..100).for_each(|_| builder.push(&RequestRecord { trace_id, ..RequestRecord::default() }));
            DecodedBatch::decode(&builder.finish(sequence, 0, Vec::new()).bytes).unwrap()
        };
        let kept = |batch: &DecodedBatch| (0..100).filter(|row| half.keeps(batch, *row)).count();
        let all: usize = (0..1_000).map(|sequence| kept(&batch(sequence, ""))).sum();
        assert!((48_000..52_000).contains(&all), "{all}");
        for trace in ["a", "4bf92f3577b34da6a3ce929d0e0e4736"] {
            let of_batches: Vec<_> = (0..50).map(|sequence| kept(&batch(sequence, trace))).collect();
            assert!(of_batches == [0; 50] || of_batches == [100; 50], "{of_batches:?}");
        }
        assert!(Sampling::of_share(1.5).is_none());
        let nothing = Sampling::of_share(0.0).unwrap();
        assert!(!nothing.keeps(&batch(1, ""), 0));
        assert_eq!(Slowest::default().fate(None, Status::ServerError, || false), Fate::Kept);
    }
}

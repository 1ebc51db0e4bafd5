//! A sparse histogram that is cheap to fill: the buckets of `podtap_wire::histogram` in a sorted vector.
//!
//! A series sees a handful of neighbouring buckets, so a binary search in a vector beats a tree, and the one or two of a rare series need
//! no allocation. Merge with `sumMap` in SQL or `podtap_wire::histogram::Histogram` in memory, never by averaging quantiles.

use podtap_wire::histogram::index;
use smallvec::SmallVec;

/// Occupied buckets and their counts, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseHistogram {
    /// Counts of one block fit: it has at most 2,000 offsets of at most 65,536 records.
    buckets: SmallVec<[(u16, u32); 2]>,
}

impl SparseHistogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        let bucket = index(value);
        match self.buckets.binary_search_by_key(&bucket, |(index, _)| *index) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(1),
            Err(at) => self.buckets.insert(at, (bucket, 1)),
        }
    }

    /// Occupied buckets in ascending order.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = (u16, u64)> + '_ {
        self.buckets.iter().map(|(index, count)| (*index, u64::from(*count)))
    }
}

#[cfg(test)]
mod tests {
    use podtap_wire::histogram::Histogram;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn same_buckets_as_the_contract(values in prop::collection::vec(any::<u64>(), 0..200)) {
            let (mut sparse, mut plain) = (SparseHistogram::default(), Histogram::default());
            for value in values { sparse.record(value); plain.record(value); }
            prop_assert_eq!(sparse.buckets().collect::<Vec<_>>(), plain.buckets().collect::<Vec<_>>());
        }
    }
}

//! A sparse histogram that is cheap to fill: the buckets of `podtap_wire::histogram` in a sorted vector.
//!
//! A series sees a handful of neighbouring buckets, so a binary search in one small allocation beats a tree. Merge with
//! `sumMap` in SQL or `podtap_wire::histogram::Histogram` in memory, never by averaging quantiles.

use podtap_wire::histogram::index;

/// Occupied buckets and their counts, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseHistogram {
    buckets: Vec<(u16, u64)>,
}

impl SparseHistogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        let bucket = index(value);
        match self.buckets.binary_search_by_key(&bucket, |(index, _)| *index) {
            Ok(at) => self.buckets[at].1 += 1,
            Err(at) => self.buckets.insert(at, (bucket, 1)),
        }
    }

    /// Occupied buckets in ascending order.
    pub fn buckets(&self) -> &[(u16, u64)] {
        &self.buckets
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
            prop_assert_eq!(sparse.buckets().to_vec(), plain.buckets().collect::<Vec<_>>());
        }
    }
}

//! What was seen of every sender: proves missing batches and drops those that came twice.
//!
//! A partition holds a sender's batches in the order of their sequence, but for repeats and, rarely, one that was overtaken:
//! so a mark is the highest sequence and the holes below it. State changes only by what is in the log. Never prune by a clock.

use std::collections::BTreeMap;

/// Holes remembered for one sender; of more, the oldest are given up (a batch that fills one later counts as a duplicate).
pub const MAX_HOLES: usize = 32;
/// Senders' boots remembered in a partition; of more, those silent for longest are forgotten.
pub const MAX_SENDERS: usize = 20_000;
/// A sender's boot is forgotten after this time without a batch, by the time stamps of messages.
pub const FORGET_AFTER_NS: u64 = 7 * 86_400 * 1_000_000_000;

/// One start of one sender.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderBoot {
    /// `Sender.id`.
    pub sender: String,
    /// `Sender.boot_id`.
    pub boot: [u8; 16],
}

/// What was seen of one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The highest sequence seen.
    pub highest: u64,
    /// Sequences below it that were not seen, ascending, both ends included.
    pub holes: Vec<(u64, u64)>,
    /// Time stamp of its youngest message.
    pub seen_ns: u64,
}

/// What a batch turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The first of its boot in this partition. What precedes it is missing, or lies in another partition: manifests say.
    First,
    /// Seen for the first time, and this many between it and the highest before are missing now.
    New { missing: u64 },
    /// Seen for the first time, in a hole.
    Late,
    /// Seen before.
    Duplicate,
}

/// The marks of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    senders: BTreeMap<SenderBoot, Mark>,
    latest_ns: u64,
}

impl Marks {
    /// Marks as a manifest kept them.
    pub fn from_entries(entries: impl IntoIterator<Item = (SenderBoot, Mark)>) -> Self {
        let senders: BTreeMap<_, _> = entries.into_iter().collect();
        let latest_ns = senders.values().map(|mark| mark.seen_ns).max().unwrap_or_default();
        Self { senders, latest_ns }
    }

    /// All marks in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&SenderBoot, &Mark)> {
        self.senders.iter()
    }

    /// Takes notice of a batch.
    pub fn observe(&mut self, boot: &SenderBoot, sequence: u64, message_time_ns: u64) -> Sighting {
        if let Some(sighting) = self.advance(boot, sequence.saturating_sub(1), sequence, message_time_ns) {
            return sighting;
        }
        let filled = self.senders.get_mut(boot).is_some_and(|mark| mark.fill(sequence));
        if filled { Sighting::Late } else { Sighting::Duplicate }
    }

    /// Takes notice of a boot's end: it had made batches up to `last`, and those that were not seen are missing.
    pub fn end(&mut self, boot: &SenderBoot, last: u64, message_time_ns: u64) -> Sighting {
        self.advance(boot, last, last, message_time_ns).unwrap_or(Sighting::Duplicate)
    }

    /// Moves a boot's mark on to `highest`, what was not seen up to `missing_to` being missing; `None` if it is that far already.
    fn advance(&mut self, boot: &SenderBoot, missing_to: u64, highest: u64, message_time_ns: u64) -> Option<Sighting> {
        self.latest_ns = self.latest_ns.max(message_time_ns);
        let Some(mark) = self.senders.get_mut(boot) else {
            let mut mark = Mark { seen_ns: message_time_ns, ..Mark::default() };
            mark.miss_up_to(missing_to);
            mark.highest = highest;
            self.senders.insert(boot.clone(), mark);
            return Some(Sighting::First);
        };
        mark.seen_ns = mark.seen_ns.max(message_time_ns);
        if highest <= mark.highest {
            return None;
        }
        let missing = mark.miss_up_to(missing_to);
        mark.highest = highest;
        Some(Sighting::New { missing })
    }

    /// Forgets who has been silent for long; called at the end of each block, so at the same place whoever reads.
    pub fn prune(&mut self) {
        let horizon = self.latest_ns.saturating_sub(FORGET_AFTER_NS);
        self.senders.retain(|_, mark| mark.seen_ns >= horizon);
        if self.senders.len() > MAX_SENDERS {
            let mut by_age: Vec<_> = self.senders.iter().map(|(boot, mark)| (mark.seen_ns, boot.clone())).collect();
            by_age.sort_unstable();
            for (_, boot) in by_age.into_iter().take(self.senders.len() - MAX_SENDERS) {
                self.senders.remove(&boot);
            }
        }
        // A manifest keeps no more than the marks, so what is resumed from one must not know more either.
        self.latest_ns = self.senders.values().map(|mark| mark.seen_ns).max().unwrap_or_default();
    }
}

impl Mark {
    /// Says how many behind the highest were not seen.
    fn miss_up_to(&mut self, last: u64) -> u64 {
        let missing = last.saturating_sub(self.highest);
        if missing > 0 {
            self.holes.push((self.highest + 1, last));
            if self.holes.len() > MAX_HOLES {
                self.holes.remove(0);
            }
        }
        missing
    }

    fn fill(&mut self, sequence: u64) -> bool {
        let Some(at) = self.holes.iter().position(|(from, to)| (*from..=*to).contains(&sequence)) else { return false };
        let (from, to) = self.holes.remove(at);
        if sequence < to {
            self.holes.insert(at, (sequence + 1, to));
        }
        if from < sequence {
            self.holes.insert(at, (from, sequence - 1));
        }
        true
    }
}

/// Sequences that were received, as ranges in the order of arrival: what a manifest keeps so that SQL can name what is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    ranges: BTreeMap<SenderBoot, Vec<(u64, u64)>>,
}

impl Received {
    /// Adds a sequence that was not a duplicate.
    pub fn add(&mut self, boot: &SenderBoot, sequence: u64) {
        let Some(ranges) = self.ranges.get_mut(boot) else {
            self.ranges.insert(boot.clone(), vec![(sequence, sequence)]);
            return;
        };
        match ranges.last_mut() {
            Some((_, to)) if to.checked_add(1) == Some(sequence) => *to = sequence,
            _ => ranges.push((sequence, sequence)),
        }
    }

    /// Adds a boot's end as the empty range behind `last`: nothing was received, and what is not up to it is missing.
    pub fn end(&mut self, boot: &SenderBoot, last: u64) {
        self.ranges.entry(boot.clone()).or_default().push((last.saturating_add(1), last));
    }

    /// Every range: boot, first and last sequence.
    pub fn ranges(&self) -> impl Iterator<Item = (&SenderBoot, u64, u64)> {
        self.ranges.iter().flat_map(|(boot, ranges)| ranges.iter().map(move |(from, to)| (boot, *from, *to)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boot(name: &str) -> SenderBoot {
        SenderBoot { sender: name.to_owned(), boot: [1; 16] }
    }

    fn check(sequences: &[u64], expect: &[Sighting]) {
        let mut marks = Marks::default();
        let seen: Vec<_> = sequences.iter().map(|sequence| marks.observe(&boot("a"), *sequence, 5)).collect();
        assert_eq!(seen, expect);
    }

    #[test]
    fn sightings() {
        let new = |missing| Sighting::New { missing };
        let first = Sighting::First;
        check(&[1, 2, 2, 1], &[first, new(0), Sighting::Duplicate, Sighting::Duplicate]);
        check(
            &[1, 5, 3, 3, 2, 4, 4],
            &[first, new(3), Sighting::Late, Sighting::Duplicate, Sighting::Late, Sighting::Late, Sighting::Duplicate],
        );
        check(&[7, 6, 8], &[first, Sighting::Late, new(0)]);
        check(&[u64::MAX, u64::MAX], &[first, Sighting::Duplicate]);
    }

    #[test]
    fn an_end_tells_what_is_missing_and_may_come_again() {
        let mut marks = Marks::default();
        let a = boot("a");
        assert!((1..=4).all(|sequence| matches!(marks.observe(&a, sequence, 5), Sighting::First | Sighting::New { missing: 0 })));
        assert_eq!(marks.end(&a, 7, 6), Sighting::New { missing: 3 });
        assert_eq!(marks.end(&a, 7, 7), Sighting::Duplicate);
        // Should one come all the same, it counts once.
        assert_eq!(marks.observe(&a, 6, 8), Sighting::Late);
        assert_eq!(marks.observe(&a, 6, 8), Sighting::Duplicate);
        assert_eq!(marks.end(&boot("another partition's"), 7, 6), Sighting::First);
        let mark = marks.entries().next().unwrap().1;
        assert_eq!((mark.highest, mark.holes.as_slice()), (7, &[(5, 5), (7, 7)][..]));

        let mut received = Received::default();
        (1..=4).for_each(|sequence| received.add(&a, sequence));
        received.end(&a, 7);
        received.add(&a, 6);
        let ranges: Vec<_> = received.ranges().map(|(_, from, to)| (from, to)).collect();
        assert_eq!(ranges, [(1, 4), (8, 7), (6, 6)]);
    }

    #[test]
    fn the_silent_are_forgotten_by_message_time() {
        let mut marks = Marks::default();
        marks.observe(&boot("old"), 1, 1);
        marks.observe(&boot("new"), 1, FORGET_AFTER_NS + 2);
        marks.prune();
        assert_eq!(marks.entries().map(|(boot, _)| boot.sender.as_str()).collect::<Vec<_>>(), ["new"]);
        assert_eq!(Marks::from_entries(marks.entries().map(|(boot, mark)| (boot.clone(), mark.clone()))), marks);
    }

    proptest! {
        #[test]
        fn each_sequence_counts_once(sequences in prop::collection::vec(1u64..40, 0..120)) {
            let mut marks = Marks::default();
            let mut counted: Vec<u64> = sequences
                .iter()
                .filter(|sequence| marks.observe(&boot("a"), **sequence, 1) != Sighting::Duplicate)
                .copied()
                .collect();
            counted.sort_unstable();
            let mut expect = sequences;
            expect.sort_unstable();
            expect.dedup();
            prop_assert_eq!(counted, expect);
        }
    }
}

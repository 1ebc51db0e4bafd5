//! One direction of a connection: where it stands, and what is held back.

use super::limits::{HOLE_TIMEOUT_NS, REORDER_WINDOW_NS};
use super::{Counters, distance, is_far};

/// A segment that cannot be handed out yet.
#[derive(Debug)]
pub(super) struct Held {
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// Capture time.
    pub time_ns: u64,
    /// Acknowledgment number it carried.
    pub acknowledgment: Option<u32>,
    /// Ends the stream.
    pub fin: bool,
    /// Bytes on the wire that the snap length cut off after `bytes`.
    pub cut: u32,
    /// Payload.
    pub bytes: Vec<u8>,
}

impl Held {
    /// Memory that it takes: of tiny segments the bytes are the smallest part.
    pub fn cost(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Sequence number of offset 0; meaningful once `synced`.
    pub base: u32,
    /// Offset of the next byte to hand out.
    pub offset: u64,
    /// Sequence number of that byte (after a FIN one more, as FIN takes a number).
    pub next: u32,
    /// Highest acknowledgment number that the peer sent.
    pub acked: u32,
    /// Acknowledgment number of a segment that was handed out although what it acknowledges was not, because both ends waited for each
    /// other: nothing is waited for up to there any more, in whatever pieces the segment came.
    pub passed: Option<u32>,
    /// `base` is known.
    pub synced: bool,
    /// FIN was handed out.
    pub finished: bool,
    /// Segments that wait, by sequence number.
    pub held: Vec<Held>,
    /// First sequence number that the source still sends after it was asked to leave bytes out.
    pub skip_until: Option<u32>,
    /// When the hole in front of `next` is believed; `u64::MAX` while there is none.
    pub deadline: u64,
    /// Where the hole of `deadline` begins: one further on is another hole, with a time of its own.
    pub hole_start: u32,
    /// How often an acknowledgment of the connection had gone on when `deadline` was set.
    pub noticed: u32,
}

impl Stream {
    /// Fixes the numbering: the byte with this sequence number has offset 0.
    pub fn sync(&mut self, base: u32) {
        *self = Self { base, next: base, acked: base, synced: true, deadline: u64::MAX, ..Self::default() };
    }

    /// The offset that an acknowledgment number of the peer stands for.
    pub fn offset_of(&self, sequence: u32) -> u64 {
        self.offset.saturating_add_signed(i64::from(distance(self.next, sequence)))
    }

    /// True if the peer has acknowledged bytes that were not handed out.
    pub fn acknowledged_beyond(&self) -> bool {
        distance(self.next, self.acked) > 0
    }

    /// True if the next bytes are there and only wait for the peer's stream.
    pub fn is_blocked(&self) -> bool {
        self.held.first().is_some_and(|first| distance(self.next, first.sequence) <= 0)
    }

    /// True if a segment that acknowledges so much waits for the peer's stream: its sender had received bytes that were not handed out yet.
    pub fn waits_for(&self, peer: &Self, acknowledgment: Option<u32>) -> bool {
        acknowledgment.is_some_and(|number| {
            let is_behind = peer.synced && !peer.finished && distance(peer.next, number) > 0 && !is_far(peer.next, number);
            is_behind && self.passed.is_none_or(|passed| distance(passed, number) > 0)
        })
    }

    /// True if bytes are missing in front of what is held, or in front of what the peer acknowledged. Behind a FIN nothing is missing.
    pub fn has_hole(&self) -> bool {
        self.synced && !self.finished && !self.is_blocked() && (self.acknowledged_beyond() || !self.held.is_empty())
    }

    /// True if the time of the hole in front of `next` is over.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.hole_start == self.next && self.deadline <= now_ns
    }

    /// Sets the time at which the hole is believed. It begins anew whenever the hole does, so that it depends on what is missing and
    /// not on the pieces in which the rest came.
    pub fn set_deadline(&mut self, now_ns: u64, step: u32) {
        if !self.has_hole() {
            self.deadline = u64::MAX;
            return;
        }
        let waiting = if self.hole_start == self.next { self.deadline } else { u64::MAX };
        let patience = if self.acknowledged_beyond() { REORDER_WINDOW_NS } else { HOLE_TIMEOUT_NS };
        let wanted = now_ns.saturating_add(patience);
        if wanted < waiting {
            (self.deadline, self.noticed) = (wanted, step);
        } else {
            self.deadline = waiting;
        }
        self.hole_start = self.next;
    }

    /// Counts bytes of a segment that came behind the FIN, or once more.
    pub fn pass(&self, sequence: u32, length: usize, counters: &mut Counters) {
        // FIN took the number in front of `next`.
        let old = (distance(sequence, self.next.wrapping_sub(1)).max(0) as usize).min(length);
        counters.duplicate_bytes += old as u64;
        counters.after_close_bytes += (length - old) as u64;
    }

    /// Where the hole ends: the first byte that is there, or that the peer has.
    pub fn hole_end(&self) -> Option<u32> {
        let held = self.held.first().map(|first| first.sequence);
        let acked = self.acknowledged_beyond().then_some(self.acked);
        match (held, acked) {
            (Some(held), Some(acked)) => Some(if distance(held, acked) < 0 { acked } else { held }),
            (held, acked) => held.or(acked),
        }
    }

    /// Keeps a segment for later, in the order of sequence numbers; of equal ones the first seen stays first.
    pub fn hold(&mut self, held: Held) {
        let next = self.next;
        let position = self.held.partition_point(|other| distance(next, other.sequence) <= distance(next, held.sequence));
        self.held.insert(position, held);
    }
}

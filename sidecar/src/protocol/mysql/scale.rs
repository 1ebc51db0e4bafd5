//! How many bytes on the wire unpacked bytes were.
//!
//! Guarantee: bytes of one packet weigh the same, so that sizes do not depend on how the packet was cut into segments; of a packet that is
//! not read to its end no more is counted than has come, save what an exchange had that was finished within it. Misuse to avoid: asking for
//! bytes in front of those that were said to be needed no more.

use std::collections::VecDeque;

use super::super::{Decoder, Discard, Input, Output, Progress, Sender};
use super::decoder::Mysql;

/// A packet's place among unpacked bytes, and its share of the bytes on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Offset of the first unpacked byte.
    pub start: u64,
    /// TCP sequence number of the header.
    pub sequence: u32,
    pub unpacked: u64,
    pub wire: u64,
}

/// How many bytes on the wire unpacked bytes were: sizes in records are TCP payload. Within a packet all bytes weigh the same.
#[derive(Debug, Default)]
pub(super) struct Scale {
    pub(super) places: VecDeque<Place>,
    /// Bytes on the wire of the packets that were dropped from `places`.
    before: u64,
    /// Bytes of the last packet that are still to come.
    pub(super) missing: u64,
}

impl Scale {
    /// A packet begins of which the header, so long, has come; bytes in front of `needed` will not be asked for again.
    pub fn push(&mut self, place: Place, header: u64, needed: u64) {
        while let Some(first) = self.places.front()
            && first.start + first.unpacked <= needed
        {
            self.before += first.wire;
            self.places.pop_front();
        }
        self.missing = place.wire - header;
        self.places.push_back(place);
    }

    /// By how much the share of all bytes in front of `offset` is more than what has come.
    pub fn excess(&self, offset: u64) -> u64 {
        let whole: u64 = self.before + self.places.iter().map(|place| place.wire).sum::<u64>();
        (self.at(offset) + self.missing).saturating_sub(whole)
    }

    pub fn at(&self, offset: u64) -> u64 {
        let mut wire = self.before;
        for place in &self.places {
            let inside = offset.saturating_sub(place.start).min(place.unpacked);
            if inside == place.unpacked {
                wire += place.wire;
            } else {
                return wire + place.wire * inside / place.unpacked;
            }
        }
        wire
    }

    /// The last packet's bytes up to `offset` came out of `arrived` bytes on the wire, less than their share; the rest of the packet is a
    /// place of its own, which never comes or is of no use.
    pub fn split(&mut self, offset: u64, arrived: u64) {
        let Some(place) = self.places.back_mut() else { return };
        let inside = offset.saturating_sub(place.start).min(place.unpacked);
        let rest = Place {
            start: place.start + inside,
            sequence: place.sequence.wrapping_add(inside as u32),
            unpacked: place.unpacked - inside,
            wire: place.wire.saturating_sub(arrived),
        };
        (place.unpacked, place.wire) = (inside, arrived);
        self.places.push_back(rest);
    }

    /// TCP sequence number that stands for an unpacked byte: that of its packet's header and the byte's place in the packet. Both ends
    /// tell the same, wherever they joined.
    pub fn sequence(&self, offset: u64) -> Option<u32> {
        let place = self.places.iter().rev().find(|place| place.start <= offset)?;
        Some(place.sequence.wrapping_add((offset - place.start) as u32))
    }

    /// The share of `length` unpacked bytes from `offset` on.
    pub fn wire(&self, offset: u64, length: usize) -> u64 {
        self.at(offset + length as u64) - self.at(offset)
    }
}

impl Mysql {
    /// What unpacked bytes of an end are on the wire.
    pub fn scale(&mut self, sender: Sender) -> &mut Scale {
        &mut self.scales.get_or_insert_default()[sender as usize]
    }

    /// TCP payload of the first `end` bytes of the input.
    pub fn wire(&self, input: &Input<'_>, end: usize) -> u64 {
        match &self.scales {
            None => end as u64,
            Some(scales) => scales[input.sender as usize].wire(input.offset, end),
        }
    }

    /// TCP sequence number of the first byte of the input.
    pub fn sequence(&self, input: &Input<'_>) -> u32 {
        let unpacked = self.scales.as_ref().and_then(|scales| scales[input.sender as usize].sequence(input.offset));
        unpacked.unwrap_or_else(|| input.sequence_at(0))
    }

    /// Takes bytes back that were counted to the exchange whose bytes an end is sending; returns how many.
    pub fn uncount(&mut self, sender: Sender, excess: u64) -> u64 {
        let part = match sender {
            Sender::Client => self.receiver().map(|exchange| &mut exchange.request),
            Sender::Server => self.pairing.front().map(|exchange| &mut exchange.response),
        };
        let taken = part.map_or(0, |part| {
            let taken = excess.min(part.bytes);
            part.bytes -= taken;
            taken
        });
        self.taken_back += taken;
        taken
    }

    /// The packet that the input is of will not be read further: what was counted of it is no more than has come.
    pub fn give_up(&mut self, input: &Input<'_>) {
        let excess = self.scales.as_ref().map_or(0, |scales| scales[input.sender as usize].excess(input.offset));
        self.uncount(input.sender, excess);
    }

    /// Takes as much as it can of unpacked bytes; tells how much, and what it needs to go on.
    pub fn feed(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> (usize, usize) {
        let mut rest = *input;
        let mut need = 0;
        while !rest.data.is_empty() {
            let discarded = out.outbox.discarded;
            let taken_back = self.taken_back;
            match self.data(&rest, out) {
                Progress::Consumed(length) if length > 0 => {
                    let taken_back = self.taken_back - taken_back;
                    self.weigh(&rest, length, discarded, taken_back, out);
                    rest = rest.after(length);
                }
                Progress::Consumed(_) => break,
                Progress::Need(length) => {
                    need = length;
                    break;
                }
                Progress::Reject => {
                    self.rejected = true;
                    break;
                }
            }
        }
        (input.data.len() - rest.data.len(), need)
    }

    /// Counts what was passed over as it was on the wire; of a packet that was given up, no more than has come.
    fn weigh(&mut self, input: &Input<'_>, length: usize, discarded: [u64; Discard::ALL.len()], taken_back: u64, out: &mut Output<'_>) {
        let wire = self.wire(input, length);
        let mut excess = match self.is_lost(input.sender) {
            true => self.scale(input.sender).excess(input.offset + length as u64).saturating_sub(taken_back),
            false => 0,
        };
        for (now, before) in out.outbox.discarded.iter_mut().zip(discarded) {
            let counted = (*now - before) * wire / length as u64;
            let kept = counted.saturating_sub(excess);
            excess -= counted - kept;
            *now = before + kept;
        }
    }
}

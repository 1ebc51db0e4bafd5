//! The compressed protocol (MySQL Source Code Documentation, "Compression"; MariaDB, "Compressed packet"): unpacks what comes behind
//! the login and hands it to [`Mysql`] as if it had been sent so.
//!
//! Offsets of unpacked bytes begin at that of the first compressed packet and go on without regard to how the bytes were packed; sizes and
//! sequence numbers in records are those on the wire ([`Scale`]). Guarantee: a packet that cannot be unpacked, or of
//! which a part is missing, becomes a hole as long as the packet says it was before packing.

use super::super::unpack::{PIECE, Refusal, Unpacker};
use super::super::{Decoder, Discard, Ending, Gap, Input, Output, Progress, Sender, Start};
use super::command;
use super::decoder::{Mysql, discard_all, discard_segment};
use super::frame;
use super::scale::{Place, Scale};
use crate::reassembly::{Close, Mark};

/// Bytes of a header: length (3, little endian), sequence number (1), length before packing (3).
const HEADER: usize = 7;

/// Header of a compressed packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Bytes behind the header.
    length: usize,
    sequence: u8,
    /// What they are when unpacked; 0 where they are not packed.
    unpacked: usize,
}

impl Header {
    fn parse(data: &[u8]) -> Option<Self> {
        let frame::Header { length, sequence } = frame::Header::parse(data)?;
        let [a, b, c, ..] = *data.get(frame::HEADER..)? else { return None };
        Some(Self { length, sequence, unpacked: usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16 })
    }
}

/// Whether a segment of a client begins with a command that was too short to be packed: one that fills its packet, however much of it is
/// there, or several in one segment. `None` if a few bytes more are needed to tell.
pub(super) fn begins(data: &[u8]) -> Option<bool> {
    if is_certain(data) {
        return Some(true);
    }
    let Some(header) = frame::Header::parse(data) else { return Some(false) };
    let zeros = data.get(frame::HEADER..).unwrap_or_default().iter().take(HEADER - frame::HEADER).all(|byte| *byte == 0);
    if header.sequence != 0 || header.length <= frame::HEADER || !zeros || data.len() == frame::HEADER {
        return Some(false);
    }
    let inside = data.get(HEADER..).unwrap_or_default();
    let length = header.length - frame::HEADER;
    let inner = [length as u8, (length >> 8) as u8, (length >> 16) as u8, 0];
    if !inside.iter().zip(&inner).all(|(seen, wanted)| seen == wanted) {
        return Some(false);
    }
    let payload = inside.get(inner.len()..).filter(|payload| !payload.is_empty())?;
    Some(command::is_plausible(payload, length))
}

/// Bytes that [`begins`] needs to tell.
const BEGINNING: usize = HEADER + frame::HEADER + 1;

/// Whether a segment of a client that compresses begins with a packet, where the position was lost: only a command's packet has the number
/// 0, and it is all there, or says so by what it begins with. `None` if a few bytes more are needed to tell.
fn begins_again(data: &[u8]) -> Option<bool> {
    let Some(header) = Header::parse(data) else {
        return if data.get(3).is_none_or(|sequence| *sequence == 0) { None } else { Some(false) };
    };
    if header.sequence != 0 || header.length == 0 {
        return Some(false);
    }
    if header.length + HEADER <= data.len() {
        return Some(true);
    }
    if header.unpacked == 0 {
        return begins(data);
    }
    let inside = data.get(HEADER..).unwrap_or_default();
    let whole = data.len() >= BEGINNING;
    let packed = header.unpacked > header.length;
    match MAGIC.iter().any(|magic| inside.iter().zip(*magic).all(|(seen, wanted)| seen == wanted)) && packed {
        true if whole => Some(true),
        true => None,
        false => Some(false),
    }
}

/// What packed bytes begin with: zlib with the usual window and a level (RFC 1950, 2.2), Zstandard (RFC 8878, 3.1.1).
const MAGIC: [&[u8]; 5] = [&[0x78, 0x01], &[0x78, 0x5e], &[0x78, 0x9c], &[0x78, 0xda], &[0x28, 0xb5, 0x2f, 0xfd]];

/// Whether a segment holds exactly a command, or several, that was too short to be packed.
fn is_certain(data: &[u8]) -> bool {
    let Some(header) = Header::parse(data) else { return false };
    let Some(inside) = data.get(HEADER..) else { return false };
    let whole = header.sequence == 0 && header.unpacked == 0 && header.length == inside.len();
    whole
        && frame::Header::parse(inside).is_some_and(|inner| {
            let payload = inside.get(frame::HEADER..).unwrap_or_default();
            inner.sequence == 0 && inner.length > 0 && command::is_certain(payload, inner.length)
        })
}

/// The unpacking of one stream.
#[derive(Debug, Default)]
struct Stream {
    /// Offset behind the last unpacked byte; `None` before the first.
    offset: Option<u64>,
    /// Bytes of the current packet that are still to come.
    left: usize,
    /// What they are when unpacked.
    unpacked_left: usize,
    /// The current packet is packed.
    packed: bool,
    /// Why the rest of the current packet is of no use, and how many of its bytes on the wire are counted for that when they come.
    skipping: Option<(Discard, usize)>,
    /// What is known about the current packet's header, until its first unpacked byte.
    header: Option<Mark>,
    /// The current packet's last byte, until all of the packet is there.
    held: Option<u8>,
    /// Position unknown.
    lost: bool,
    unpacker: Option<Box<Unpacker>>,
    /// Unpacked bytes of an incomplete message.
    kept: Vec<u8>,
    marks: Vec<Mark>,
    need: usize,
}

impl Stream {
    /// Forgets the current packet and what is incomplete.
    fn clear(&mut self, scale: &mut Scale, out: &mut Output<'_>) {
        self.release(out);
        out.outbox.buffered_bytes -= self.kept.len();
        let first = self.marks.first().map(|mark| mark.offset);
        if let Some((first, end)) = first.zip(self.offset) {
            out.discard(Discard::Resync, scale.wire(first, (end - first) as usize) as usize);
        }
        *scale = Scale::default();
        *self = Self::default();
    }

    fn release(&mut self, out: &mut Output<'_>) {
        if let Some(unpacker) = self.unpacker.take() {
            out.outbox.unpackers.give_back(*unpacker);
        }
    }
}

/// A connection that may turn to compression.
#[derive(Debug)]
pub(super) struct Envelope {
    mysql: Mysql,
    /// Made when a stream turns.
    streams: Option<Box<[Stream; 2]>>,
}

/// The unpacking of an end's stream, made when it is first asked for.
fn stream(streams: &mut Option<Box<[Stream; 2]>>, sender: Sender) -> &mut Stream {
    &mut streams.get_or_insert_default()[sender as usize]
}

impl Envelope {
    pub fn new(start: Start) -> Self {
        Self { mysql: Mysql::new(start), streams: None }
    }

    /// Whether bytes are packed; `None` if more of them are needed to tell.
    fn is_packed(&mut self, input: &Input<'_>) -> Option<bool> {
        if input.sender == Sender::Client && self.mysql.turns(input.data)? {
            // What answers the login is not compressed.
            let waits = self.mysql.awaits_login();
            let [client, server] = &mut self.mysql.packed;
            *client = true;
            if !waits && !std::mem::replace(server, true) {
                // Until a request tells where an answer begins.
                stream(&mut self.streams, Sender::Server).lost = true;
            }
        }
        Some(self.mysql.packed[input.sender as usize])
    }

    fn packed_data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let stream = stream(&mut self.streams, input.sender);
        if stream.left > 0 {
            return self.packet(input, out);
        }
        if stream.lost {
            if input.sender == Sender::Server {
                return discard_all(input, Discard::Resync, out);
            }
            match begins_again(input.data) {
                None => return Progress::Need(BEGINNING),
                Some(false) => {
                    self.mysql.pairing.pass_requests(input.acknowledged_at(0));
                    return discard_segment(input, Discard::Resync, out);
                }
                Some(true) => {}
            }
            stream.lost = false;
            stream.offset = None;
        }
        let Some(header) = Header::parse(input.data) else { return Progress::Need(HEADER) };
        if header.length == 0 {
            out.discard(Discard::Malformed, HEADER);
            self.lose(input.sender, 0, out);
            return Progress::Consumed(HEADER);
        }
        let start = *stream.offset.get_or_insert(input.offset);
        stream.left = header.length;
        stream.packed = header.unpacked > 0;
        stream.unpacked_left = if stream.packed { header.unpacked } else { header.length };
        stream.skipping = None;
        stream.held = None;
        stream.header = Some(input.segment().0);
        let needed = stream.marks.first().map_or(start, |mark| mark.offset);
        let sequence = input.sequence_at(0);
        let place = Place { start, sequence, unpacked: stream.unpacked_left as u64, wire: (HEADER + header.length) as u64 };
        self.mysql.scale(input.sender).push(place, HEADER as u64, needed);
        if stream.packed {
            match out.outbox.unpackers.lend(header.unpacked) {
                Ok(unpacker) => stream.unpacker = Some(unpacker),
                Err(why) => self.skip(input.sender, why, 0, out),
            }
        }
        Progress::Consumed(HEADER)
    }

    /// Takes bytes of the current packet that came in one segment.
    fn packet(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let stream = stream(&mut self.streams, input.sender);
        let (mark, segment) = input.segment();
        let length = stream.left.min(segment.len());
        let Some(bytes) = segment.get(..length) else { return Progress::Reject };
        stream.left -= length;
        let over = stream.left == 0;
        self.mysql.scale(input.sender).missing = stream.left as u64;
        let outcome = if let Some((why, uncounted)) = &mut stream.skipping {
            let counted = length.min(*uncounted);
            *uncounted -= counted;
            out.discard(*why, counted);
            Ok(())
        } else if stream.packed {
            self.unpack(input.sender, mark, bytes, out)
        } else {
            stream.unpacked_left -= length;
            self.hand_on(input.sender, mark, bytes, out);
            Ok(())
        };
        if let Err(why) = outcome {
            self.skip(input.sender, why, 0, out);
        }
        if over {
            self.end_packet(input.sender, mark, out);
        }
        if self.mysql.rejected {
            return Progress::Reject;
        }
        Progress::Consumed(length)
    }

    fn unpack(&mut self, sender: Sender, mark: Mark, mut bytes: &[u8], out: &mut Output<'_>) -> Result<(), Refusal> {
        let mut piece = out.outbox.unpackers.take_piece();
        let outcome = loop {
            let stream = stream(&mut self.streams, sender);
            let Some(unpacker) = &mut stream.unpacker else { break Ok(()) };
            // One byte more than was announced is one too many.
            let room = (stream.unpacked_left + 1).min(PIECE);
            let Some(output) = piece.get_mut(..room) else { break Err(Refusal::Malformed) };
            let (read, written) = match out.outbox.unpackers.run(unpacker, bytes, output) {
                Ok(done) => done,
                Err(why) => break Err(why),
            };
            bytes = bytes.get(read..).unwrap_or_default();
            if written > stream.unpacked_left {
                break Err(Refusal::Malformed);
            }
            stream.unpacked_left -= written;
            // The last byte is there when its packet is: a checksum may come in the next segment.
            let held = usize::from(stream.unpacked_left == 0 && stream.left > 0 && written > 0);
            let Some((unpacked, last)) = piece.get(..written).and_then(|piece| piece.split_at_checked(written - held)) else {
                break Err(Refusal::Malformed);
            };
            stream.held = stream.held.or(last.first().copied());
            self.hand_on(sender, mark, unpacked, out);
            // A full piece may have more behind it although all input was read.
            if (read == 0 && written == 0) || (bytes.is_empty() && written < room) {
                break if bytes.is_empty() { Ok(()) } else { Err(Refusal::Malformed) };
            }
        };
        out.outbox.unpackers.keep_piece(piece);
        outcome
    }

    /// The current packet will not be unpacked further, and `lost` of its bytes were not seen. What was unpacked counts by its share of the
    /// whole packet, which may be more than has come: the excess is taken back from the exchange that is open. Returns what could not be
    /// taken back, because the exchange is finished.
    fn take_back(&mut self, sender: Sender, lost: u64) -> usize {
        let Some(stream) = self.streams.as_deref().map(|streams| &streams[sender as usize]) else { return 0 };
        let (Some(offset), left) = (stream.offset, stream.left as u64) else { return 0 };
        let first = stream.marks.first().map_or(offset, |mark| mark.offset);
        let scale = self.mysql.scale(sender);
        let Some(place) = scale.places.back().copied() else { return 0 };
        let arrived = place.wire.saturating_sub(left + lost);
        if scale.wire(place.start, offset.saturating_sub(place.start) as usize) <= arrived {
            return 0;
        }
        let counted = scale.at(first);
        scale.split(offset, arrived);
        let excess = counted - scale.at(first);
        (excess - self.mysql.uncount(sender, excess)) as usize
    }

    /// What is left of the current packet cannot be unpacked, or `lost` of it were not seen: it becomes a hole.
    fn skip(&mut self, sender: Sender, why: Refusal, lost: u64, out: &mut Output<'_>) {
        let stream = stream(&mut self.streams, sender);
        stream.release(out);
        let held = usize::from(stream.held.take().is_some());
        let missing = std::mem::take(&mut stream.unpacked_left) + held;
        let reason = match why {
            Refusal::Full => Discard::BufferFull,
            Refusal::Malformed if lost > 0 => Discard::Resync,
            Refusal::Malformed => Discard::Malformed,
        };
        let excess = self.take_back(sender, lost);
        let Some(stream) = self.streams.as_deref_mut().map(|streams| &mut streams[sender as usize]) else { return };
        let rest = self.mysql.scale(sender).wire(stream.offset.unwrap_or(0), missing);
        let useless = rest.saturating_sub(lost).saturating_sub(excess as u64) as usize;
        // What the packet says it has may never come.
        let uncounted = useless.min(stream.left);
        stream.skipping = Some((reason, uncounted));
        out.discard(reason, useless - uncounted);
        self.hole(sender, missing as u64, lost.min(rest), out);
    }

    fn end_packet(&mut self, sender: Sender, mark: Mark, out: &mut Output<'_>) {
        let stream = stream(&mut self.streams, sender);
        if stream.unpacked_left > 0 {
            self.skip(sender, Refusal::Malformed, 0, out);
            return;
        }
        stream.release(out);
        if let Some(byte) = stream.held.take() {
            self.hand_on(sender, mark, &[byte], out);
        }
    }

    /// Lends unpacked bytes to the decoder, and keeps what it leaves.
    fn hand_on(&mut self, sender: Sender, mark: Mark, bytes: &[u8], out: &mut Output<'_>) {
        let stream = stream(&mut self.streams, sender);
        let Some(offset) = stream.offset.filter(|_| !bytes.is_empty() && !stream.lost) else { return };
        stream.offset = Some(offset + bytes.len() as u64);
        // A message begins with the header of the packet it begins.
        let mark = Mark { offset, ..mark };
        let (marks, count) = match stream.header.take() {
            Some(header) => ([Mark { offset, ..header }, Mark { offset: offset + 1, ..mark }], bytes.len().min(2)),
            None => ([mark; 2], 1),
        };
        let marks = &marks[..count];
        if stream.kept.is_empty() {
            let input = Input { sender, data: bytes, offset, marks, base: 0 };
            let (taken, need) = self.mysql.feed(&input, out);
            let rest = bytes.get(taken..).unwrap_or_default();
            if !rest.is_empty() {
                stream.kept.extend_from_slice(rest);
                stream.marks.extend_from_slice(marks);
                Mark::begin_at(&mut stream.marks, offset + taken as u64);
                stream.need = need;
                out.outbox.buffered_bytes += rest.len();
            }
        } else {
            stream.kept.extend_from_slice(bytes);
            stream.marks.extend_from_slice(marks);
            out.outbox.buffered_bytes += bytes.len();
            if stream.kept.len() < stream.need {
                return;
            }
            let first = stream.marks.first().map_or(offset, |mark| mark.offset);
            let input = Input { sender, data: &stream.kept, offset: first, marks: &stream.marks, base: 0 };
            let (taken, need) = self.mysql.feed(&input, out);
            stream.kept.drain(..taken);
            out.outbox.buffered_bytes -= taken;
            stream.need = need;
            Mark::begin_at(&mut stream.marks, first + taken as u64);
            if stream.kept.is_empty() {
                stream.marks.clear();
            }
        }
        self.follow(sender, out);
    }

    /// Does to the streams what the decoder decided.
    fn follow(&mut self, sender: Sender, out: &mut Output<'_>) {
        if std::mem::take(&mut self.mysql.realigned) {
            // The answer begins at a packet of its own, wherever the position was.
            stream(&mut self.streams, Sender::Server).clear(self.mysql.scale(Sender::Server), out);
        }
        let stream = stream(&mut self.streams, sender);
        // A decoder that looks for a beginning may have asked for more of what may be one.
        if self.mysql.is_lost(sender) && stream.kept.is_empty() {
            stream.clear(self.mysql.scale(sender), out);
            stream.lost = true;
        }
    }

    /// Unpacked bytes are missing, of which `lost` bytes on the wire were not seen.
    fn hole(&mut self, sender: Sender, length: u64, lost: u64, out: &mut Output<'_>) {
        let stream = stream(&mut self.streams, sender);
        let Some(offset) = stream.offset else { return };
        stream.offset = Some(offset + length);
        let kept = std::mem::take(&mut stream.kept);
        let marks = std::mem::take(&mut stream.marks);
        out.outbox.buffered_bytes -= kept.len();
        let first = marks.first().map_or(offset, |mark| mark.offset);
        let before = Input { sender, data: &kept, offset: first, marks: &marks, base: 0 };
        let before = Some(before).filter(|before| !before.data.is_empty());
        let server_offset = self.mysql.server_offset;
        let wire = self.mysql.scale(sender).wire(first, kept.len());
        let discarded = out.outbox.discarded;
        self.mysql.lost_on_wire = Some(lost);
        self.mysql.gap(&Gap { sender, before, offset, length, skipped: false }, out);
        self.mysql.lost_on_wire = None;
        // As in `Mysql::feed`.
        for (now, before) in out.outbox.discarded.iter_mut().zip(discarded) {
            *now = before + (*now - before) * wire / kept.len().max(1) as u64;
        }
        self.mysql.server_offset = server_offset;
        self.follow(sender, out);
    }

    /// The position in a stream is lost.
    fn lose(&mut self, sender: Sender, lost: u64, out: &mut Output<'_>) {
        let missing = stream(&mut self.streams, sender).unpacked_left;
        self.hole(sender, missing as u64, lost, out);
        self.mysql.lose(sender, out);
        self.follow(sender, out);
    }

    fn packed_gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>) {
        if self.streams.is_none() {
            return self.mysql.lose(gap.sender, out);
        }
        let stream = stream(&mut self.streams, gap.sender);
        if let Some(before) = &gap.before {
            // A header that was cut.
            out.discard(Discard::Resync, before.data.len());
            return self.lose(gap.sender, gap.length, out);
        }
        if stream.lost {
            return;
        }
        if gap.length > stream.left as u64 {
            return self.lose(gap.sender, gap.length, out);
        }
        stream.left -= gap.length as usize;
        if stream.skipping.is_none() && stream.packed {
            self.skip(gap.sender, Refusal::Malformed, gap.length, out);
        } else if stream.skipping.is_none() {
            stream.unpacked_left -= gap.length as usize;
            self.hole(gap.sender, gap.length, gap.length, out);
        }
    }
}

impl Decoder for Envelope {
    fn data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        match self.is_packed(input) {
            None => return Progress::Need(BEGINNING),
            Some(false) => return self.mysql.data(input, out),
            Some(true) => {}
        }
        let progress = self.packed_data(input, out);
        // What requests acknowledge is counted in bytes on the wire.
        if let (Progress::Consumed(length), Sender::Server) = (progress, input.sender) {
            self.mysql.server_offset = input.offset + length as u64;
        }
        progress
    }

    fn gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>) {
        if !self.mysql.packed[gap.sender as usize] {
            return self.mysql.gap(gap, out);
        }
        self.packed_gap(gap, out);
        if gap.sender == Sender::Server {
            self.mysql.server_offset = gap.offset + gap.length;
        }
    }

    fn end(&mut self, ending: Ending, out: &mut Output<'_>) {
        if self.streams.is_some() {
            let over: &[Sender] = match ending {
                Ending::Closed(Close::RequestTimeout) => &[],
                Ending::Closed(_) => &[Sender::Client, Sender::Server],
                Ending::Finished(Sender::Client) => &[Sender::Client],
                Ending::Finished(Sender::Server) => &[Sender::Server],
            };
            for sender in over {
                // What is incomplete now stays so.
                self.take_back(*sender, 0);
                self.hole(*sender, 0, 0, out);
                let stream = stream(&mut self.streams, *sender);
                stream.clear(self.mysql.scale(*sender), out);
                stream.lost = true;
            }
        }
        self.mysql.end(ending, out);
    }
}

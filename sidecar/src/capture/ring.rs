//! One AF_PACKET socket with a TPACKET_V3 ring: packets are read from memory that the kernel shares, without a system call each.
//!
//! The kernel closes a block when it is full or when [`RETIRE_MS`] have passed, so a packet waits at most that long.
//! See Documentation/networking/packet_mmap.rst. A block must be given back before the borrowed packets are used no more:
//! [`Ring::read_block`] lends packets only during its own run.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::interfaces::Interface;
use super::{CapturedPacket, LinkType};

/// One block; also the most that one packet can take, so whole GSO packets of 256 KiB (BIG TCP) fit.
const BLOCK_BYTES: usize = 512 * 1024;
/// Longest time that a packet waits in a block that is not full. Under light traffic each such time uses up a block, so this times the
/// number of blocks is how long the process may be kept from running without a loss: nearly three seconds with the default ring.
const RETIRE_MS: u32 = 90;
/// Where the kernel may write a VLAN tag's room; see [`Ring::read_block`].
const VLAN_TAG_BYTES: usize = 4;

/// A socket bound to one interface, and its ring.
pub struct Ring {
    socket: OwnedFd,
    memory: *mut u8,
    blocks: usize,
    next: usize,
    interface: u32,
    link_type: LinkType,
    loopback: bool,
    /// A packet with its VLAN tag put back; grows to the largest such packet.
    tagged: Vec<u8>,
    received: u64,
    dropped: u64,
}

// SAFETY: the mapping belongs to this value alone, and nothing in it is tied to a thread.
unsafe impl Send for Ring {}

fn check(outcome: libc::c_int) -> io::Result<libc::c_int> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

fn set_option<T>(socket: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is a live T of the length given.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) }).map(drop)
}

impl Ring {
    /// A socket with a ring of `ring_bytes`, not bound yet: nothing arrives before [`bind`](Self::bind).
    pub fn open(interface: &Interface, number: u32, link_type: LinkType, ring_bytes: usize) -> io::Result<Self> {
        // SAFETY: plain system call; the result is checked before it is owned.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: a descriptor that was just made and that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        if interface.loopback {
            // On lo every packet is seen as it leaves and as it comes; the first is dropped (since Linux 4.20 by the kernel).
            let _ = set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32);
        }
        let blocks = (ring_bytes / BLOCK_BYTES).max(2);
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: 2048,
            tp_frame_nr: (blocks * BLOCK_BYTES / 2048) as u32,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let length = blocks * BLOCK_BYTES;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: maps the ring that was just made; length is its exact size.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, socket.as_raw_fd(), 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let loopback = interface.loopback;
        let memory = memory.cast();
        Ok(Self { socket, memory, blocks, next: 0, interface: number, link_type, loopback, tagged: Vec::new(), received: 0, dropped: 0 })
    }

    /// Starts the flow of packets.
    pub fn bind(&self, interface: &Interface) -> io::Result<()> {
        // SAFETY: an all-zero sockaddr_ll is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = interface.index as i32;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a live sockaddr_ll of the length given.
        check(unsafe { libc::bind(self.socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) }).map(drop)
    }

    /// The socket, for attaching a program and for waiting.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn block(&self, index: usize) -> *mut u8 {
        // SAFETY: index < blocks, so the result lies inside the mapping.
        unsafe { self.memory.add(index % self.blocks * BLOCK_BYTES) }
    }

    /// The status word of a block; the kernel writes it last, so what it covers is visible after an acquiring read.
    fn status(&self, index: usize) -> &AtomicU32 {
        let offset = std::mem::offset_of!(libc::tpacket_block_desc, hdr) + std::mem::offset_of!(libc::tpacket_hdr_v1, block_status);
        // SAFETY: the word lies inside the block, is 4-byte aligned, and is only ever accessed atomically by us.
        unsafe { AtomicU32::from_ptr(self.block(index).add(offset).cast()) }
    }

    /// Hands over the packets of the next full block; false if there is none.
    pub fn read_block(&mut self, handle: &mut dyn FnMut(CapturedPacket<'_>)) -> bool {
        let index = self.next;
        if self.status(index).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return false;
        }
        let block = self.block(index);
        // SAFETY: the block is ours until its status is given back; its descriptor is at its start.
        let (packets, first) = unsafe {
            let header = &(*block.cast::<libc::tpacket_block_desc>()).hdr.bh1;
            (header.num_pkts, header.offset_to_first_pkt)
        };
        let mut offset = first as usize;
        for _ in 0..packets {
            if offset + size_of::<libc::tpacket3_hdr>() > BLOCK_BYTES {
                break;
            }
            // SAFETY: the header lies inside the block, and the kernel aligns it to TPACKET_ALIGNMENT.
            let header = unsafe { &*block.add(offset).cast::<libc::tpacket3_hdr>() };
            let start = offset + usize::from(header.tp_mac);
            let length = header.tp_snaplen as usize;
            if start + length > BLOCK_BYTES {
                break;
            }
            let link = offset + (size_of::<libc::tpacket3_hdr>()).next_multiple_of(libc::TPACKET_ALIGNMENT);
            // SAFETY: the kernel puts the packet's sockaddr_ll behind the aligned header, before the data.
            let packet_type = unsafe { (*block.add(link).cast::<libc::sockaddr_ll>()).sll_pkttype };
            // SAFETY: checked above to lie inside the block, which nobody writes while it is ours.
            let data = unsafe { std::slice::from_raw_parts(block.add(start), length) };
            if !(self.loopback && packet_type == libc::PACKET_OUTGOING) {
                let tag = vlan_tag(header);
                let added = if tag.is_some() { VLAN_TAG_BYTES as u32 } else { 0 };
                handle(CapturedPacket {
                    timestamp_ns: u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec),
                    interface: self.interface,
                    link_type: self.link_type,
                    data: with_tag(&mut self.tagged, data, tag),
                    original_length: header.tp_len + added,
                });
            }
            if header.tp_next_offset == 0 {
                break;
            }
            offset += header.tp_next_offset as usize;
        }
        self.status(index).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (index + 1) % self.blocks;
        true
    }

    /// Packets that came to the socket, and of those the ones dropped because the ring was full, since it was opened.
    pub fn statistics(&mut self) -> (u64, u64) {
        let mut statistics = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        let mut length = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        let pointer = std::ptr::from_mut(&mut statistics).cast();
        // SAFETY: `statistics` is a live structure of the length given. The kernel resets its counters on each read.
        if unsafe { libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, pointer, &mut length) } == 0 {
            self.received += u64::from(statistics.tp_packets);
            self.dropped += u64::from(statistics.tp_drops);
        }
        (self.received, self.dropped)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `open` with this length, and nothing borrowed from it is left.
        unsafe { libc::munmap(self.memory.cast(), self.blocks * BLOCK_BYTES) };
    }
}

/// The VLAN tag that the network card or driver took out of the packet.
fn vlan_tag(header: &libc::tpacket3_hdr) -> Option<[u8; VLAN_TAG_BYTES]> {
    if header.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let valid = header.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let protocol = if valid { header.hv1.tp_vlan_tpid } else { 0x8100 };
    let [a, b] = protocol.to_be_bytes();
    let [c, d] = (header.hv1.tp_vlan_tci as u16).to_be_bytes();
    Some([a, b, c, d])
}

/// The packet as it was on the wire: a tag stands behind the two Ethernet addresses.
fn with_tag<'a>(buffer: &'a mut Vec<u8>, data: &'a [u8], tag: Option<[u8; VLAN_TAG_BYTES]>) -> &'a [u8] {
    match (tag, data.split_at_checked(12)) {
        (Some(tag), Some((addresses, rest))) => {
            buffer.clear();
            buffer.extend_from_slice(addresses);
            buffer.extend_from_slice(&tag);
            buffer.extend_from_slice(rest);
            buffer
        }
        _ => data,
    }
}

/// Waits until one of the sockets has a block, or for `timeout`.
pub fn wait(rings: &[Ring], timeout: std::time::Duration) -> io::Result<()> {
    let mut waits: Vec<libc::pollfd> =
        rings.iter().map(|ring| libc::pollfd { fd: ring.socket.as_raw_fd(), events: libc::POLLIN | libc::POLLERR, revents: 0 }).collect();
    let milliseconds = timeout.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: `waits` is a live array of the length given.
    match check(unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, milliseconds) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
        _ => {}
    }
    if waits.iter().any(|wait| wait.revents & (libc::POLLERR | libc::POLLNVAL | libc::POLLHUP) != 0) {
        for ring in rings {
            let mut code: libc::c_int = 0;
            let mut length = size_of::<libc::c_int>() as libc::socklen_t;
            let pointer = std::ptr::from_mut(&mut code).cast();
            // SAFETY: `code` is a live int of the length given.
            check(unsafe { libc::getsockopt(ring.socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, pointer, &mut length) })?;
            if code != 0 {
                return Err(io::Error::from_raw_os_error(code));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_stands_behind_the_addresses() {
        let mut buffer = Vec::new();
        let data: Vec<u8> = (0..20).collect();
        assert_eq!(with_tag(&mut buffer, &data, None), &data[..]);
        let tagged = with_tag(&mut buffer, &data, Some([0x81, 0, 0, 5])).to_vec();
        assert_eq!(tagged[..12], data[..12]);
        assert_eq!(tagged[12..16], [0x81, 0, 0, 5]);
        assert_eq!(tagged[16..], data[12..]);
        assert_eq!(with_tag(&mut buffer, &data[..5], Some([0x81, 0, 0, 5])), &data[..5]);
    }
}

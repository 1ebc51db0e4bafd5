//! Leaves the sidecar's own connections (to the broker, the analyzer, and its admin port) out of what it captures.
//!
//! Otherwise each batch that is sent would be traffic to be reported. A connection is ours if its socket is one of this process's: the
//! question is asked when a connection to or from a port of interest is seen first, so connections of the application to the same broker
//! stay. A look takes a fraction of a millisecond, and all looks together at most one part in [`LOOK_SHARE`] of the time; beyond that a new
//! connection is passed on until there is time to ask. At the admin port nothing is asked: a connection to it may be over before its first
//! packet is seen, and whoever listens there is this process.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::{CapturedPacket, LinkType};

/// Looks into /proc may take one part in so many of the time,
const LOOK_SHARE: u32 = 50;
/// and so much at once.
const LOOK_BURST: Duration = Duration::from_millis(20);
/// Connections whose owner is remembered; beyond it all are forgotten and asked for again.
const MAX_KNOWN: usize = 4096;

/// Both ends of a connection, the smaller first, so that both directions are one key.
type Ends = (SocketAddr, SocketAddr);

/// Decides which packets are the sidecar's own.
pub struct OwnTraffic {
    /// Bit set of ports at which own connections can be.
    ports: Vec<u64>,
    any_port: bool,
    known: FxHashMap<Ends, bool>,
    /// Where this process listens.
    listening: Vec<SocketAddr>,
    /// Time that looks may take now, as of `allowed_at`.
    allowance: Duration,
    allowed_at: Instant,
    excluded: u64,
}

impl OwnTraffic {
    /// `ports`: those of the broker, the analyzer and the admin listener.
    pub fn new(ports: &[u16]) -> Self {
        let mut own = Self {
            ports: vec![0; 1024],
            any_port: false,
            known: FxHashMap::default(),
            listening: Vec::new(),
            allowance: LOOK_BURST,
            allowed_at: Instant::now(),
            excluded: 0,
        };
        ports.iter().for_each(|port| own.add_port(*port));
        own
    }

    /// Says that this process listens at a port of these addresses.
    pub fn listen(&mut self, port: u16, addresses: &[IpAddr]) {
        self.add_port(port);
        self.listening.extend(addresses.iter().map(|address| SocketAddr::new(*address, port)));
    }

    fn add_port(&mut self, port: u16) {
        self.ports[usize::from(port) / 64] |= 1 << (port % 64);
        self.any_port = true;
    }

    fn has_port(&self, port: u16) -> bool {
        self.ports[usize::from(port) / 64] & 1 << (port % 64) != 0
    }

    /// Packets left out so far.
    pub fn excluded(&self) -> u64 {
        self.excluded
    }

    /// Whether the packet belongs to a connection of this process; counts it if so.
    pub fn is_own(&mut self, packet: &CapturedPacket<'_>) -> bool {
        if !self.any_port {
            return false;
        }
        let Some((source, destination, flags)) = tcp_ends(packet) else { return false };
        if !self.has_port(source.port()) && !self.has_port(destination.port()) {
            return false;
        }
        if self.listening.contains(&source) || self.listening.contains(&destination) {
            self.excluded += 1;
            return true;
        }
        let ends = if source <= destination { (source, destination) } else { (destination, source) };
        if flags & 0x12 == 0x02 {
            // A SYN without ACK: what was known about this pair of ports is about an earlier connection.
            self.known.remove(&ends);
        }
        let own = match self.known.get(&ends) {
            Some(own) => *own,
            None => self.look(ends),
        };
        self.excluded += u64::from(own);
        own
    }

    fn look(&mut self, ends: Ends) -> bool {
        let start = Instant::now();
        self.allowance = (self.allowance + start.duration_since(self.allowed_at) / LOOK_SHARE).min(LOOK_BURST);
        self.allowed_at = start;
        if self.allowance.is_zero() {
            return false;
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let connections = own_connections();
        // A broker tells its clients of other brokers at other ports: what we are connected to is of interest from now on.
        for (local, remote) in &connections {
            // Whoever talks to the admin port does so from a port that is somebody else's tomorrow.
            if !self.has_port(local.port()) {
                self.add_port(remote.port());
            }
            let ends = if local <= remote { (*local, *remote) } else { (*remote, *local) };
            self.known.insert(ends, true);
        }
        self.allowance = self.allowance.saturating_sub(start.elapsed());
        *self.known.entry(ends).or_insert(false)
    }
}

/// The TCP connections whose sockets this process holds.
fn own_connections() -> Vec<(SocketAddr, SocketAddr)> {
    let mut inodes = HashSet::new();
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        for entry in entries.flatten() {
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
                inodes.extend(inode.parse::<u64>());
            }
        }
    }
    let mut connections = Vec::new();
    for file in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let Ok(table) = std::fs::read_to_string(file) else { continue };
        connections.extend(table.lines().skip(1).filter_map(|line| row(line, &inodes)));
    }
    connections
}

/// One row of /proc/net/tcp: number, local, remote, state, queues, timer, retransmits, uid, timeout, inode (proc(5)).
fn row(line: &str, inodes: &HashSet<u64>) -> Option<(SocketAddr, SocketAddr)> {
    let mut fields = line.split_ascii_whitespace();
    let (local, remote) = (fields.nth(1)?, fields.next()?);
    let inode: u64 = fields.nth(6)?.parse().ok()?;
    inodes.contains(&inode).then_some(())?;
    Some((end(local)?, end(remote)?))
}

/// `0100007F:1F90`: words of the address in host byte order, then the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let address = match (<[u8; 4]>::try_from(bytes.as_slice()), <[u8; 16]>::try_from(bytes.as_slice())) {
        (Ok(v4), _) => IpAddr::V4(Ipv4Addr::from(v4)),
        (_, Ok(v6)) => Ipv6Addr::from(v6).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Ends and flags of a TCP packet; `None` for everything else. Looks no further than it must: this runs for each packet.
fn tcp_ends(packet: &CapturedPacket<'_>) -> Option<(SocketAddr, SocketAddr, u8)> {
    let data = packet.data;
    let ip = match packet.link_type {
        LinkType::Ethernet => {
            let mut at = 12;
            while matches!(be16(data, at)?, 0x8100 | 0x88a8) {
                at += 4;
            }
            at + 2
        }
        LinkType::Raw => 0,
        LinkType::Null | LinkType::Loop => 4,
        LinkType::LinuxSll => 16,
        LinkType::LinuxSll2 => 20,
    };
    let header = data.get(ip..)?;
    let (source, destination, tcp) = match header.first()? >> 4 {
        4 if *header.get(9)? == 6 && be16(header, 6)? & 0x1fff == 0 => {
            let source = IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(header.get(12..16)?).ok()?));
            let destination = IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(header.get(16..20)?).ok()?));
            (source, destination, usize::from(header.first()? & 15) * 4)
        }
        6 if *header.get(6)? == 6 => {
            let source = Ipv6Addr::from(<[u8; 16]>::try_from(header.get(8..24)?).ok()?).to_canonical();
            let destination = Ipv6Addr::from(<[u8; 16]>::try_from(header.get(24..40)?).ok()?).to_canonical();
            (source, destination, 40)
        }
        _ => return None,
    };
    let segment = header.get(tcp..)?;
    let flags = *segment.get(13)?;
    Some((SocketAddr::new(source, be16(segment, 0)?), SocketAddr::new(destination, be16(segment, 2)?), flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn packet(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let mut bytes = vec![0u8; 14 + 20 + 20];
        bytes[12] = 8;
        bytes[14] = 0x45;
        bytes[23] = 6;
        if let (IpAddr::V4(from), IpAddr::V4(to)) = (from.ip(), to.ip()) {
            bytes[26..30].copy_from_slice(&from.octets());
            bytes[30..34].copy_from_slice(&to.octets());
        }
        bytes[34..36].copy_from_slice(&from.port().to_be_bytes());
        bytes[36..38].copy_from_slice(&to.port().to_be_bytes());
        bytes
    }

    fn check(own: &mut OwnTraffic, from: SocketAddr, to: SocketAddr) -> bool {
        let data = packet(from, to);
        own.is_own(&CapturedPacket { timestamp_ns: 0, interface: 0, link_type: LinkType::Ethernet, data: &data, original_length: 54 })
    }

    #[test]
    fn own_connections_are_left_out_in_both_directions_and_others_stay() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap();
        let stream = TcpStream::connect(port).unwrap();
        let local = stream.local_addr().unwrap();
        let mut own = OwnTraffic::new(&[port.port()]);
        assert!(check(&mut own, local, port));
        assert!(check(&mut own, port, local));
        assert_eq!(own.excluded(), 2);
        let stranger: SocketAddr = "127.0.0.9:1".parse().unwrap();
        assert!(!check(&mut own, stranger, port));
        assert!(!check(&mut OwnTraffic::new(&[]), local, port));
        assert!(!check(&mut OwnTraffic::new(&[1]), local, port));
    }

    #[test]
    fn whoever_asks_where_this_process_listens_is_left_out_though_the_connection_is_over() {
        let [here, there, probe]: [SocketAddr; 3] = ["10.0.0.5:9871", "10.0.0.6:9871", "10.0.0.1:40000"].map(|end| end.parse().unwrap());
        let mut own = OwnTraffic::new(&[9871]);
        assert!(!check(&mut own, probe, here));
        own.listen(9871, &[here.ip()]);
        assert!(check(&mut own, probe, here));
        assert!(check(&mut own, here, probe));
        // The same port of somebody else.
        assert!(!check(&mut own, probe, there));
    }

    #[test]
    fn addresses_of_the_table() {
        assert_eq!(end("0100007F:1F90"), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(end("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        assert_eq!(end("0000000000000000FFFF00000100007F:0050"), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(end("x:1"), None);
    }
}

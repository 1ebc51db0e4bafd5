//! Packets made here, the same bytes on every machine: for counting instructions, and for floods of connections.
//!
//! Guarantee: a function of its arguments. Checksums are 0, which no source looks at; a TCP stack would.

use std::io::{self, Write};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

const HEADERS: usize = 14 + 20 + 32;
/// Payload of a packet on Ethernet beside TCP's time stamps.
const SEGMENT: usize = 1448;

/// A TCP connection as both ends would send it.
#[derive(Clone, Debug)]
pub struct Connection {
    ends: [([u8; 4], u16); 2],
    next: [u32; 2],
}

impl Connection {
    /// Number `number` of the connections to one server.
    pub fn new(number: u32, server_port: u16) -> Self {
        // 50,000 ports of each client's address.
        let (host, port) = (number / 50_000, number % 50_000);
        let client = ([10, 78, (host >> 8) as u8, host as u8], 10_000 + port as u16);
        let first = number.wrapping_mul(2_654_435_761);
        Self { ends: [client, ([10, 77, 0, 1], server_port)], next: [first, !first] }
    }

    /// The next packet of one end, link layer included.
    pub fn packet<'a>(&mut self, by_client: bool, flags: u8, payload: &[u8], packet: &'a mut Vec<u8>) -> &'a [u8] {
        let (me, peer) = if by_client { (0, 1) } else { (1, 0) };
        let [mine, theirs] = [self.ends[me], self.ends[peer]];
        packet.clear();
        packet.extend_from_slice(&[2, 0, 0, 0, 0, peer as u8, 2, 0, 0, 0, 0, me as u8, 8, 0]);
        let total = (HEADERS - 14 + payload.len()) as u16;
        packet.extend_from_slice(&[0x45, 0]);
        packet.extend_from_slice(&total.to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet.extend_from_slice(&mine.0);
        packet.extend_from_slice(&theirs.0);
        packet.extend_from_slice(&mine.1.to_be_bytes());
        packet.extend_from_slice(&theirs.1.to_be_bytes());
        packet.extend_from_slice(&self.next[me].to_be_bytes());
        let acknowledged = if flags & ACK == 0 { 0 } else { self.next[peer] };
        packet.extend_from_slice(&acknowledged.to_be_bytes());
        packet.extend_from_slice(&[0x80, flags, 0xff, 0xff, 0, 0, 0, 0, 1, 1, 8, 10]);
        packet.extend_from_slice(&[0; 8]);
        packet.extend_from_slice(payload);
        let taken = payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        self.next[me] = self.next[me].wrapping_add(taken);
        packet
    }
}

/// A capture file that is being written.
pub struct Capture<W> {
    output: W,
    now_ns: u64,
    packet: Vec<u8>,
}

/// 2026-01-01 00:00:00 UTC.
const START_NS: u64 = 1_767_225_600_000_000_000;
const STEP_NS: u64 = 2_000;

impl<W: Write> Capture<W> {
    pub fn new(mut output: W) -> io::Result<Self> {
        for word in [0xa1b2_3c4d, 4 << 16 | 2, 0, 0, 262_144, 1u32] {
            output.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { output, now_ns: START_NS, packet: Vec::new() })
    }

    fn send(&mut self, connection: &mut Connection, by_client: bool, flags: u8, payload: &[u8]) -> io::Result<()> {
        let packet = connection.packet(by_client, flags, payload, &mut self.packet);
        self.now_ns += STEP_NS;
        let seconds = (self.now_ns / 1_000_000_000) as u32;
        for word in [seconds, (self.now_ns % 1_000_000_000) as u32, packet.len() as u32, packet.len() as u32] {
            self.output.write_all(&word.to_le_bytes())?;
        }
        self.output.write_all(packet)
    }

    fn open(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.send(connection, true, SYN, b"")?;
        self.send(connection, false, SYN | ACK, b"")?;
        self.send(connection, true, ACK, b"")
    }

    fn data(&mut self, connection: &mut Connection, by_client: bool, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(SEGMENT).try_for_each(|segment| self.send(connection, by_client, PSH | ACK, segment))
    }

    fn close(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.send(connection, false, FIN | ACK, b"")?;
        self.send(connection, true, FIN | ACK, b"")?;
        self.send(connection, false, ACK, b"")
    }
}

/// Keep-alive connections that take turns.
const CONNECTIONS: u32 = 64;

/// Writes so many exchanges of the kind that the capture of this name has; `None` for a name without one.
pub fn write(name: &str, exchanges: u32, output: impl Write) -> Option<io::Result<()>> {
    let write: fn(&mut Capture<_>, u32) -> io::Result<()> = match name {
        "http-api" => |capture, exchanges| {
            http(capture, exchanges, 1, |n, request, answer| {
                item_request(n, request);
                answer_of("200 OK", ITEM, answer);
            })
        },
        "http-mix" => |capture, exchanges| http(capture, exchanges, 1, mixed),
        "http-pipe8" => |capture, exchanges| {
            http(capture, exchanges, 8, |n, request, answer| {
                request.extend_from_slice(
                    format!("GET /api/p/{n} HTTP/1.1\r\nHost: 10.77.0.1\r\nAccept: application/json\r\n\r\n").as_bytes(),
                );
                answer_of("200 OK", ITEM, answer);
            })
        },
        "http-close" => http_close,
        "mysql-point" => |capture, exchanges| {
            mysql(capture, exchanges, |n, request, answer| {
                query(n, 0, request);
                rows(1, answer);
            })
        },
        "mysql-text" => |capture, exchanges| {
            mysql(capture, exchanges, |n, request, answer| {
                query(n, n % 14, request);
                rows(if n % 14 < 10 { 1 } else { 100 }, answer);
            })
        },
        "mysql-prepared" => |capture, exchanges| {
            mysql(capture, exchanges, |n, request, answer| {
                let id = n % 4 + 1;
                let mut payload = vec![0x17];
                payload.extend_from_slice(&id.to_le_bytes());
                payload.extend_from_slice(&[0, 1, 0, 0, 0, 0, 1, 3, 0]);
                payload.extend_from_slice(&n.to_le_bytes());
                message(0, &payload, request);
                rows(if n % 14 < 10 { 1 } else { 100 }, answer);
            })
        },
        _ => return None,
    };
    Some(Capture::new(output).and_then(|mut capture| {
        write(&mut capture, exchanges)?;
        capture.output.flush()
    }))
}

const ITEM: &[u8] = br#"{"id":1234567,"name":"an item of the catalogue","price":1999,"currency":"EUR","stock":12345678}"#;

fn item_request(n: u32, request: &mut Vec<u8>) {
    let (page, id) = (n % 17, u64::from(n));
    request.extend_from_slice(
        format!(
            "GET /api/items/{n}?page={page} HTTP/1.1\r\nHost: 10.77.0.1\r\nX-Request-Id: {id:016x}\r\nUser-Agent: wrk\r\n\
             Accept: application/json\r\n\r\n"
        )
        .as_bytes(),
    );
}

fn answer_of(status: &str, body: &[u8], answer: &mut Vec<u8>) {
    let length = body.len();
    answer.extend_from_slice(
        format!(
            "HTTP/1.1 {status}\r\nServer: nginx/1.22.1\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: keep-alive\r\n\r\n"
        )
        .as_bytes(),
    );
    answer.extend_from_slice(body);
}

fn mixed(n: u32, request: &mut Vec<u8>, answer: &mut Vec<u8>) {
    match n % 100 {
        60..75 => {
            item_request(n, request);
            answer_of("200 OK", &[b'x'; 1024], answer);
        }
        75..82 => {
            item_request(n, request);
            answer.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n");
            answer.extend_from_slice(format!("{:x}\r\n{}\r\n0\r\n\r\n", 900, "z".repeat(900)).as_bytes());
        }
        82..87 => {
            item_request(n, request);
            answer_of("200 OK", &[b'x'; 16_384], answer);
        }
        87 => {
            item_request(n, request);
            answer_of("200 OK", &vec![b'x'; 120_000], answer);
        }
        88..94 => {
            let body = format!("{{\"item\":{n},\"quantity\":3,\"note\":\"leave it at the door\"}}");
            let length = body.len();
            let head =
                format!("POST /post/{n} HTTP/1.1\r\nHost: 10.77.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
            request.extend_from_slice(format!("{head}\r\n{body}").as_bytes());
            answer_of("201 Created", br#"{"ok":true}"#, answer);
        }
        94..97 => {
            item_request(n, request);
            answer_of("404 Not Found", &[b'x'; 153], answer);
        }
        97..99 => {
            item_request(n, request);
            answer_of("500 Internal Server Error", b"boom", answer);
        }
        _ => {
            item_request(n, request);
            answer_of("200 OK", ITEM, answer);
        }
    }
}

/// What an exchange's number says: its request and its answer.
type Exchange = fn(u32, &mut Vec<u8>, &mut Vec<u8>);

fn http<W: Write>(capture: &mut Capture<W>, exchanges: u32, depth: u32, exchange: Exchange) -> io::Result<()> {
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|number| Connection::new(number, 80)).collect();
    connections.iter_mut().try_for_each(|connection| capture.open(connection))?;
    turns(capture, &mut connections, exchanges, depth, exchange)
}

fn turns<W: Write>(
    capture: &mut Capture<W>,
    connections: &mut [Connection],
    exchanges: u32,
    depth: u32,
    exchange: Exchange,
) -> io::Result<()> {
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    for turn in 0..exchanges.div_ceil(depth) {
        request.clear();
        answer.clear();
        (turn * depth..exchanges.min((turn + 1) * depth)).for_each(|n| exchange(n, &mut request, &mut answer));
        let at = turn as usize % connections.len();
        let Some(connection) = connections.get_mut(at) else { return Ok(()) };
        capture.data(connection, true, &request)?;
        capture.data(connection, false, &answer)?;
    }
    Ok(())
}

fn http_close<W: Write>(capture: &mut Capture<W>, exchanges: u32) -> io::Result<()> {
    for n in 0..exchanges {
        let mut connection = Connection::new(n, 80);
        let (mut request, mut answer) = (Vec::new(), Vec::new());
        item_request(n, &mut request);
        answer_of("200 OK", ITEM, &mut answer);
        capture.open(&mut connection)?;
        capture.data(&mut connection, true, &request)?;
        capture.data(&mut connection, false, &answer)?;
        capture.close(&mut connection)?;
    }
    Ok(())
}

/// A request and its answer, for a flood.
pub fn small_exchange(n: u32) -> (Vec<u8>, Vec<u8>) {
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    item_request(n, &mut request);
    answer_of("200 OK", ITEM, &mut answer);
    (request, answer)
}

/// One packet of MySQL's protocol.
fn message(sequence: u8, payload: &[u8], into: &mut Vec<u8>) {
    let length = (payload.len() as u32).to_le_bytes();
    into.extend_from_slice(&length[..3]);
    into.push(sequence);
    into.extend_from_slice(payload);
}

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const EOF: &[u8] = &[0xfe, 0, 0, 2, 0];
/// CLIENT_LONG_PASSWORD, CONNECT_WITH_DB, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH.
const CAPABILITIES: u32 = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;

fn mysql<W: Write>(capture: &mut Capture<W>, exchanges: u32, exchange: Exchange) -> io::Result<()> {
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|number| Connection::new(number, 3306)).collect();
    for connection in &mut connections {
        capture.open(connection)?;
        login(capture, connection)?;
    }
    turns(capture, &mut connections, exchanges, 1, exchange)
}

/// Greeting, login, and the statements that EXECUTEs name.
fn login<W: Write>(capture: &mut Capture<W>, connection: &mut Connection) -> io::Result<()> {
    let [low, low2, high, high2] = CAPABILITIES.to_le_bytes();
    let mut greeting = b"\x0a8.0.36\0\x01\0\0\0saltsalt\0".to_vec();
    greeting.extend_from_slice(&[low, low2, 33, 2, 0, high, high2, 21, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    greeting.extend_from_slice(b"saltsaltsalt\0mysql_native_password\0");
    let mut answer = CAPABILITIES.to_le_bytes().to_vec();
    answer.extend_from_slice(&[0, 0, 0, 1, 33]);
    answer.extend_from_slice(&[0; 23]);
    answer.extend_from_slice(b"sb\0\x14aaaaaaaaaaaaaaaaaaaasbtest\0mysql_native_password\0");
    for (by_client, sequence, payload) in [(false, 0, greeting.as_slice()), (true, 1, answer.as_slice()), (false, 2, OK)] {
        let mut bytes = Vec::new();
        message(sequence, payload, &mut bytes);
        capture.data(connection, by_client, &bytes)?;
    }
    for id in 1..=4u32 {
        let (mut request, mut answer) = (Vec::new(), Vec::new());
        message(0, format!("\x16SELECT c FROM sbtest{id} WHERE id=?").as_bytes(), &mut request);
        let [a, b, c, d] = id.to_le_bytes();
        message(1, &[0, a, b, c, d, 1, 0, 1, 0, 0, 0, 0], &mut answer);
        for (sequence, payload) in [(2, COLUMN), (3, EOF), (4, COLUMN), (5, EOF)] {
            message(sequence, payload, &mut answer);
        }
        capture.data(connection, true, &request)?;
        capture.data(connection, false, &answer)?;
    }
    Ok(())
}

const COLUMN: &[u8] = b"\x03def\x06sbtest\x07sbtest1\x07sbtest1\x01c\x01c\x0c\x21\0\x68\x01\0\0\xfe\x01\0\0\0\0";

fn query(n: u32, kind: u32, request: &mut Vec<u8>) {
    let (table, id) = (n % 4 + 1, n % 20_000);
    let end = id + 99;
    let text = match kind {
        10 => format!("\x03SELECT c FROM sbtest{table} WHERE id BETWEEN {id} AND {end}"),
        11 => format!("\x03SELECT SUM(k) FROM sbtest{table} WHERE id BETWEEN {id} AND {end}"),
        12 => format!("\x03SELECT c FROM sbtest{table} WHERE id BETWEEN {id} AND {end} ORDER BY c"),
        13 => format!("\x03SELECT DISTINCT c FROM sbtest{table} WHERE id BETWEEN {id} AND {end} ORDER BY c"),
        _ => format!("\x03SELECT c FROM sbtest{table} WHERE id={id}"),
    };
    message(0, text.as_bytes(), request);
}

/// A result of one column with so many rows of 120 letters.
fn rows(count: u8, answer: &mut Vec<u8>) {
    let mut row = vec![120];
    row.extend_from_slice(&[b'5'; 120]);
    message(1, &[1], answer);
    message(2, COLUMN, answer);
    message(3, EOF, answer);
    (0..count).for_each(|index| message(4 + index, &row, answer));
    message(4 + count, EOF, answer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree_on_the_numbers() {
        let mut connection = Connection::new(70_000, 80);
        let mut buffer = Vec::new();
        let number = |packet: &[u8], at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
        let syn = number(connection.packet(true, SYN, b"", &mut buffer), 38);
        let answer = connection.packet(false, SYN | ACK, b"", &mut buffer);
        assert_eq!(number(answer, 42), syn.wrapping_add(1));
        connection.packet(true, ACK, b"12345", &mut buffer);
        assert_eq!(number(connection.packet(false, ACK, b"", &mut buffer), 42), syn.wrapping_add(6));
        assert_eq!(buffer.len(), HEADERS);
    }

    #[test]
    fn every_kind_is_written_and_the_same_each_time() {
        for recipe in crate::captures::RECIPES {
            let bytes = || {
                let mut bytes = Vec::new();
                write(recipe.name, 200, &mut bytes).unwrap().unwrap();
                bytes
            };
            assert!(bytes().len() > 200 * 2 * HEADERS, "{}", recipe.name);
            assert!(bytes() == bytes(), "{}", recipe.name);
        }
        assert!(write("none", 1, Vec::new()).is_none());
    }
}

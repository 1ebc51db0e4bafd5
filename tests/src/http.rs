//! A small HTTP/1.1 client for questions of the fixtures: one request a connection, the whole answer.
//!
//! Not for load (see [`crate::load`]).

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use crate::{Context, Failure, Result};

/// The longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body, without chunk framing.
    pub body: String,
}

/// Asks for a path.
pub fn get(address: SocketAddrV4, path: &str) -> Result<Answer> {
    request(address, "GET", path, &[], "")
}

/// Sends one request and reads its answer.
pub fn request(address: SocketAddrV4, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
    request_within(TIMEOUT, address, method, path, headers, body)
}

/// [`request`] with another limit to each wait.
pub fn request_within(
    limit: Duration,
    address: SocketAddrV4,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let what = format!("{method} http://{address}{}", path.split('?').next().unwrap_or_default());
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(3)).context(&what)?;
    stream.set_read_timeout(Some(limit)).context(&what)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.push_str(body);
    stream.write_all(head.as_bytes()).context(&what)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).context(&what)?;
    parse(&bytes).context(what)
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).context("not an HTTP answer")? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Err(Failure(format!("the answer ends in its head, after {} bytes", bytes.len()))),
    };
    let status = response.code.context("an answer without a status")?;
    let chunked = response
        .headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("transfer-encoding") && header.value.eq_ignore_ascii_case(b"chunked"));
    let body = if chunked { unchunk(&bytes[head..])? } else { bytes[head..].to_vec() };
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunk(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Complete((_, 0))) => return Ok(body),
            Ok(httparse::Status::Complete((start, size))) => {
                let end = start + size as usize;
                body.extend_from_slice(bytes.get(start..end).context("the answer ends in a chunk")?);
                bytes = bytes.get(end + 2..).context("the answer ends behind a chunk")?;
            }
            _ => return Err(Failure::new("the answer ends before its last chunk")),
        }
    }
}

/// A value for a query string.
pub fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

//! A receiver of webhooks that keeps the bodies as they came.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Context, Result};

/// The largest body that is kept.
const MAX_BODY: usize = 1 << 20;

/// What came with one notification.
#[derive(Clone, Debug)]
pub struct Notification {
    /// Path it was sent to.
    pub path: String,
    /// Header lines.
    pub headers: Vec<String>,
    /// The body.
    pub body: String,
}

/// The receiver; lives as long as the process.
#[derive(Clone, Debug)]
pub struct Webhook {
    address: SocketAddrV4,
    received: Arc<Mutex<Vec<Notification>>>,
}

impl Webhook {
    /// Listens on a free port of loopback.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for webhooks")?;
        let port = listener.local_addr().context("reading a port number")?.port();
        let webhook = Self { address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), received: Arc::default() };
        let received = Arc::clone(&webhook.received);
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(std::result::Result::ok) {
                let received = Arc::clone(&received);
                std::thread::spawn(move || serve(stream, &received));
            }
        });
        Ok(webhook)
    }

    /// For the rules.
    pub fn url(&self) -> String {
        format!("http://{}/alarms", self.address)
    }

    /// All notifications so far, in the order of arrival.
    pub fn received(&self) -> Vec<Notification> {
        self.received.lock().map(|received| received.clone()).unwrap_or_default()
    }
}

fn serve(stream: TcpStream, received: &Mutex<Vec<Notification>>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let Ok(reading) = stream.try_clone() else { return };
    let mut reader = BufReader::new(reading);
    let mut writer = stream;
    while let Some(notification) = read_one(&mut reader) {
        if let Ok(mut all) = received.lock() {
            all.push(notification);
        }
        if writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

/// One request; `None` at the end of the connection or where it is not one with a length.
fn read_one(reader: &mut BufReader<TcpStream>) -> Option<Notification> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|length| *length > 0)?;
        let header = header.trim_end().to_owned();
        if header.is_empty() {
            break;
        }
        headers.push(header);
    }
    let length = headers.iter().find_map(|header| {
        let (name, value) = header.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    let mut body = vec![0; length.min(MAX_BODY)];
    reader.read_exact(&mut body).ok()?;
    Some(Notification { path, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

//! HTTP load over keep-alive connections.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Report, Running, Timetable, Until, on_own_thread};
use crate::{Context, Failure, Result};

/// One kind of request. `{}` in the path becomes a number that changes with every request.
#[derive(Clone, Debug)]
pub struct Route {
    /// Share among the routes.
    pub weight: u32,
    /// Method.
    pub method: &'static str,
    /// Path, with `{}` for the number.
    pub path: &'static str,
    /// Name it is counted under: the route template that Podtap should find.
    pub endpoint: &'static str,
    /// Numbers run from 1 to this.
    pub numbers: u64,
    /// Request body.
    pub body: &'static str,
}

impl Route {
    /// A GET.
    pub const fn get(weight: u32, path: &'static str, endpoint: &'static str) -> Self {
        Self { weight, method: "GET", path, endpoint, numbers: 1000, body: "" }
    }

    /// A POST.
    pub const fn post(weight: u32, path: &'static str, endpoint: &'static str, body: &'static str) -> Self {
        Self { weight, method: "POST", path, endpoint, numbers: 1000, body }
    }
}

/// A generator.
#[derive(Clone, Debug)]
pub struct HttpLoad {
    /// The server.
    pub target: SocketAddrV4,
    /// Keep-alive connections.
    pub connections: usize,
    /// Requests a second, all together.
    pub rate: u32,
    /// What is asked, in turn, by weight.
    pub routes: Vec<Route>,
    /// When it ends.
    pub until: Until,
}

impl HttpLoad {
    /// Starts it.
    pub fn start(self) -> Running {
        on_own_thread(self.run())
    }

    async fn run(self) -> Result<Report> {
        let mut streams = Vec::new();
        for number in 0..self.connections {
            let stream = TcpStream::connect(self.target).await.context(format!("connection {number} to {}", self.target))?;
            stream.set_nodelay(true).context("setting TCP_NODELAY")?;
            streams.push(stream);
        }
        let order = Arc::new(spread(&self.routes));
        let timetable = Timetable::new(self.rate, self.until);
        let connections: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                let connection = Connection { stream, buffer: Vec::new(), host: self.target.to_string() };
                tokio::spawn(connection.send_all(Arc::clone(&timetable), Arc::clone(&order)))
            })
            .collect();
        for connection in connections {
            connection.await.context("a connection's task")??;
        }
        Ok(timetable.report())
    }
}

/// The routes in turn, each as often as its weight, evenly spread rather than in runs.
fn spread(routes: &[Route]) -> Vec<Route> {
    let total: u32 = routes.iter().map(|route| route.weight).sum();
    let mut credit = vec![0i64; routes.len()];
    (0..total)
        .filter_map(|_| {
            for (credit, route) in credit.iter_mut().zip(routes) {
                *credit += i64::from(route.weight);
            }
            let best = (0..routes.len()).max_by_key(|index| credit[*index])?;
            credit[best] -= i64::from(total);
            Some(routes[best].clone())
        })
        .collect()
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    host: String,
}

impl Connection {
    async fn send_all(mut self, timetable: Arc<Timetable>, order: Arc<Vec<Route>>) -> Result<()> {
        let mut counts: BTreeMap<(&'static str, u16), u64> = BTreeMap::new();
        let mut latencies = Vec::new();
        while let Some(slot) = timetable.slot().await {
            let route = &order[slot as usize % order.len()];
            let path = route.path.replace("{}", &(1 + slot % route.numbers).to_string());
            let started = std::time::Instant::now();
            let status = self.exchange(route, &path).await.context(format!("{} {path}", route.method))?;
            latencies.push(started.elapsed().as_nanos() as u64);
            *counts.entry((route.endpoint, status)).or_default() += 1;
        }
        timetable.add_latencies(&latencies);
        timetable.add(counts.into_iter().map(|((endpoint, status), count)| ((endpoint.to_owned(), status.to_string()), count)).collect());
        Ok(())
    }

    async fn exchange(&mut self, route: &Route, path: &str) -> Result<u16> {
        let length = match route.body.len() {
            0 if route.method == "GET" => String::new(),
            length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
        };
        let request = format!(
            "{} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: podtap-load/1\r\nAccept: application/json\r\n{length}\r\n{}",
            route.method, self.host, route.body
        );
        self.stream.write_all(request.as_bytes()).await.context("sending")?;
        loop {
            if let Some((status, length)) = parse(&self.buffer)? {
                while self.buffer.len() < length {
                    self.read().await?;
                }
                self.buffer.drain(..length);
                return Ok(status);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.buffer).await.context("reading the answer")? {
            0 => Err(Failure::new("the server closed the connection in the middle of an exchange")),
            _ => Ok(()),
        }
    }
}

/// Status and whole length of the answer at the front of the buffer; answers must say their length.
fn parse(buffer: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(buffer).context("not an HTTP answer")? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.context("an answer without a status")?;
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body: usize = match length {
        Some(header) => std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok()).context("a bad Content-Length")?,
        None if status == 204 => 0,
        None => return Err(Failure(format!("an answer {status} without Content-Length"))),
    };
    Ok(Some((status, head + body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_spread_by_weight() {
        let order = spread(&[Route::get(3, "/a", "a"), Route::get(1, "/b", "b")]);
        let names: Vec<_> = order.iter().map(|route| route.endpoint).collect();
        assert_eq!(names.iter().filter(|name| **name == "a").count(), 3);
        assert_eq!(names.iter().filter(|name| **name == "b").count(), 1);
    }
}

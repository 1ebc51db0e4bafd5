//! The application of the demo's pod: a small shop over HTTP/1.1 that asks a MariaDB, plainly and with prepared statements.
//!
//! It knows nothing of Podtap: what the sidecar shows of it is read from its packets alone. Not a web server for any other use.

use std::process::ExitCode;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Largest request head (and body) that is read.
const MAX_REQUEST: usize = 64 << 10;
/// Connections to the database.
const DATABASE_CONNECTIONS: usize = 16;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podtap-demo-app: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, address] = arguments.as_slice() else { return Err("usage: podtap-demo-app --listen IP:PORT".into()) };
    if flag != "--listen" {
        return Err(format!("unknown argument {flag}; usage: podtap-demo-app --listen IP:PORT").into());
    }
    let url = std::env::var("PODTAP_DEMO_DATABASE").map_err(|_| "PODTAP_DEMO_DATABASE is not set")?;
    let constraints = PoolConstraints::new(DATABASE_CONNECTIONS, DATABASE_CONNECTIONS).ok_or("a pool needs room")?;
    let pool_options = PoolOpts::default().with_constraints(constraints).with_reset_connection(false);
    let options = OptsBuilder::from_opts(Opts::from_url(&url)?)
        .pool_opts(pool_options)
        .prefer_socket(false)
        .max_allowed_packet(Some(1 << 24))
        .wait_timeout(Some(3600));
    let pool = Pool::new(options);
    let listener = TcpListener::bind(address).await?;
    eprintln!("podtap-demo-app: listening on {address}");
    loop {
        let (stream, _) = listener.accept().await?;
        let pool = pool.clone();
        tokio::spawn(async move {
            // A client that goes away is its own affair.
            let _ = serve(stream, pool).await;
        });
    }
}

/// One keep-alive connection.
async fn serve(mut stream: TcpStream, pool: Pool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read_request(&mut stream, &mut buffer).await? else { return Ok(()) };
        let answer = answer(&request, &pool).await.unwrap_or_else(|error| Answer::of_error(&error));
        let reason = match answer.status {
            200 => "OK",
            201 => "Created",
            404 => "Not Found",
            409 => "Conflict",
            _ => "Internal Server Error",
        };
        let length = answer.body.len();
        let head = format!("HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n", answer.status);
        stream.write_all(&[head.as_bytes(), answer.body.as_bytes()].concat()).await?;
    }
}

struct Request {
    method: String,
    path: String,
}

/// Reads one request and drops its body; `None` when the client has closed between two.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    loop {
        if let Some((request, length)) = parse(buffer)? {
            while buffer.len() < length {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            buffer.drain(..length);
            return Ok(Some(request));
        }
        if buffer.len() > MAX_REQUEST {
            return Err(std::io::Error::other("a request head that does not end"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// The request at the front of the buffer and its whole length.
fn parse(buffer: &[u8]) -> std::io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(buffer).map_err(std::io::Error::other)? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body = match length {
        Some(header) => std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        None => 0,
    };
    if body > MAX_REQUEST {
        return Err(std::io::Error::other("a request body that is too large"));
    }
    let method = request.method.unwrap_or_default().to_owned();
    let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    Ok(Some((Request { method, path }, head + body)))
}

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, body: body.into() }
    }

    fn of_error(error: &mysql_async::Error) -> Self {
        let text = serde_json::Value::from(error.to_string());
        match error {
            // 1062: duplicate entry for a key.
            mysql_async::Error::Server(server) if server.code == 1062 => Self::new(409, format!("{{\"error\":{text}}}\n")),
            _ => Self::new(500, format!("{{\"error\":{text}}}\n")),
        }
    }
}

/// The shop.
async fn answer(request: &Request, pool: &Pool) -> Result<Answer, mysql_async::Error> {
    let mut segments = request.path.split('/').skip(1);
    let (area, id) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let number: u32 = id.parse().unwrap_or(0);
    match (request.method.as_str(), area) {
        ("GET", "items") => item(&mut pool.get_conn().await?, number).await,
        ("GET", "orders") => {
            let sql = format!("SELECT o.id, i.name, o.quantity FROM orders o JOIN items i ON i.id = o.item_id WHERE o.id = {number}");
            let rows: Vec<(u32, String, u32)> = pool.get_conn().await?.query(sql).await?;
            let Some((id, name, quantity)) = rows.into_iter().next() else {
                return Ok(Answer::new(404, "{\"error\":\"no such order\"}\n"));
            };
            Ok(Answer::new(200, format!("{{\"id\":{id},\"item\":\"{name}\",\"quantity\":{quantity}}}\n")))
        }
        ("POST", "orders") => {
            let mut connection = pool.get_conn().await?;
            connection.exec_drop("INSERT INTO orders (item_id, quantity) VALUES (?, ?)", (number.max(1), 1)).await?;
            Ok(Answer::new(201, format!("{{\"id\":{}}}\n", connection.last_insert_id().unwrap_or(0))))
        }
        // 50 ms of thinking, as a search would.
        ("GET", "search") => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let sql = "SELECT id, name FROM items WHERE price BETWEEN ? AND ? LIMIT 20";
            let rows: Vec<(u32, String)> = pool.get_conn().await?.exec(sql, (number, number + 50)).await?;
            Ok(Answer::new(200, format!("{{\"hits\":{}}}\n", rows.len())))
        }
        // Slow because its SQL is.
        ("GET", "reports") => {
            let sql = "SELECT COUNT(*), SUM(quantity), SLEEP(0.48) FROM (SELECT quantity FROM orders LIMIT 1000) AS recent";
            let row: Option<(u64, u64, u32)> = pool.get_conn().await?.query_first(sql).await?;
            Ok(Answer::new(200, format!("{{\"orders\":{}}}\n", row.map_or(0, |row| row.0))))
        }
        // Once a deployment has lost the table, every call is an SQL error.
        ("GET", "payments") => {
            let sql = format!("SELECT amount, currency FROM payment_ledger WHERE order_id = {number}");
            let row: Option<(u32, String)> = pool.get_conn().await?.query_first(sql).await?;
            Ok(match row {
                Some((amount, currency)) => Answer::new(200, format!("{{\"amount\":{amount},\"currency\":\"{currency}\"}}\n")),
                None => Answer::new(404, "{\"error\":\"no such payment\"}\n"),
            })
        }
        ("POST", "coupons") => {
            pool.get_conn().await?.exec_drop("INSERT INTO coupons (code, used) VALUES (?, ?)", ("WELCOME", 1)).await?;
            Ok(Answer::new(201, "{}\n"))
        }
        // Exactly so long, for comparing clocks.
        ("GET", "slow") => {
            tokio::time::sleep(Duration::from_millis(u64::from(number.min(10_000)))).await;
            Ok(Answer::new(200, format!("{{\"slept_ms\":{number}}}\n")))
        }
        _ => Ok(Answer::new(404, "{\"error\":\"no such page\"}\n")),
    }
}

async fn item(connection: &mut Conn, number: u32) -> Result<Answer, mysql_async::Error> {
    let row: Option<(String, u32)> = connection.exec_first("SELECT name, price FROM items WHERE id = ?", Params::from((number,))).await?;
    Ok(match row {
        Some((name, price)) => Answer::new(200, format!("{{\"id\":{number},\"name\":\"{name}\",\"price\":{price}}}\n")),
        None => Answer::new(404, "{\"error\":\"no such item\"}\n"),
    })
}

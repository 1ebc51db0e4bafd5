//! A TCP proxy that does harm at an exact byte: before a request reaches its server, after it was answered, or to all answers.
//!
//! A trap looks for words in what a client sends at once; the first chunk with all of them springs it. Not for large loads: two
//! threads a connection.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Context, Result};

/// When a trap acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The request never reaches the server.
    BeforeRequest,
    /// The server has done what was asked, and the client is not told.
    BeforeAnswer,
}

struct Trap {
    words: Vec<String>,
    moment: Moment,
    action: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
struct Shared {
    trap: Mutex<Option<Trap>>,
    sprung: AtomicU64,
    deaf: AtomicBool,
    swallowed: AtomicU64,
    ended: AtomicBool,
}

/// The proxy; dropped, it takes no more connections.
pub struct Proxy {
    address: SocketAddrV4,
    shared: Arc<Shared>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.address)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on a free port of loopback and connects to `target` for each connection.
    pub fn start(target: SocketAddrV4) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening as a proxy")?;
        let port = listener.local_addr().context("reading a proxy's port")?.port();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if own.ended.load(Ordering::Relaxed) {
                    return;
                }
                // Without its server the client sees a connection that closes at once.
                let Ok(server) = TcpStream::connect_timeout(&target.into(), Duration::from_secs(2)) else { continue };
                forward(client, server, &own);
            }
        });
        Ok(Self { address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), shared })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Sets a trap for the next chunk that holds all the words.
    pub fn set_trap(&self, words: &[&str], moment: Moment, action: impl FnOnce() + Send + 'static) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        *locked(&self.shared.trap) = Some(Trap { words, moment, action: Box::new(action) });
    }

    /// How many traps have sprung.
    pub fn sprung(&self) -> u64 {
        self.shared.sprung.load(Ordering::SeqCst)
    }

    /// From now on answers are thrown away, until [`Proxy::listen_again`].
    pub fn go_deaf(&self) {
        self.shared.deaf.store(true, Ordering::SeqCst);
    }

    /// Ends it: connections whose answers were thrown away are cut. Says how many bytes of answers were thrown away so far.
    pub fn listen_again(&self) -> u64 {
        self.shared.deaf.store(false, Ordering::SeqCst);
        self.shared.swallowed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address.into(), Duration::from_millis(200));
    }
}

type Armed = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

fn forward(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    let (Ok(client_twin), Ok(server_twin)) = (client.try_clone(), server.try_clone()) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let armed: Armed = Arc::default();
    let (own, own_armed) = (Arc::clone(shared), Arc::clone(&armed));
    std::thread::spawn(move || {
        carry_requests(&client, &server, &own, &own_armed);
        close(&client, &server);
    });
    let own = Arc::clone(shared);
    std::thread::spawn(move || {
        carry_answers(&client_twin, &server_twin, &own, &armed);
        close(&client_twin, &server_twin);
    });
}

fn close(client: &TcpStream, server: &TcpStream) {
    // The other direction may have closed them before.
    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
}

fn carry_requests(mut client: &TcpStream, mut server: &TcpStream, shared: &Shared, armed: &Armed) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(length @ 1..) = client.read(&mut chunk) {
        let text = String::from_utf8_lossy(&chunk[..length]);
        let taken = locked(&shared.trap).take_if(|trap| trap.words.iter().all(|word| text.contains(word.as_str())));
        if let Some(trap) = taken {
            if trap.moment == Moment::BeforeRequest {
                (trap.action)();
                shared.sprung.fetch_add(1, Ordering::SeqCst);
                return;
            }
            *locked(armed) = Some(trap.action);
        }
        if server.write_all(&chunk[..length]).is_err() {
            return;
        }
    }
}

fn carry_answers(mut client: &TcpStream, mut server: &TcpStream, shared: &Shared, armed: &Armed) {
    let mut chunk = vec![0; 64 << 10];
    let mut cut = false;
    while let Ok(length @ 1..) = server.read(&mut chunk) {
        if let Some(action) = locked(armed).take() {
            action();
            shared.sprung.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if shared.deaf.load(Ordering::SeqCst) {
            shared.swallowed.fetch_add(length as u64, Ordering::SeqCst);
            cut = true;
            continue;
        }
        if cut || client.write_all(&chunk[..length]).is_err() {
            return;
        }
    }
}

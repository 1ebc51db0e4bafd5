//! Traffic for a sidecar that is killed: requests with a number each, of which it is known when they were asked and answered.
//!
//! A sidecar that is away sees nothing, and one that is killed loses what waited for less than a moment: of these times nothing is asked.
//! All else must be there, once.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clickhouse::{ClickHouse, number};
use crate::load::Stop;
use crate::{Failure, Result, http};

/// The first number; so many digits that no other request has a path like that.
const FIRST: u64 = 1_000_000;
/// What came so long before a kill may be lost: a batch fills for 0.3 s, waits for its acknowledgement for 1 s, and for half a second while
/// the broker is asked for the topic's partitions; the rest is for a machine that does other things, too.
pub const UNSAFE: Duration = Duration::from_millis(3_500);

/// Nanoseconds since the Unix epoch.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    begun_ns: u64,
    answered_ns: u64,
}

/// A generator at work.
#[derive(Debug)]
pub struct Traffic {
    stop: Stop,
    thread: JoinHandle<Result<Vec<Asked>>>,
}

impl Traffic {
    /// Asks, one after the other, each on a connection of its own.
    pub fn start(target: SocketAddrV4, pause: Duration) -> Self {
        let stop = Stop::default();
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut asked = Vec::new();
            while !told.is_stopped() {
                let begun_ns = now_ns();
                let answer = http::get(target, &format!("/products/{}", FIRST + asked.len() as u64))?;
                if answer.status != 200 {
                    return Err(Failure(format!("{target} answers {}: {}", answer.status, answer.body)));
                }
                asked.push(Asked { begun_ns, answered_ns: now_ns() });
                std::thread::sleep(pause);
            }
            Ok(asked)
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub fn finish(self) -> Result<Vec<Asked>> {
        self.stop.stop();
        self.thread.join().map_err(|_| Failure::new("the traffic's thread panicked"))?
    }
}

/// A sidecar's death and its successor's first moment, nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// When it was killed.
    pub killed_ns: u64,
    /// When the next was ready.
    pub ready_ns: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Requests that are there.
    pub stored: usize,
    /// Requests that must be.
    pub due: usize,
    /// Requests that are not, all of them in gaps.
    pub lost: usize,
    /// The longest time before a kill of which something is missing.
    pub longest: Duration,
}

/// Compares what is stored with what was asked: each once, and all outside of the gaps.
pub fn compare(clickhouse: &ClickHouse, asked: &[Asked], gaps: &[Gap]) -> Result<Found> {
    let rows = clickhouse.rows(
        "SELECT toUInt64OrZero(substring(url_path, length('/products/') + 1)) AS asked, count() AS times FROM requests FINAL \
         WHERE startsWith(url_path, '/products/') GROUP BY asked",
    )?;
    let stored: BTreeMap<u64, u64> = rows.iter().map(|row| (number(row, "asked") as u64, number(row, "times") as u64)).collect();
    let numbers = FIRST..FIRST + asked.len() as u64;
    if let Some((number, times)) = stored.iter().find(|(number, times)| !numbers.contains(number) || **times != 1) {
        return Err(Failure(format!("request {number} is there {times} times; asked once were {numbers:?}")));
    }
    let reaches = UNSAFE.as_nanos() as u64;
    let mut found = Found { stored: stored.len(), due: 0, lost: 0, longest: Duration::ZERO };
    let mut missing = Vec::new();
    for (number, request) in numbers.zip(asked) {
        let gap = gaps.iter().find(|gap| request.answered_ns + reaches > gap.killed_ns && request.begun_ns < gap.ready_ns);
        found.due += usize::from(gap.is_none());
        match (stored.contains_key(&number), gap) {
            (true, _) => {}
            (false, None) => missing.push(number),
            (false, Some(gap)) => {
                found.lost += 1;
                found.longest = found.longest.max(Duration::from_nanos(gap.killed_ns.saturating_sub(request.answered_ns)));
            }
        }
    }
    if let Some(first) = missing.first() {
        let at = asked[(first - FIRST) as usize].answered_ns;
        let before = gaps.iter().map(|gap| gap.killed_ns).find(|killed| *killed > at).map_or(0, |killed| (killed - at) / 1_000_000);
        let (missing, due) = (missing.len(), found.due);
        return Err(Failure(format!("{missing} of {due} requests are missing, the first, {first}, answered {before} ms before a kill")));
    }
    let counted = clickhouse.number("SELECT sum(count) FROM red WHERE endpoint = 'GET /products/{id}'")?;
    if counted != stored.len() as u64 {
        return Err(Failure(format!("{counted} requests are counted, {} are there", stored.len())));
    }
    Ok(found)
}

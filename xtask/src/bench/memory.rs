//! What the sidecar holds while connections come by the ten thousand: resident memory, its cap, and what is left afterwards.
//!
//! The packets are made here and put on the cable by a packet socket in the client's namespace, so that the number of connections is
//! exact and no TCP stack is the limit. What the kernel cannot keep up with is counted by the sidecar as dropped.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::live::{metrics, start_run, sum_of};
use super::measure::peak_bytes;
use super::{Section, megabytes};
use crate::lab::{self, Lab};
use crate::run::{Doing, Failure, Result, say};
use crate::traffic::{ACK, Connection, FIN, PSH, SYN, small_exchange};
use crate::workspace::Workspace;

/// Connections that stay open.
const OPEN: u32 = 50_000;
/// New ones a second that end again.
const NEW_A_SECOND: u32 = 10_000;
/// Share of the open ones that make a request each second, one in so many.
const ASKING: u32 = 5;
/// Steps that a second is cut into, so that the load is even.
const STEPS: u32 = 50;
/// What the sidecar is given.
const LIMIT_BYTES: u64 = 64 << 20;
/// Connections of the last part: more than the table holds.
const TOO_MANY: u32 = 150_000;
/// How long after the load memory may take to be given back.
const REST: Duration = Duration::from_secs(8);

pub fn measure(workspace: &Workspace, sidecar: &std::path::Path, source: &str, seconds: u32) -> Result<Section> {
    let mut lab = Lab::new(&workspace.output().join("lab"))?;
    let pid = start_run(&mut lab, sidecar, source, &["--transport", "print"])?;
    let mut cable = Cable::open()?;
    // A first little load, so that what is made once is there.
    let mut numbers = 0..;
    cable.short_lived(&mut numbers, 200).doing("sending packets")?;
    std::thread::sleep(Duration::from_secs(3));
    let mut rows = Vec::new();
    let start = resident(pid)?;
    rows.push(row("at rest", pid, start, &metrics()?)?);

    say(format_args!("==> {OPEN} connections, then {NEW_A_SECOND} new ones a second for {seconds} s"));
    let mut open: Vec<Connection> = numbers.by_ref().take(OPEN as usize).map(|number| Connection::new(number, 80)).collect();
    let step = (OPEN / STEPS / 5) as usize;
    paced(5, |part| {
        let from = part as usize * step;
        open.get_mut(from..from + step).unwrap_or_default().iter_mut().try_for_each(|connection| {
            cable.open_connection(connection)?;
            cable.exchange(connection)
        })
    })?;
    let mut peak = resident(pid)?;
    paced(seconds, |part| {
        cable.short_lived(&mut numbers, NEW_A_SECOND / STEPS)?;
        let asking = (OPEN / ASKING / STEPS) as usize;
        let from = part as usize * asking % OPEN as usize;
        open.get_mut(from..from + asking).unwrap_or_default().iter_mut().try_for_each(|connection| cable.exchange(connection))?;
        peak = peak.max(resident(pid).unwrap_or(0));
        Ok(())
    })?;
    std::thread::sleep(Duration::from_secs(1));
    let during = metrics()?;
    rows.push(row(&format!("{OPEN} open, {NEW_A_SECOND} new a second"), pid, peak, &during)?);
    open.iter_mut().try_for_each(|connection| cable.close_connection(connection)).doing("sending packets")?;
    std::thread::sleep(REST);
    let after = resident(pid)?;
    rows.push(row("after it", pid, after, &metrics()?)?);
    let load_peak = peak_bytes(pid)?;

    say(format_args!("==> {TOO_MANY} connections at once"));
    let mut many: Vec<Connection> = numbers.take(TOO_MANY as usize).map(|number| Connection::new(number, 80)).collect();
    let step = (TOO_MANY / STEPS / 10) as usize;
    paced(10, |part| {
        let from = part as usize * step;
        many.get_mut(from..from + step).unwrap_or_default().iter_mut().try_for_each(|connection| {
            cable.open_connection(connection)?;
            cable.exchange(connection)
        })
    })?;
    let full = resident(pid)?;
    let counted = metrics()?;
    rows.push(row(&format!("{TOO_MANY} open, more than are followed"), pid, full, &counted)?);
    many.iter_mut().try_for_each(|connection| cable.close_connection(connection)).doing("sending packets")?;
    std::thread::sleep(REST);
    let end = resident(pid)?;
    rows.push(row("after it", pid, end, &metrics()?)?);
    let most = peak_bytes(pid)?;
    lab.stop("sidecar", libc::SIGTERM)?;

    let verdict = |holds: bool| if holds { "holds" } else { "DOES NOT HOLD" };
    let back = |now: u64| now as f64 / start.max(1) as f64 - 1.0;
    Ok(Section {
        title: "Memory".to_owned(),
        remarks: vec![
            "Made packets over veth, each connection with an exchange; resident memory of the sidecar with its capture ring.".to_owned(),
            format!(
                "Peak under the load {} of {}: {}. With more connections than are followed {}: {}.",
                megabytes(load_peak as f64),
                megabytes(LIMIT_BYTES as f64),
                verdict(load_peak <= LIMIT_BYTES),
                megabytes(most as f64),
                verdict(most <= LIMIT_BYTES)
            ),
            format!(
                "Back to within 10 % of the start: {:+.1} % after the load: {}; {:+.1} % after more than are followed: {}.",
                back(after) * 100.0,
                verdict(back(after) <= 0.1),
                back(end) * 100.0,
                verdict(back(end) <= 0.1)
            ),
            format!(
                "Cap on connections, counted when reached: {} evicted: {}.",
                sum_of(&counted, "podtap_flows_evicted_total"),
                verdict(sum_of(&counted, "podtap_flows_evicted_total") > 0.0)
            ),
        ],
        head: vec!["", "resident", "peak so far", "connections followed", "evicted", "records", "packets dropped"],
        rows,
    })
}

fn row(what: &str, pid: u32, resident: u64, metrics: &str) -> Result<Vec<String>> {
    let number = |name: &str| format!("{:.0}", sum_of(metrics, name));
    Ok(vec![
        what.to_owned(),
        megabytes(resident as f64),
        megabytes(peak_bytes(pid)? as f64),
        number("podtap_flows_active"),
        number("podtap_flows_evicted_total"),
        number("podtap_records_total"),
        number("podtap_packets_dropped_total"),
    ])
}

fn resident(pid: u32) -> Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).doing(format_args!("looking at process {pid}"))?;
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    // SAFETY: sysconf has no preconditions.
    Ok(pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64)
}

/// Runs the parts of so many seconds, each at its time; a part that comes late is not left out.
fn paced(seconds: u32, mut part: impl FnMut(u32) -> io::Result<()>) -> Result<()> {
    let started = Instant::now();
    for number in 0..seconds * STEPS {
        let due = Duration::from_secs(1) / STEPS * number;
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        part(number).doing("sending packets")?;
    }
    let taken = started.elapsed().as_secs_f64();
    if taken > f64::from(seconds) * 1.1 {
        say(format_args!("    this machine took {taken:.1} s for {seconds} s of load"));
    }
    Ok(())
}

/// The client's end of the cable.
struct Cable {
    socket: OwnedFd,
    packet: Vec<u8>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Cable {
    /// A namespace belongs to a thread, a socket stays in the one where it was made: so a short-lived thread makes it.
    fn open() -> Result<Self> {
        let made = std::thread::spawn(|| -> io::Result<OwnedFd> {
            let namespace = std::fs::File::open(lab::path(lab::CLIENT))?;
            // SAFETY: plain system calls on live descriptors; each outcome is checked.
            unsafe {
                checked(libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET))?;
                let fd = checked(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?;
                let socket = OwnedFd::from_raw_fd(fd);
                let name = std::ffi::CString::new(lab::INTERFACE).map_err(io::Error::other)?;
                let index = libc::if_nametoindex(name.as_ptr());
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_ifindex = index as i32;
                let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                checked(libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length))?;
                Ok(socket)
            }
        });
        let socket = made.join().map_err(|_| Failure::new("the thread that opens a packet socket failed"))?;
        let (request, answer) = small_exchange(1);
        Ok(Self { socket: socket.doing("opening a packet socket")?, packet: Vec::new(), request, answer })
    }

    fn send(&mut self, connection: &mut Connection, by_client: bool, flags: u8, payload: &[u8]) -> io::Result<()> {
        let packet = connection.packet(by_client, flags, payload, &mut self.packet);
        // SAFETY: `packet` is a live slice of the length given.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn open_connection(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.send(connection, true, SYN, b"")?;
        self.send(connection, false, SYN | ACK, b"")?;
        self.send(connection, true, ACK, b"")
    }

    fn exchange(&mut self, connection: &mut Connection) -> io::Result<()> {
        let (request, answer) = (std::mem::take(&mut self.request), std::mem::take(&mut self.answer));
        let sent = self.send(connection, true, PSH | ACK, &request).and_then(|()| self.send(connection, false, PSH | ACK, &answer));
        (self.request, self.answer) = (request, answer);
        sent
    }

    fn close_connection(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.send(connection, false, FIN | ACK, b"")?;
        self.send(connection, true, FIN | ACK, b"")?;
        self.send(connection, false, ACK, b"")
    }

    fn short_lived(&mut self, numbers: &mut impl Iterator<Item = u32>, count: u32) -> io::Result<()> {
        for number in numbers.by_ref().take(count as usize) {
            let mut connection = Connection::new(number, 80);
            self.open_connection(&mut connection)?;
            self.exchange(&mut connection)?;
            self.close_connection(&mut connection)?;
        }
        Ok(())
    }
}

fn checked(outcome: libc::c_int) -> io::Result<libc::c_int> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

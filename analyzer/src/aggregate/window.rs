//! When a record counts: windows of ten seconds since the Unix epoch.
//!
//! A record's own time decides, however late it comes; a time ahead of the message that carried it is a wrong clock and is
//! clamped by the caller. Never pass a clock's reading here: the message's time stamp is part of the log, a clock is not.

/// Length of a window.
pub const WINDOW_SECONDS: u32 = 10;

/// How far a record may lie ahead of its message before that counts as a wrong clock: clocks that are kept in step differ by
/// less, and moving those records would only blur the order of both ends' records.
pub const CLOCK_TOLERANCE_NS: u64 = 5_000_000_000;

/// A record that began longer than this before its message is counted as late; it counts in its own window like any other.
pub const LATE_NS: u64 = 300_000_000_000;

const NANOSECONDS: u64 = 1_000_000_000;
const DAY_SECONDS: u64 = 86_400;

/// Start of the window that holds `timestamp_ns`, in seconds since the epoch; the last window there is from 2106 on.
pub fn start(timestamp_ns: u64) -> u32 {
    let seconds = u32::try_from(timestamp_ns / NANOSECONDS).unwrap_or(u32::MAX);
    seconds - seconds % WINDOW_SECONDS
}

/// Number of the day that holds `timestamp_ns`.
pub fn day(timestamp_ns: u64) -> u32 {
    (timestamp_ns / NANOSECONDS / DAY_SECONDS) as u32
}

/// True if a record comes late: its sidecar could not deliver, or its exchange took long.
pub fn is_late(timestamp_ns: u64, message_time_ns: u64) -> bool {
    timestamp_ns.saturating_add(LATE_NS) < message_time_ns
}

/// True if a record claims to be younger than the message that carried it.
pub fn is_ahead(timestamp_ns: u64, message_time_ns: u64) -> bool {
    timestamp_ns > message_time_ns.saturating_add(CLOCK_TOLERANCE_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        for (timestamp_ns, expect) in [(0, 0), (9_999_999_999, 0), (10_000_000_000, 10), (1_700_000_003_123_456_789, 1_700_000_000)] {
            assert_eq!(start(timestamp_ns), expect, "{timestamp_ns}");
        }
        assert_eq!(start(u64::MAX) % WINDOW_SECONDS, 0);
        assert_eq!(day(86_400 * NANOSECONDS), 1);
    }

    #[test]
    fn ahead() {
        assert!(!is_ahead(10, 10));
        assert!(!is_ahead(CLOCK_TOLERANCE_NS + 10, 10));
        assert!(is_ahead(CLOCK_TOLERANCE_NS + 11, 10));
        assert!(!is_ahead(u64::MAX, u64::MAX - 1));
    }
}

//! The allocator's share of resident memory: how much it may keep for itself, and giving back what a flood of connections has left.
//!
//! Misuse to avoid: [`prepare`] is for the start of the program, before other threads allocate.

/// Connections by which a flood has to have fallen before memory is given back: below, there is too little to gain.
const FLOOD: u64 = 1024;

/// Sets the allocator's limits: by itself it grows them with what it sees, and then keeps what it once had.
pub fn prepare() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 256 << 10), (libc::M_TRIM_THRESHOLD, 1 << 20)] {
        // SAFETY: sets numbers inside the allocator; an unknown one is refused, which leaves the default.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Follows the number of connections, and gives memory back when they have become few.
#[derive(Debug, Default)]
pub struct Tide {
    highest: u64,
}

impl Tide {
    /// Takes the number of connections now.
    pub fn follow(&mut self, connections: u64) {
        if self.turns(connections) {
            // SAFETY: walks the allocator's own lists under its own locks.
            #[cfg(target_env = "gnu")]
            unsafe {
                libc::malloc_trim(0)
            };
        }
    }

    /// True when so few are left that the last highest number is worth forgetting.
    fn turns(&mut self, connections: u64) -> bool {
        self.highest = self.highest.max(connections);
        let turns = self.highest >= FLOOD && connections <= self.highest / 2;
        if turns {
            self.highest = connections;
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::Tide;

    #[test]
    fn memory_is_given_back_once_for_each_half() {
        let mut tide = Tide::default();
        let turns: Vec<bool> = [10, 0, 50_000, 40_000, 25_000, 24_000, 12_000, 600, 300, 0].map(|count| tide.turns(count)).to_vec();
        assert_eq!(turns, [false, false, false, false, true, false, true, true, false, false]);
    }
}

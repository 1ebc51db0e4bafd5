//! The process's capabilities: raising what it may have, and what `doctor` says about them.
//!
//! A binary that carries the file capability `cap_net_raw,cap_bpf+p` starts as any user with those of the two permitted that it was
//! granted, and none effective: `+ep` would make execve fail where one is not granted (capabilities(7), "Safety checking for
//! capability-dumb binaries"). So it raises them itself.
//!
//! Misuse to avoid: [`raise`] is for the start of the program; capabilities are a thread's own, and threads inherit those of their maker.

use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// What capturing needs, as far as it is granted.
const WANTED: CapabilitySet = CapabilitySet::NET_RAW.union(CapabilitySet::BPF);

/// Makes what is permitted of [`WANTED`] effective in this thread and those that it starts.
pub fn raise() {
    // A kernel that refuses to tell or to change leaves what there is; whoever opens a source is told what is missing.
    let Ok(sets) = thread::capabilities(None) else { return };
    let effective = raised(&sets);
    if effective != sets.effective {
        let _ = thread::set_capabilities(None, CapabilitySets { effective, ..sets });
    }
}

fn raised(sets: &CapabilitySets) -> CapabilitySet {
    sets.effective | (sets.permitted & WANTED)
}

/// What the file capability of this program's binary permits; `None` where it has none.
pub fn of_binary() -> Option<CapabilitySet> {
    // vfs_cap_data (linux/capability.h) has at most 24 bytes.
    let mut value = [0; 64];
    let length = rustix::fs::getxattr("/proc/self/exe", "security.capability", &mut value).ok()?;
    permitted(value.get(..length)?)
}

/// The permitted set of an attribute `security.capability`: a magic number with the revision, then permitted and inheritable of the
/// lower 32 capabilities, then of the upper 32, all little-endian; revision 3 ends with a user id.
fn permitted(value: &[u8]) -> Option<CapabilitySet> {
    let word = |index: usize| value.get(index * 4..index * 4 + 4)?.try_into().ok().map(u32::from_le_bytes);
    let revision = word(0)? >> 24;
    let upper = if revision >= 2 { word(3)? } else { 0 };
    Some(CapabilitySet::from_bits_retain(u64::from(upper) << 32 | u64::from(word(1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_permitted_and_wanted_is_raised() {
        let sets = CapabilitySets {
            effective: CapabilitySet::CHOWN,
            permitted: CapabilitySet::CHOWN | CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN,
            inheritable: CapabilitySet::empty(),
        };
        assert_eq!(raised(&sets), CapabilitySet::CHOWN | CapabilitySet::NET_RAW);
    }

    #[test]
    fn the_attribute_is_read_as_setcap_writes_it() {
        // setcap cap_net_raw,cap_bpf+p FILE; getfattr -e hex -n security.capability FILE
        let hex = "0000000200200000000000008000000000000000";
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        assert_eq!(permitted(&bytes), Some(CapabilitySet::NET_RAW | CapabilitySet::BPF));
        assert_eq!(permitted(&bytes[..7]), None);
        assert_eq!(permitted(&[]), None);
    }
}

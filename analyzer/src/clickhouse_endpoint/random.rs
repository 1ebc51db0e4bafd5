//! Names that nobody can guess: query ids and the tags that mark exceptions in a body.
//!
//! Guarantee: from the kernel's generator. The one misuse: keys or passwords (there are none here).

use getrandom::fill;

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = fill(&mut bytes) {
        // Only before the kernel's pool is ready, early in the boot of a machine; the name is then unique, not secret.
        tracing::warn!(%error, "the kernel gives no random bytes");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos().to_le_bytes();
        bytes.iter_mut().zip(now.iter().cycle()).for_each(|(byte, clock)| *byte = *clock);
    }
    bytes
}

/// `count` lower-case letters, at most 64.
pub fn letters(count: usize) -> String {
    bytes::<64>().iter().take(count).map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// A UUID of version 4 (RFC 9562).
pub fn uuid() -> String {
    let mut bytes = bytes::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_have_their_form_and_differ() {
        let id = super::uuid();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert_ne!(id, super::uuid());
        assert!(super::letters(16).len() == 16 && super::letters(16) != super::letters(16));
    }
}

//! Names of the sections of a 64-bit little-endian ELF object: enough to see whether an eBPF object is whole.
//!
//! Guarantee: any bytes give an answer or `None`, never a panic. Not a linker's view: symbols and relocations are left alone.

/// Section names with their sizes in file order; `None` when the bytes are not such an object.
pub fn sections(object: &[u8]) -> Option<Vec<(String, u64)>> {
    const LITTLE_ENDIAN_64: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
    if !object.starts_with(&LITTLE_ENDIAN_64) {
        return None;
    }
    // Offsets of the ELF64 header (System V ABI, chapter 4): e_shoff, e_shentsize, e_shnum, e_shstrndx.
    let table = usize::try_from(number(object, 0x28, 8)?).ok()?;
    let entry = usize::try_from(number(object, 0x3a, 2)?).ok()?;
    let count = usize::try_from(number(object, 0x3c, 2)?).ok()?;
    let names = usize::try_from(number(object, 0x3e, 2)?).ok()?;
    let header = |index: usize| table.checked_add(entry.checked_mul(index)?);
    let strings = usize::try_from(number(object, header(names)?.checked_add(0x18)?, 8)?).ok()?;
    (0..count)
        .map(|index| {
            let at = header(index)?;
            let name = strings.checked_add(usize::try_from(number(object, at, 4)?).ok()?)?;
            let text = object.get(name..)?.split(|b| *b == 0).next()?;
            let size = number(object, at.checked_add(0x20)?, 8)?;
            Some((String::from_utf8_lossy(text).into_owned(), size))
        })
        .collect()
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(field.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::sections;

    #[test]
    fn this_very_program_has_the_sections_that_a_linker_makes() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = sections(&own).unwrap();
        assert!(found.iter().any(|(name, size)| name == ".text" && *size > 1000));
    }

    #[test]
    fn anything_else_is_refused_without_a_panic() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(sections(b"").is_none());
        assert!(sections(b"#!/bin/sh\n").is_none());
        for cut in 0..64 {
            assert!(sections(&own[..cut]).is_none());
        }
        let mut wild = own[..64].to_vec();
        wild[0x28..0x30].fill(0xff);
        assert!(sections(&wild).is_none());
    }
}

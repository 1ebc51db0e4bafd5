//! Tar archives as image layers have them: POSIX pax with extended attributes, the same bytes for the same content.
//!
//! Guarantee: entries are written sorted, with one fixed time and no owner but those given. Formats: POSIX.1-2024, pax(1),
//! "ustar Interchange Format" and "pax Extended Header"; attributes as `SCHILY.xattr.NAME` records, which OCI images use.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

const BLOCK: usize = 512;

/// What is at a path.
#[derive(Debug)]
pub enum Content {
    Folder,
    /// Bytes at hand.
    Bytes(Vec<u8>),
    /// Bytes of a file of this machine.
    File(PathBuf),
    /// A symbolic link to this.
    Link(String),
}

#[derive(Debug)]
struct Entry {
    content: Content,
    mode: u32,
    owner: u32,
    attributes: Vec<(String, Vec<u8>)>,
}

/// A tree of files.
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Puts something at a path (`usr/bin/x`, without a leading slash), and makes the folders above it.
    pub fn add(&mut self, path: &str, mode: u32, content: Content) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            let folder = || Entry { content: Content::Folder, mode: 0o755, owner: 0, attributes: Vec::new() };
            self.0.entry(path[..at].to_owned()).or_insert_with(folder);
        }
        self.0.insert(path.to_owned(), Entry { content, mode, owner: 0, attributes: Vec::new() });
    }

    /// Whom a path belongs to, user and group alike.
    pub fn own(&mut self, path: &str, owner: u32) {
        if let Some(entry) = self.0.get_mut(path) {
            entry.owner = owner;
        }
    }

    /// Gives a path an extended attribute.
    pub fn attribute(&mut self, path: &str, name: &str, value: Vec<u8>) {
        if let Some(entry) = self.0.get_mut(path) {
            entry.attributes.push((name.to_owned(), value));
        }
    }

    /// The paths, in the order of the archive.
    #[cfg(test)]
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Bytes of all files together.
    pub fn size(&self) -> io::Result<u64> {
        self.0.values().map(Entry::size).sum()
    }

    /// Writes the archive.
    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        for (path, entry) in &self.0 {
            entry.write(path, output)?;
        }
        output.write_all(&[0; 2 * BLOCK])
    }
}

impl Entry {
    fn size(&self) -> io::Result<u64> {
        match &self.content {
            Content::Folder | Content::Link(_) => Ok(0),
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
            Content::File(file) => Ok(file.metadata()?.len()),
        }
    }

    fn write(&self, path: &str, output: &mut impl Write) -> io::Result<()> {
        let size = self.size()?;
        let (kind, link, path) = match &self.content {
            Content::Folder => (b'5', "", format!("{path}/")),
            Content::Link(to) => (b'2', to.as_str(), path.to_owned()),
            Content::Bytes(_) | Content::File(_) => (b'0', "", path.to_owned()),
        };
        let mut records = Vec::new();
        if path.len() > 100 {
            record(&mut records, "path", path.as_bytes());
        }
        if link.len() > 100 {
            record(&mut records, "linkpath", link.as_bytes());
        }
        if size >= 1 << 33 {
            record(&mut records, "size", size.to_string().as_bytes());
        }
        for (name, value) in &self.attributes {
            record(&mut records, &format!("SCHILY.xattr.{name}"), value);
        }
        if !records.is_empty() {
            output.write_all(&header("PaxHeader", 0o644, 0, records.len() as u64, b'x', ""))?;
            padded(&mut records.as_slice(), records.len() as u64, output)?;
        }
        output.write_all(&header(&path, self.mode, self.owner, size, kind, link))?;
        match &self.content {
            Content::Bytes(bytes) => padded(&mut bytes.as_slice(), size, output),
            Content::File(file) => padded(&mut File::open(file)?, size, output),
            Content::Folder | Content::Link(_) => Ok(()),
        }
    }
}

/// `LENGTH NAME=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, name: &str, value: &[u8]) {
    let rest = 1 + name.len() + 1 + value.len() + 1;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {name}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn header(path: &str, mode: u32, owner: u32, size: u64, kind: u8, link: &str) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, width: usize, bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(width)];
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, 100, path.as_bytes());
    put(100, 8, format!("{mode:07o}").as_bytes());
    put(108, 8, format!("{owner:07o}").as_bytes());
    put(116, 8, format!("{owner:07o}").as_bytes());
    // A size that does not fit is in the extended header, which wins.
    put(124, 12, format!("{:011o}", size.min((1 << 33) - 1)).as_bytes());
    put(136, 12, b"00000000000");
    put(148, 8, b"        ");
    put(156, 1, &[kind]);
    put(157, 100, link.as_bytes());
    put(257, 8, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Exactly `size` bytes of `input`, and zeros to the end of the block.
fn padded(input: &mut impl Read, size: u64, output: &mut impl Write) -> io::Result<()> {
    let copied = io::copy(&mut input.take(size), output)?;
    if copied != size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("a file ended after {copied} of {size} bytes")));
    }
    let over = (size % BLOCK as u64) as usize;
    if over > 0 {
        output.write_all(&vec![0; BLOCK - over])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;
    use std::process::Command;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.add("usr/local/bin/program", 0o755, Content::Bytes(vec![7; 1000]));
        tree.attribute("usr/local/bin/program", "user.podtap", b"a\nb=\xff".to_vec());
        tree.add("bin", 0o777, Content::Link("usr/bin".to_owned()));
        tree.add("var/spool", 0o1777, Content::Folder);
        tree.own("var/spool", 65_532);
        tree.add(&format!("{}/end", "long".repeat(40)), 0o644, Content::Bytes(Vec::new()));
        tree
    }

    #[test]
    fn gnu_tar_reads_what_was_written() {
        let dir = std::env::temp_dir().join(format!("podtap-xtask-archive-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("layer.tar");
        tree().write(&mut File::create(&file).unwrap()).unwrap();
        let mut list = Command::new("tar");
        let listed = run::capture(list.args(["--list", "--verbose", "--numeric-owner", "--xattrs", "--utc", "--file"]).arg(&file)).unwrap();
        let long = format!("{}/end", "long".repeat(40));
        for expected in ["lrwxrwxrwx", "bin -> usr/bin", "-rwxr-xr-x", "drwxrwxrwt", "65532/65532", &long, "1970-01-01 00:00"] {
            assert!(listed.contains(expected), "{expected} is not in\n{listed}");
        }
        let mut one = Command::new("tar");
        let bytes = run::capture(one.args(["--extract", "--to-stdout", "--file"]).arg(&file).arg("usr/local/bin/program")).unwrap();
        assert_eq!(bytes.into_bytes(), vec![7; 1000]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_same_content_is_the_same_bytes_in_whatever_order_it_was_added() {
        let written = |tree: &Tree| {
            let mut bytes = Vec::new();
            tree.write(&mut bytes).unwrap();
            bytes
        };
        let mut other = Tree::default();
        for (path, entry) in tree().0.into_iter().rev() {
            other.0.insert(path, entry);
        }
        assert_eq!(written(&tree()), written(&other));
        assert_eq!(other.size().unwrap(), 1000);
        assert!(other.paths().is_sorted());
    }

    #[test]
    fn a_record_counts_its_own_length() {
        // Among these are the lengths at which the number itself grows by a digit.
        for length in 0..1100 {
            let mut records = Vec::new();
            record(&mut records, "n", &vec![b'v'; length]);
            let text = String::from_utf8(records).unwrap();
            let stated: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(stated, text.len(), "{text:?}");
        }
    }
}

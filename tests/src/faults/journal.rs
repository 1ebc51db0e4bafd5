//! What a sender notes before and after: every batch before it is handed on, every acknowledgement after it came.
//!
//! One line a note, one write(2) a line, so that a killed sender's notes are whole up to the last. A batch that was noted, was not
//! acknowledged and lies in no spool file was only in the sender's memory: nothing else may be missing in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::{Context, Failure, Result};

/// Which batch, and when it was closed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchName {
    /// Number of the sender.
    pub sender: u32,
    /// Its boot.
    pub boot: [u8; 16],
    /// Number in the boot.
    pub sequence: u64,
    /// When it was closed.
    pub time_ns: u64,
}

/// Text of a boot, as in SQL.
pub fn boot_text(boot: &[u8; 16]) -> String {
    boot.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn boot_of(text: &str) -> Result<[u8; 16]> {
    u128::from_str_radix(text, 16).map(u128::to_be_bytes).context(format!("a boot in a journal: {text:?}"))
}

/// The notes being written.
#[derive(Debug)]
pub struct Journal(File);

/// Folder of a sender below the folder of all.
pub fn folder(root: &Path, sender: u32) -> PathBuf {
    root.join(format!("sender-{sender}"))
}

impl Journal {
    /// Goes on with the notes of a sender.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).context("making a sender's folder")?;
        let file = OpenOptions::new().create(true).append(true).open(folder.join("journal"));
        file.map(Self).context("opening a journal")
    }

    /// Another writer of the same notes.
    pub fn twin(&self) -> Result<Self> {
        self.0.try_clone().map(Self).context("sharing a journal")
    }

    /// A batch is about to be handed on.
    pub fn made(&mut self, boot: &[u8; 16], sequence: u64, time_ns: u64) -> Result<()> {
        self.line(&format!("made {} {sequence} {time_ns}\n", boot_text(boot)))
    }

    /// A batch was acknowledged.
    pub fn acknowledged(&mut self, boot: &[u8; 16], sequence: u64, time_ns: u64) -> Result<()> {
        self.line(&format!("acked {} {sequence} {time_ns}\n", boot_text(boot)))
    }

    fn line(&mut self, line: &str) -> Result<()> {
        self.0.write_all(line.as_bytes()).context("writing a journal")
    }
}

/// The notes of a sender, read.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Every batch.
    pub made: Vec<BatchName>,
    /// When each of the acknowledged ones was for the first time.
    pub acknowledged: BTreeMap<([u8; 16], u64), u64>,
}

/// Reads the notes of a sender.
pub fn read(root: &Path, sender: u32) -> Result<Notes> {
    let text = std::fs::read_to_string(folder(root, sender).join("journal")).context("reading a journal")?;
    let mut notes = Notes::default();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [kind, boot, sequence, time] = words[..] else {
            return Err(Failure(format!("a line of the journal of sender {sender}: {line:?}")));
        };
        let (boot, number) = (boot_of(boot)?, |text: &str| text.parse::<u64>().context(format!("a number in a journal: {text:?}")));
        let (sequence, time_ns) = (number(sequence)?, number(time)?);
        if kind == "made" {
            notes.made.push(BatchName { sender, boot, sequence, time_ns });
        } else {
            notes.acknowledged.entry((boot, sequence)).or_insert(time_ns);
        }
    }
    Ok(notes)
}

/// What lies in the spool files of one boot.
#[derive(Clone, Debug, Default)]
pub struct Spooled {
    /// Whole batches, also those that were acknowledged.
    pub batches: BTreeSet<u64>,
    /// Up to which sequence the boot is known to have made batches.
    pub made: u64,
}

/// What lies in the spool files of each boot. The format is described in the sidecar's `transport/spool/segment.rs`.
pub fn spooled(folder: &Path) -> Result<BTreeMap<[u8; 16], Spooled>> {
    const HEADER: usize = 24;
    const FRAME: usize = 20;
    let mut spooled: BTreeMap<[u8; 16], Spooled> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(spooled) };
    for entry in entries.flatten().filter(|entry| entry.path().extension().is_some_and(|extension| extension == "spool")) {
        let mut bytes = Vec::new();
        File::open(entry.path()).and_then(|mut file| file.read_to_end(&mut bytes)).context("reading a spool file")?;
        let Some(boot) = bytes.get(8..HEADER).and_then(|boot| <[u8; 16]>::try_from(boot).ok()) else { continue };
        let mut at = HEADER;
        while let Some(head) = bytes.get(at..at + FRAME) {
            let length = u32::from_le_bytes(head[..4].try_into().unwrap_or_default()) as usize;
            let end = at + FRAME + length;
            if end > bytes.len() {
                break;
            }
            let sequence = u64::from_le_bytes(head[8..16].try_into().unwrap_or_default());
            let found = spooled.entry(boot).or_default();
            found.made = found.made.max(sequence);
            if length > 0 {
                found.batches.insert(sequence);
            }
            at = end;
        }
    }
    Ok(spooled)
}

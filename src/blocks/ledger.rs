//! The ledger: a file to which lines are appended, which is what counts of who is blocked until when.
//!
//! A line is whole or it is not there: each has a checksum, a torn one at the end (a kill, a power cut, a full disk) is cut
//! off before the next is written. What was appended is on the disk when [`Ledger::append`] returns. Now and then the file
//! is written anew with what still matters, beside the old one and then in its place.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::own_files;
use super::record::Record;

const HEADER: &str = "# Who is blocked until when, by harden-portsentry(8): `harden-portsentry blocked` shows it.\n";
/// Lines beyond twice as many as addresses are worth writing the file anew.
const SLACK: usize = 2_000;

/// The file, held open.
pub struct Ledger {
    path: PathBuf,
    /// `None` until it can be written.
    file: Option<File>,
    /// Lines in it, and addresses that these are about, as far as known.
    lines: usize,
    addresses: usize,
}

/// What a ledger says.
#[derive(Debug, Default, PartialEq)]
pub struct Read {
    /// The last line about each address.
    pub records: Vec<Record>,
    /// What could not be read and was left out.
    pub complaints: Vec<String>,
    lines: usize,
    /// How many bytes are whole lines.
    whole: usize,
}

/// What `bytes`, read from `path`, say.
pub fn read(bytes: &[u8], path: &Path) -> Read {
    let mut last: BTreeMap<IpAddr, Record> = BTreeMap::new();
    let mut found = Read::default();
    for (number, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let Some(text) = line.strip_suffix(b"\n") else {
            break; // torn off; nobody was told of it
        };
        found.whole += line.len();
        found.lines += 1;
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        match std::str::from_utf8(text).map_err(|_| "it is no text").and_then(str::parse::<Record>) {
            Ok(record) => drop(last.insert(record.address, record)),
            Err(why) => {
                found.complaints.push(format!("{}, line {}: {why}; it is left out", path.display(), number + 1));
            }
        }
    }
    found.records = last.into_values().collect();
    found
}

impl Ledger {
    /// Reads the ledger at `path`, and opens it for more; a missing one is begun. One that cannot be written, on a disk that
    /// is read-only, say, is opened later: that it could not be is among the complaints.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<(Ledger, Read)> {
        let bytes = own_files::read(path).with_context(|| format!("cannot read the ledger {}", path.display()))?;
        let mut found = read(&bytes, path);
        let mut ledger = Ledger { path: path.to_owned(), file: None, lines: 0, addresses: 0 };
        if let Err(error) = ledger.open_for_more(&bytes, &found) {
            found.complaints.push(format!("{error:#}; what is to be written there waits until it can be"));
        }
        Ok((ledger, found))
    }

    fn file(&mut self) -> Result<&mut File> {
        if self.file.is_none() {
            let doing = || format!("cannot read the ledger {}", self.path.display());
            let bytes = own_files::read(&self.path).with_context(doing)?;
            self.open_for_more(&bytes, &read(&bytes, &self.path))?;
        }
        self.file.as_mut().context("the ledger is not open")
    }

    /// Opens the file, of which `bytes` say what was `found`: without half a line at its end, and with nothing but whole
    /// lines in it, one with damaged lines being kept beside it as `….damaged`.
    fn open_for_more(&mut self, bytes: &[u8], found: &Read) -> Result<()> {
        let doing = || format!("cannot open the ledger {}", self.path.display());
        if !found.complaints.is_empty() {
            let kept = self.path.with_extension("damaged");
            own_files::create(&kept, 0o640)
                .and_then(|mut file| file.write_all(bytes))
                .with_context(|| format!("cannot keep a copy as {}", kept.display()))?;
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640);
        let mut file = own_files::open(&self.path, &mut options).with_context(doing)?;
        if found.whole < bytes.len() {
            file.set_len(found.whole as u64).with_context(doing)?;
        }
        if found.whole == 0 {
            own_files::give_to_owner_of_directory(&self.path, &file);
            file.write_all(HEADER.as_bytes()).with_context(doing)?;
        }
        (self.lines, self.addresses) = (found.lines, found.records.len());
        if !found.complaints.is_empty() {
            return self.write_anew(&found.records);
        }
        self.file = Some(file);
        Ok(())
    }

    /// Appends `records`; they are on the disk when this returns.
    ///
    /// # Errors
    /// The disk is full, or the like: then none of them is in the ledger.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        let path = self.path.clone();
        let doing = || format!("cannot write the ledger {}", path.display());
        let file = self.file()?;
        let length = file.metadata().with_context(doing)?.len();
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if let Err(error) = written {
            let _ = file.set_len(length);
            return Err(error).with_context(doing);
        }
        self.lines += records.len();
        Ok(())
    }

    /// Whether it is worth to be written anew.
    pub fn is_long(&self) -> bool {
        self.lines > 2 * self.addresses + SLACK
    }

    /// Writes the file anew with what it says and `matters`.
    ///
    /// # Errors
    /// It cannot be read or written; the old one goes on.
    pub fn compact(&mut self, matters: impl Fn(&Record) -> bool) -> Result<()> {
        let bytes = own_files::read(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        let mut records = read(&bytes, &self.path).records;
        records.retain(matters);
        self.write_anew(&records)
    }

    fn write_anew(&mut self, records: &[Record]) -> Result<()> {
        let new = self.path.with_extension("new");
        let doing = || format!("cannot write {}", new.display());
        let text: String =
            std::iter::once(HEADER.to_owned()).chain(records.iter().map(|record| format!("{record}\n"))).collect();
        let result = (|| -> std::io::Result<File> {
            let mut file = own_files::create(&new, 0o640)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
            Ok(file)
        })();
        match result {
            Ok(file) => {
                self.file = Some(file);
                (self.lines, self.addresses) = (records.len() + 1, records.len());
                Ok(())
            }
            Err(error) => {
                let _ = std::fs::remove_file(&new);
                // Not again for each line.
                self.addresses = self.lines;
                Err(error).with_context(doing)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::record::{By, What};
    use super::*;

    fn record(last: u8, times: u32) -> Record {
        Record {
            at: Timestamp::from_second(1_000).unwrap(),
            address: [203, 0, 113, last].into(),
            what: What::Blocked { until: None, times },
            by: By::Daemon,
            why: "probed tcp/23".to_owned(),
        }
    }

    /// Whatever length a power cut leaves of the file: the lines that are whole count, and the next one is whole again.
    #[test]
    fn it_can_be_cut_anywhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, _) = Ledger::open(&path).unwrap();
        ledger.append(&[record(1, 1), record(2, 1), record(1, 2)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let (mut ledger, found) = Ledger::open(&path).unwrap();
            assert_eq!(found.complaints, [] as [&str; 0]);
            let lines = bytes[..length].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(found.records.len(), lines.saturating_sub(1).min(2), "{length} bytes");
            ledger.append(&[record(3, 1)]).unwrap();
            let again = read(&std::fs::read(&path).unwrap(), &path);
            assert_eq!(again.records.last(), Some(&record(3, 1)), "{length} bytes");
            assert_eq!(again.records.len(), found.records.len() + 1);
        }
    }

    #[test]
    fn a_damaged_line_is_named_and_kept_and_the_others_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, _) = Ledger::open(&path).unwrap();
        ledger.append(&[record(1, 1), record(2, 1)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let damaged = text.replace("203.0.113.1 ", "203.0.113.7 ");
        std::fs::write(&path, &damaged).unwrap();
        let (_, found) = Ledger::open(&path).unwrap();
        assert_eq!(found.records, [record(2, 1)]);
        assert!(found.complaints[0].contains("ledger, line 2: its checksum"), "{:?}", found.complaints);
        assert_eq!(std::fs::read_to_string(path.with_extension("damaged")).unwrap(), damaged);
        let (_, again) = Ledger::open(&path).unwrap();
        assert_eq!((again.records, again.complaints), (vec![record(2, 1)], Vec::new()));
    }

    #[test]
    fn it_is_written_anew_when_it_has_grown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, _) = Ledger::open(&path).unwrap();
        for times in 0..=2 * SLACK as u32 {
            ledger.append(&[record(1, times)]).unwrap();
            if ledger.is_long() {
                ledger.compact(|_| true).unwrap();
            }
        }
        ledger.append(&[record(2, 1)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() < 100 * SLACK + 1_000, "{} bytes", bytes.len());
        assert_eq!(read(&bytes, &path).records, [record(1, 2 * SLACK as u32), record(2, 1)]);
    }
}

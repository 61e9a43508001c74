//! The ledger: a file to which lines are appended, which is what counts of who is blocked until when.
//!
//! A line is whole or it is not there: each has a checksum, a torn one at the end (a kill, a power cut, a full disk) is cut
//! off before the next is written. What was appended is on the disk when [`Ledger::append`] returns. Now and then the file
//! is written anew with what still matters, beside the old one and then in its place.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::own_files;
use super::record::Record;

const HEADER: &str = "# Who is blocked until when, by harden-portsentry(8): `harden-portsentry blocked` shows it.\n";
/// Lines beyond these are worth writing the file anew: twice as many as addresses, and so many more than addresses.
const SLACK: usize = 2_000;
const SURPLUS: usize = 131_072;
/// What is read of it, the newest: its bytes, and addresses. It holds less: as many addresses as may be blocked and are
/// remembered ([`super::state::MOST`]), and [`SURPLUS`] lines. Root reads what the daemon's user wrote.
const BYTES: u64 = 64 << 20;
const ADDRESSES: usize = 2 * super::state::MOST;
/// Damaged lines that are named one by one.
const NAMED: usize = 10;

/// The file, held open.
pub struct Ledger {
    path: PathBuf,
    /// `None` until it can be written.
    file: Option<File>,
    /// Lines in it, and addresses that these are about, as far as known.
    lines: usize,
    addresses: usize,
    /// It could not be written anew, and has to be.
    is_behind: bool,
}

/// What a ledger says.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// The last line about each address.
    pub records: Vec<Record>,
    /// What could not be read and was left out.
    pub complaints: Vec<String>,
    lines: usize,
    /// How many bytes are whole lines.
    whole: usize,
}

/// What the ledger at `path` says; nothing if there is none.
///
/// # Errors
/// It cannot be read.
pub fn load(path: &Path) -> Result<Found> {
    bytes_of(path).map(|(bytes, is_cut)| read(&bytes, is_cut, path))
}

/// The ledger's bytes, and whether others come before them.
fn bytes_of(path: &Path) -> Result<(Vec<u8>, bool)> {
    let (mut bytes, before) =
        own_files::read(path, BYTES).with_context(|| format!("cannot read the ledger {}", path.display()))?;
    if before > 0 {
        // It begins in the middle of a line.
        let first = bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |end| end + 1);
        bytes.drain(..first);
    }
    Ok((bytes, before > 0))
}

/// What `bytes`, read from `path`, say; from the last line to the first, for the last one about an address counts.
fn read(bytes: &[u8], is_cut: bool, path: &Path) -> Found {
    // Half a line at the end was torn off; nobody was told of it.
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
    let mut found = Found { whole, lines, ..Found::default() };
    if is_cut {
        let text = format!("{} is longer than {} MiB; its beginning is left out", path.display(), BYTES >> 20);
        found.complaints.push(text);
    }
    let mut last: BTreeMap<IpAddr, Record> = BTreeMap::new();
    let mut damaged = Vec::new();
    let texts = bytes[..whole].strip_suffix(b"\n").unwrap_or_default().rsplit(|&byte| byte == b'\n');
    for (number, text) in (1..=lines).rev().zip(texts) {
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        match std::str::from_utf8(text).map_err(|_| "it is no text").and_then(str::parse::<Record>) {
            Ok(record) if last.contains_key(&record.address) => {}
            Ok(_) if last.len() == ADDRESSES => {
                let what =
                    format!("more than {ADDRESSES} addresses; what lines 1 to {number} say of others is left out");
                found.complaints.push(format!("{} has {what}", path.display()));
                break;
            }
            Ok(record) => drop(last.insert(record.address, record)),
            Err(why) => damaged.push((number, why)),
        }
    }
    damaged.reverse();
    let named = damaged.iter().take(NAMED);
    found
        .complaints
        .extend(named.map(|(number, why)| format!("{}, line {number}: {why}; it is left out", path.display())));
    if let Some(more @ 1..) = damaged.len().checked_sub(NAMED) {
        found.complaints.push(format!("{}: {more} more lines cannot be read and are left out", path.display()));
    }
    found.records = last.into_values().collect();
    found
}

impl Ledger {
    /// Reads the ledger at `path`, and opens it for more; a missing one is begun. Also returned: why it cannot be written
    /// yet, on a disk that is read-only, say.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<(Ledger, Found, Option<anyhow::Error>)> {
        let (bytes, is_cut) = bytes_of(path)?;
        let found = read(&bytes, is_cut, path);
        let mut ledger = Ledger { path: path.to_owned(), file: None, lines: 0, addresses: 0, is_behind: false };
        let refusal = ledger.open_for_more(&bytes, &found).err();
        Ok((ledger, found, refusal))
    }

    fn file(&mut self) -> Result<&mut File> {
        if self.file.is_none() {
            let (bytes, is_cut) = bytes_of(&self.path)?;
            self.open_for_more(&bytes, &read(&bytes, is_cut, &self.path))?;
        }
        self.file.as_mut().context("the ledger is not open")
    }

    /// Opens the file, of which `bytes` say what was `found`: without half a line at its end, and with nothing but whole
    /// lines in it, one with damaged lines being kept beside it as `….damaged`.
    fn open_for_more(&mut self, bytes: &[u8], found: &Found) -> Result<()> {
        let doing = || format!("cannot open the ledger {}", self.path.display());
        if !found.complaints.is_empty() {
            let kept = self.path.with_extension("damaged");
            own_files::create(&kept, 0o640)
                .and_then(|mut file| file.write_all(bytes))
                .with_context(|| format!("cannot keep a copy as {}", kept.display()))?;
            return self.write_anew(&found.records);
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
        self.file = Some(file);
        Ok(())
    }

    /// Appends `records`; they are on the disk when this returns.
    ///
    /// # Errors
    /// The disk is full, or the like: then none of them is in the ledger.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<()> {
        let mut count = 0;
        let text: String = records.into_iter().inspect(|_| count += 1).map(|record| format!("{record}\n")).collect();
        if count == 0 {
            return Ok(());
        }
        let path = self.path.clone();
        let doing = || format!("cannot write the ledger {}", path.display());
        let file = self.file()?;
        let length = file.metadata().with_context(doing)?.len();
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if let Err(error) = written {
            let _ = file.set_len(length);
            return Err(error).with_context(doing);
        }
        self.lines += count;
        Ok(())
    }

    /// Whether it is worth to be written anew.
    pub fn is_long(&self) -> bool {
        self.lines > (2 * self.addresses).min(self.addresses + SURPLUS) + SLACK
    }

    /// Whether it could not be written anew the last time: what it says is not what it was to say.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Writes the file anew, with these records; they are on the disk when this returns.
    ///
    /// # Errors
    /// The disk is full, or the like; the old one goes on.
    pub fn write_anew(&mut self, records: &[Record]) -> Result<()> {
        let new = self.path.with_extension("new");
        let written = own_files::create(&new, 0o640).and_then(|file| {
            // A full disk refuses the first of it.
            let mut out = BufWriter::with_capacity(64 << 10, file);
            out.write_all(HEADER.as_bytes())?;
            records.iter().try_for_each(|record| writeln!(out, "{record}"))?;
            let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
            Ok(file)
        });
        self.is_behind = written.is_err();
        match written {
            Ok(file) => {
                self.file = Some(file);
                (self.lines, self.addresses) = (records.len() + 1, records.len());
                Ok(())
            }
            Err(error) => {
                let _ = std::fs::remove_file(&new);
                // Not again for each line.
                self.addresses = self.lines;
                Err(error).with_context(|| format!("cannot write {}", new.display()))
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
        let (mut ledger, ..) = Ledger::open(&path).unwrap();
        ledger.append(&[record(1, 1), record(2, 1), record(1, 2)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let (mut ledger, found, _) = Ledger::open(&path).unwrap();
            assert_eq!(found.complaints, [] as [&str; 0]);
            let lines = bytes[..length].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(found.records.len(), lines.saturating_sub(1).min(2), "{length} bytes");
            ledger.append(&[record(3, 1)]).unwrap();
            let again = load(&path).unwrap();
            assert_eq!(again.records.last(), Some(&record(3, 1)), "{length} bytes");
            assert_eq!(again.records.len(), found.records.len() + 1);
        }
    }

    #[test]
    fn a_damaged_line_is_named_and_kept_and_the_others_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, ..) = Ledger::open(&path).unwrap();
        ledger.append(&[record(1, 1), record(2, 1)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let damaged = text.replace("203.0.113.1 ", "203.0.113.7 ");
        std::fs::write(&path, &damaged).unwrap();
        let (_, found, _) = Ledger::open(&path).unwrap();
        assert_eq!(found.records, [record(2, 1)]);
        assert!(found.complaints[0].contains("ledger, line 2: its checksum"), "{:?}", found.complaints);
        assert_eq!(std::fs::read_to_string(path.with_extension("damaged")).unwrap(), damaged);
        let (_, again, _) = Ledger::open(&path).unwrap();
        assert_eq!((again.records, again.complaints), (vec![record(2, 1)], Vec::new()));
    }

    #[test]
    fn it_is_written_anew_when_it_has_grown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, ..) = Ledger::open(&path).unwrap();
        for times in 0..=2 * SLACK as u32 {
            ledger.append(&[record(1, times)]).unwrap();
            if ledger.is_long() {
                ledger.write_anew(&load(&path).unwrap().records).unwrap();
            }
        }
        ledger.append(&[record(2, 1)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() < 100 * SLACK + 1_000, "{} bytes", bytes.len());
        assert_eq!(load(&path).unwrap().records, [record(1, 2 * SLACK as u32), record(2, 1)]);
    }

    /// Whoever took the daemon over may leave any file behind, and root reads it.
    #[test]
    fn a_file_without_an_end_is_read_in_part() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        std::fs::write(&path, "").unwrap();
        File::options().append(true).open(&path).unwrap().set_len(8 << 30).unwrap();
        let mut file = File::options().append(true).open(&path).unwrap();
        write!(file, "\n{}\n", record(1, 1)).unwrap();
        let (mut ledger, found, refusal) = Ledger::open(&path).unwrap();
        assert!(refusal.is_none());
        assert_eq!(found.records, [record(1, 1)]);
        assert!(found.complaints[0].contains("longer than 64 MiB"), "{:?}", found.complaints);
        ledger.append(&[record(2, 1)]).unwrap();
        assert_eq!(load(&path).unwrap().records, [record(1, 1), record(2, 1)]);
        assert!(std::fs::metadata(&path).unwrap().len() < 1_000);
    }

    #[test]
    fn of_too_many_addresses_the_newest_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let of = |number: usize| Record {
            address: std::net::Ipv4Addr::from_bits(u32::try_from(number).unwrap()).into(),
            why: String::new(),
            ..record(0, 1)
        };
        let text: String = (0..ADDRESSES + 7).map(|number| format!("{}\n", of(number))).collect();
        std::fs::write(&path, text).unwrap();
        let found = load(&path).unwrap();
        assert_eq!((found.records.len(), found.records[0].address), (ADDRESSES, of(7).address));
        assert!(found.complaints[0].contains("lines 1 to 7 "), "{:?}", found.complaints);
    }

    #[test]
    fn damaged_lines_are_not_named_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        std::fs::write(&path, "rubbish\n".repeat(1_000)).unwrap();
        let found = load(&path).unwrap();
        assert_eq!(found.complaints.len(), NAMED + 1);
        assert!(found.complaints[0].contains("line 1:") && found.complaints[NAMED].contains("990 more lines"));
    }
}

//! What a run did, written before it is done: a line of JSON a record, synced before the change it is about.
//!
//! Format 1, kept readable by every later version: docs/journal.md. A last line without its newline was cut
//! off by a kill or a power cut; what it announced was not begun.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::change::FileKind;

/// One line of a journal. New kinds may be added; a reader that does not know one must refuse to undo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// The first: who wrote this, when, and what the packet filter held.
    Started {
        format: u32,
        program: String,
        /// RFC 3339, UTC.
        at: String,
        rules_v4: String,
        rules_v6: String,
    },
    /// A file is about to change. `before` and `after` name copies beside the journal.
    File {
        path: PathBuf,
        kind: FileKind,
        before: Option<Kept>,
        after: Option<String>,
        /// Directories that did not exist and are about to be made, outermost first.
        #[serde(default)]
        new_directories: Vec<PathBuf>,
    },
    /// The history file's length in bytes, so that what was blocked since can be told.
    History { path: PathBuf, length: u64 },
    /// Packages are about to be installed; `before` is every package installed until now.
    Packages { before: Vec<String>, wanted: Vec<String> },
    /// They are; `installed` came new, dependencies included.
    PackagesDone { installed: Vec<String> },
    /// A unit is about to be enabled, disabled, started or stopped.
    Unit {
        unit: String,
        enabled: String,
        active: bool,
        /// Directories of its link that did not exist and are about to be made, outermost first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        new_directories: Vec<PathBuf>,
    },
    /// It is to be confirmed by then, else it is taken back; the last of these counts.
    AwaitsConfirmation {
        until: jiff::Timestamp,
        /// The same by the clock that nobody sets, in milliseconds since the boot.
        uptime: u64,
        /// In seconds.
        within: u64,
    },
    /// Somebody confirmed it.
    Confirmed { at: String },
    /// Nobody did in time, and it is about to be taken back.
    Unconfirmed { at: String },
    /// The run came to its end.
    Finished { at: String },
    /// It was taken back.
    Undone { at: String },
}

/// The copy of a file as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Name of the copy, below the run's directory.
    pub copy: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A journal open for more records.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    file: File,
    copies: usize,
}

impl Journal {
    /// Opens the journal in `directory`, making both if they are not there, and cuts off a torn last line.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(directory: &Path) -> Result<Journal> {
        let doing = || format!("cannot write the journal in {}", directory.display());
        for place in [directory.to_owned(), directory.join("before"), directory.join("after")] {
            fs::create_dir_all(&place).with_context(doing)?;
        }
        let path = directory.join("journal");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(doing)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(doing)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64).with_context(doing)?;
        file.seek(SeekFrom::End(0)).with_context(doing)?;
        let copies = fs::read_dir(directory.join("before")).with_context(doing)?.count()
            + fs::read_dir(directory.join("after")).with_context(doing)?.count();
        sync(directory)?;
        Ok(Journal { directory: directory.to_owned(), file, copies })
    }

    /// Adds `record` and returns once it is on the disk.
    ///
    /// # Errors
    /// The file system refuses; then the change must not be made.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record).context("cannot write a journal record")?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("cannot write the journal in {}; free some space there", self.directory.display()))
    }

    /// Keeps a copy of `bytes` as `before/N`, `after/N` or `edited/N` and returns that name.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn keep(&mut self, when: &str, bytes: &[u8]) -> Result<String> {
        self.copies += 1;
        let name = format!("{when}/{:04}", self.copies);
        let path = self.directory.join(&name);
        let doing = || format!("cannot keep a copy in {}; free some space there", self.directory.display());
        fs::create_dir_all(self.directory.join(when)).with_context(doing)?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).with_context(doing)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).with_context(doing)?;
        sync(&self.directory.join(when))?;
        Ok(name)
    }
}

/// Reads the journal in `directory`; a torn last line is left out.
///
/// # Errors
/// A line that is no record: the journal is of a newer version, or damaged.
pub fn read(directory: &Path) -> Result<Vec<Record>> {
    let path = directory.join("journal");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut records = Vec::new();
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let record: Record = serde_json::from_slice(line).with_context(|| {
            format!(
                "{}, line {}: no record that this version knows; was it written by a newer one?",
                path.display(),
                index + 1
            )
        })?;
        if let Record::Started { format, .. } = record
            && format != 1
        {
            bail!("{}: journal format {format} is newer than this program (format 1)", path.display());
        }
        records.push(record);
    }
    Ok(records)
}

fn sync(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .with_context(|| format!("cannot sync {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_cut_off_and_the_next_record_stands_alone() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::Finished { at: "2026-11-24T00:00:00Z".into() };
        Journal::open(directory.path()).unwrap().add(&record).unwrap();
        let path = directory.path().join("journal");
        let mut text = fs::read(&path).unwrap();
        text.extend(b"{\"record\":\"fin");
        fs::write(&path, text).unwrap();
        assert_eq!(read(directory.path()).unwrap(), std::slice::from_ref(&record));
        Journal::open(directory.path()).unwrap().add(&record).unwrap();
        assert_eq!(read(directory.path()).unwrap(), [record.clone(), record]);
    }

    #[test]
    fn a_journal_of_the_first_version_stays_readable() {
        let directory = tempfile::tempdir().unwrap();
        let text = concat!(
            "{\"record\":\"started\",\"format\":1,\"program\":\"0.1.0\",\"at\":\"2026-11-24T00:00:00Z\",\"rules_v4\":\"-P INPUT ACCEPT\",\"rules_v6\":\"\"}\n",
            "{\"record\":\"packages\",\"before\":[\"dpkg\"],\"wanted\":[\"portsentry\"]}\n",
            "{\"record\":\"packages-done\",\"installed\":[\"portsentry\"]}\n",
            "{\"record\":\"history\",\"path\":\"/var/lib/portsentry/portsentry.history\",\"length\":0}\n",
            "{\"record\":\"file\",\"path\":\"/etc/x\",\"kind\":\"address-list\",\"before\":{\"copy\":\"before/0001\",\"mode\":420,\"uid\":0,\"gid\":0},\"after\":\"after/0002\"}\n",
            "{\"record\":\"unit\",\"unit\":\"fail2ban.service\",\"enabled\":\"enabled\",\"active\":true}\n",
            "{\"record\":\"awaits-confirmation\",\"until\":\"2026-11-24T00:02:00Z\",\"uptime\":1000,\"within\":60}\n",
            "{\"record\":\"finished\",\"at\":\"2026-11-24T00:01:00Z\"}\n",
            "{\"record\":\"confirmed\",\"at\":\"2026-11-24T00:01:30Z\"}\n",
            "{\"record\":\"unconfirmed\",\"at\":\"2026-11-24T00:02:00Z\"}\n",
            "{\"record\":\"undone\",\"at\":\"2026-11-24T00:02:00Z\"}\n",
        );
        fs::write(directory.path().join("journal"), text).unwrap();
        assert_eq!(read(directory.path()).unwrap().len(), 11);
    }

    #[test]
    fn a_newer_journal_is_refused_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("journal"), "{\"record\":\"teleported\"}\n").unwrap();
        let error = read(directory.path()).unwrap_err().to_string();
        assert!(error.contains("line 1: no record that this version knows"), "{error}");
    }
}

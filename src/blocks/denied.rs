//! The file that one line of /etc/hosts.deny names: `ALL: /var/lib/harden-portsentry/denied`. libwrap reads it anew for
//! each connection: an address a line, IPv6 in brackets (hosts_access(5)).

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{Result, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::own_files;

/// The file and what is in it.
pub struct Denied {
    path: PathBuf,
    addresses: BTreeSet<IpAddr>,
    /// It could not be written; it is tried again with the next change.
    is_behind: bool,
}

impl Denied {
    /// The file at `path`, which is going to hold `addresses` only.
    pub fn new(path: &Path, addresses: impl Iterator<Item = IpAddr>) -> Denied {
        Denied { path: path.to_owned(), addresses: addresses.collect(), is_behind: true }
    }

    /// Adds and takes away.
    ///
    /// # Errors
    /// It cannot be written; the next change tries all of it again.
    pub fn change(&mut self, add: &[IpAddr], take: &[IpAddr]) -> Result<()> {
        let mut new: Vec<IpAddr> = add.iter().copied().filter(|address| self.addresses.insert(*address)).collect();
        new.retain(|address| !take.contains(address));
        let fewer = take.iter().filter(|address| self.addresses.remove(*address)).count() > 0;
        let result = if self.is_behind || fewer {
            self.write_anew()
        } else if new.is_empty() {
            return Ok(());
        } else {
            self.append(&text(new.iter()))
        };
        self.is_behind = result.is_err();
        result
    }

    /// All of it or nothing: half an address is another one, or a network.
    fn append(&self, text: &str) -> Result<()> {
        let mut file = own_files::open(&self.path, OpenOptions::new().append(true))?;
        let length = file.metadata()?.len();
        let written = file.write_all(text.as_bytes());
        if written.is_err() {
            let _ = file.set_len(length);
        }
        written
    }

    /// Beside and in its place, so that nobody reads half of it.
    fn write_anew(&self) -> Result<()> {
        let new = self.path.with_extension("new");
        let written = own_files::create(&new, 0o644)
            .and_then(|mut file| file.write_all(text(self.addresses.iter()).as_bytes()))
            .and_then(|()| std::fs::rename(&new, &self.path));
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written
    }
}

fn text<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> String {
    addresses
        .map(|address| match address {
            IpAddr::V4(v4) => format!("{v4}\n"),
            IpAddr::V6(v6) => format!("[{v6}]\n"),
        })
        .collect()
}

/// Writes [`super::DENIED`] from the ledger, as root: those who read it are root, too, and read what they find.
///
/// # Errors
/// The ledger cannot be read, or the file not written.
pub fn publish_denied() -> anyhow::Result<()> {
    use anyhow::Context;
    let ledger = Path::new(super::DIRECTORY).join("ledger");
    let bytes = own_files::read(&ledger).with_context(|| format!("cannot read {}", ledger.display()))?;
    let now = super::Now::read();
    let mut state = super::State::new(super::Terms::default(), now.boot);
    state.restore(&super::ledger::read(&bytes, &ledger).records, now);
    let addresses: Vec<IpAddr> = state.live(now.boot).map(|(address, _)| address).collect();
    let path = Path::new(super::DENIED);
    Denied::new(path, addresses.into_iter())
        .change(&[], &[])
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_shrinks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("denied");
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut denied = Denied::new(&path, [address("203.0.113.9")].into_iter());
        let read = || std::fs::read_to_string(&path).unwrap();
        denied.change(&[], &[]).unwrap();
        assert_eq!(read(), "203.0.113.9\n");
        denied.change(&[address("2001:db8::9"), address("203.0.113.9")], &[]).unwrap();
        assert_eq!(read(), "203.0.113.9\n[2001:db8::9]\n");
        denied.change(&[address("203.0.113.7")], &[address("203.0.113.9"), address("203.0.113.1")]).unwrap();
        assert_eq!(read(), "203.0.113.7\n[2001:db8::9]\n");
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not-yet/denied");
        let mut denied = Denied::new(&path, std::iter::empty());
        assert!(denied.change(&[[203, 0, 113, 9].into()], &[]).is_err());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        denied.change(&[], &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "203.0.113.9\n");
    }
}

//! The file that one line of /etc/hosts.deny names: `ALL: /var/lib/harden-portsentry/denied`. libwrap reads it anew for
//! each connection: an address a line, IPv6 in brackets (hosts_access(5)).
//!
//! It is read by root's sshd, which follows each word of it that begins with a slash and takes words of any length; so it
//! is root's, and holds nothing but addresses that were parsed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::clock::Now;
use super::state::State;
use super::terms::IN_ALL;
use super::{DIRECTORY, ledger, own_files};

/// Where it is.
pub const DENIED: &str = "/var/lib/harden-portsentry/denied";
const MODE: u32 = 0o644;

/// Has the file at [`DENIED`] say who is blocked now, as the ledger has it; for root. One that says so already stays as it
/// is, anything else there is replaced.
///
/// # Errors
/// The ledger cannot be read, or the file not be written; then it says what it said before.
pub fn publish_denied() -> Result<Published> {
    publish(&Path::new(DIRECTORY).join("ledger"), Path::new(DENIED), Now::read())
}

/// What the file says now.
#[derive(Debug)]
pub struct Published {
    /// Whether somebody of whom it said so before is not blocked any more.
    pub some_are_free: bool,
}

fn publish(ledger: &Path, file: &Path, now: Now) -> Result<Published> {
    let blocked = in_ledger(ledger, now)?;
    let some_are_free = named(file).iter().any(|address| !blocked.contains(address));
    name(file, blocked.iter().copied())?;
    Ok(Published { some_are_free })
}

/// Who is blocked, as the ledger has it.
///
/// # Errors
/// It cannot be read.
pub fn blocked() -> Result<BTreeSet<IpAddr>> {
    in_ledger(&Path::new(DIRECTORY).join("ledger"), Now::read())
}

fn in_ledger(ledger: &Path, now: Now) -> Result<BTreeSet<IpAddr>> {
    let mut state = State::of(&ledger::load(ledger)?.records, now);
    // No daemon blocks more.
    state.beyond(IN_ALL).into_iter().for_each(|address| state.put_back(address, None));
    Ok(state.live(now.boot).map(|(address, _)| address).collect())
}

/// Whom the file at [`DENIED`] names now.
pub fn denied_now() -> BTreeSet<IpAddr> {
    named(Path::new(DENIED))
}

/// Whom `file` names.
fn named(file: &Path) -> BTreeSet<IpAddr> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.trim_matches(['[', ']']).parse().ok()).collect()
}

/// Has `file` name these.
pub fn name(file: &Path, blocked: impl Iterator<Item = IpAddr>) -> Result<()> {
    let text = text(blocked.collect());
    if says(file, &text) {
        return Ok(());
    }
    // Half an address is another one, or a network. Not synced: after a power cut it is written anew before the network is up.
    own_files::replace(file, &file.with_extension("new"), &text)
        .with_context(|| format!("cannot write {}", file.display()))
}

fn text(addresses: BTreeSet<IpAddr>) -> String {
    addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(v4) => format!("{v4}\n"),
            IpAddr::V6(v6) => format!("[{v6}]\n"),
        })
        .collect()
}

/// Whether the file is ours and holds `text`.
fn says(file: &Path, text: &str) -> bool {
    file.symlink_metadata().is_ok_and(|found| {
        found.is_file()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & 0o777 == MODE
            && found.len() == text.len() as u64
    }) && std::fs::read(file).is_ok_and(|bytes| bytes == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::super::record::{By, Record};
    use super::super::terms::Terms;
    use super::*;

    const CALENDAR: i64 = 1_800_000_000_000;

    fn at(boot: i64) -> Now {
        Now { boot, calendar: CALENDAR + boot }
    }

    fn host(last: u8) -> IpAddr {
        [203, 0, 113, last].into()
    }

    /// A ledger with these lines, in a directory of its own.
    fn ledger_of(records: &[Record]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        std::fs::write(directory.path().join("ledger"), lines).unwrap();
        directory
    }

    fn published(directory: &Path, now: Now) -> String {
        publish(&directory.join("ledger"), &directory.join("denied"), now).unwrap();
        std::fs::read_to_string(directory.join("denied")).unwrap()
    }

    #[test]
    fn it_names_who_is_blocked_now() {
        let mut state = State::new(Terms::default(), 0);
        let minute = Some(Duration::from_secs(60));
        state.ask(host(9), Some(minute), By::Hand, "a minute", at(0));
        state.ask("2001:db8::9".parse().unwrap(), Some(None), By::Hand, "for ever", at(0));
        state.ask(host(7), Some(None), By::Hand, "not for long", at(0));
        let mut records = state.records(at(0));
        records.push(state.free(host(7), By::Hand, "a mistake", at(1)).unwrap());
        let directory = ledger_of(&records);
        assert_eq!(published(directory.path(), at(1_000)), "203.0.113.9\n[2001:db8::9]\n");
        assert_eq!(published(directory.path(), at(60_000)), "[2001:db8::9]\n", "its time is over");
        // A clock that is behind: what had not begun begins now.
        assert_eq!(published(directory.path(), Now { boot: 0, calendar: 0 }), "203.0.113.9\n[2001:db8::9]\n");
        std::fs::remove_file(directory.path().join("ledger")).unwrap();
        assert_eq!(published(directory.path(), at(0)), "");
    }

    #[test]
    fn what_stands_there_is_replaced_and_not_written_to() {
        let directory = ledger_of(&[]);
        let at_path = |name: &str| directory.path().join(name);
        std::fs::write(at_path("secret"), "secret").unwrap();
        for name in ["denied", "denied.new"] {
            std::os::unix::fs::symlink(at_path("secret"), at_path(name)).unwrap();
        }
        assert_eq!(published(directory.path(), at(0)), "");
        let found = at_path("denied").symlink_metadata().unwrap();
        assert!(found.is_file() && found.mode() & 0o777 == MODE);
        assert_eq!(std::fs::read_to_string(at_path("secret")).unwrap(), "secret");
        published(directory.path(), at(0));
        assert_eq!(at_path("denied").symlink_metadata().unwrap().ino(), found.ino(), "nothing changed");
        std::fs::set_permissions(at_path("denied"), Permissions::from_mode(0o666)).unwrap();
        published(directory.path(), at(0));
        assert_eq!(at_path("denied").symlink_metadata().unwrap().mode() & 0o777, MODE);
    }

    #[test]
    fn nothing_but_addresses_comes_through() {
        let directory = ledger_of(&[]);
        let rest = "2026-11-27T06:12:00Z block /etc/shadow forever 1 hand x";
        let line = format!("{:08x} {rest}\n/etc/passwd\n", crc32fast::hash(rest.as_bytes()));
        std::fs::write(directory.path().join("ledger"), line).unwrap();
        assert_eq!(published(directory.path(), at(0)), "");
    }
}

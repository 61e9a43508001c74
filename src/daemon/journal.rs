//! journald's native protocol: a datagram for each line, with fields for what a scan's line says.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. The crates that speak it log through `log`, by records of its own form,
//! and what is needed of it is a page.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::decide::Scan;
use super::output::Parcel;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// As much as sd_journal_send(3) asks for: journald may be behind by so many bytes.
const SEND_BUFFER: usize = 8 << 20;
/// Facility daemon, which is what systemd gives a service's standard output.
const FACILITY: u8 = 3;

/// Priorities of syslog(3).
const ERROR: u8 = 3;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFO: u8 = 6;

/// Speaks to journald.
pub struct Journal {
    path: PathBuf,
    /// Connected when there is something to say, and anew when it was refused.
    socket: Option<UnixDatagram>,
    identifier: String,
    entry: Vec<u8>,
}

impl Journal {
    /// The journal, if that is what standard output goes to (systemd.exec(5), `$JOURNAL_STREAM`).
    pub fn behind_stdout() -> Option<Journal> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stat = fstat(rustix::stdio::stdout()).ok()?;
        // As systemd names the lines of standard output.
        let program = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        is_stream(&stream, stat.st_dev, stat.st_ino).then(|| Journal::at(Path::new(SOCKET), &name))
    }

    fn at(path: &Path, identifier: &str) -> Journal {
        Journal { path: path.to_owned(), socket: None, identifier: identifier.to_owned(), entry: Vec::new() }
    }

    /// Writes the log of `parcel`, in order; what the journal does not take goes to `instead`. Waits for a journal that
    /// is behind.
    pub fn write(&mut self, parcel: &Parcel, instead: &mut dyn Write) {
        let mut scans = parcel.scans.iter().peekable();
        let (mut start, mut works) = (0, true);
        for line in parcel.log.split_inclusive('\n') {
            let scan = scans.next_if(|(at, _)| *at == start).map(|(_, scan)| scan);
            start += line.len();
            let text = line.strip_suffix('\n').unwrap_or(line);
            if text.is_empty() {
                continue;
            }
            self.compose(text, scan);
            let taken = works && self.send(&mut works);
            if !taken {
                let _ = instead.write_all(line.as_bytes());
            }
        }
        let _ = instead.flush();
    }

    /// Puts the datagram together.
    fn compose(&mut self, line: &str, scan: Option<&Scan>) {
        let entry = &mut self.entry;
        entry.clear();
        // To a vector that cannot fail. No value has a newline in it.
        let _ = write!(
            entry,
            "MESSAGE={line}\nPRIORITY={}\nSYSLOG_FACILITY={FACILITY}\nSYSLOG_IDENTIFIER={}\n",
            priority(line, scan.is_some()),
            self.identifier
        );
        if let Some(Scan { probe, blocked, rule, .. }) = scan {
            let _ = write!(
                entry,
                "PORTSENTRY_SOURCE={}\nPORTSENTRY_PORT={}\nPORTSENTRY_PROTOCOL={}\nPORTSENTRY_KIND={}\nPORTSENTRY_BLOCKED={}\nPORTSENTRY_RULE={rule}\n",
                probe.source,
                probe.port,
                probe.kind.protocol(),
                probe.kind.name(),
                blocked.name(),
            );
        }
    }

    /// Whether journald took it. `works` becomes false where trying again is of no use now.
    fn send(&mut self, works: &mut bool) -> bool {
        // It may have been started anew since the last time.
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = connect(&self.path).ok();
            }
            let Some(socket) = &self.socket else { break };
            match socket.send(&self.entry) {
                Ok(_) => return true,
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => return false,
                Err(_) => self.socket = None,
            }
        }
        *works = false;
        false
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    // With less it works as well.
    let _ = set_socket_send_buffer_size(&socket, SEND_BUFFER);
    Ok(socket)
}

/// Whether `stream`, `DEVICE:INODE` in decimal, is this one.
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(of, number)| of.parse() == Ok(device) && number.parse() == Ok(inode))
}

fn priority(line: &str, is_scan: bool) -> u8 {
    match line {
        _ if is_scan => NOTICE,
        _ if line.contains("alert: ERROR: ") => ERROR,
        _ if line.starts_with("adminalert: warning: ") => WARNING,
        _ if line.starts_with("attackalert: ") => NOTICE,
        _ => INFO,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::decide::{Reaction, Rule, Word};
    use super::super::lines::Lines;
    use super::super::probe::{IpOptions, Kind, Probe, SYN};
    use super::*;
    use crate::syntax::Dialect;

    fn parcel() -> Parcel {
        let probe = Probe {
            source: "2001:db8::9".parse().unwrap(),
            destination: "2001:db8::1".parse().unwrap(),
            port: 23,
            kind: Kind::Tcp(SYN),
            ip_options: IpOptions::Unknown,
        };
        let scan = Scan {
            probe,
            ignored: false,
            triggered: Word::True,
            noblock: Word::False,
            blocked: Word::True,
            reaction: Reaction::Nothing,
            rule: Rule::ScanPorts,
            insists: false,
        };
        let mut parcel = Parcel::default();
        parcel.say("adminalert: ERROR: first");
        let done = ["attackalert: Host 2001:db8::9 has been blocked".to_owned()];
        Lines::new(Dialect::V2).tell(&scan, None, Timestamp::UNIX_EPOCH, &done, &[], &mut parcel);
        parcel.say("last");
        parcel
    }

    fn received(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut bytes = vec![0; 8 << 10];
        let entries = std::iter::from_fn(|| socket.recv(&mut bytes).ok().map(|length| bytes[..length].to_vec()));
        entries.map(|entry| String::from_utf8(entry).unwrap()).collect()
    }

    #[test]
    fn each_line_is_an_entry_and_a_scans_has_fields() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let (parcel, mut stdout) = (parcel(), Vec::new());
        Journal::at(&path, "portsentry").write(&parcel, &mut stdout);
        assert_eq!(stdout, b"");
        let entries = received(&socket);
        let messages: String =
            entries.iter().map(|entry| format!("{}\n", &entry.lines().next().unwrap()["MESSAGE=".len()..])).collect();
        assert_eq!(messages, parcel.log, "the same lines in the same order");
        let rest = |entry: &str| entry.lines().skip(1).collect::<Vec<_>>().join(" ");
        let common = |priority: u8| format!("PRIORITY={priority} SYSLOG_FACILITY=3 SYSLOG_IDENTIFIER=portsentry");
        assert_eq!([0, 1, 3].map(|at| rest(&entries[at])), [3, 5, 6].map(common));
        assert_eq!(
            rest(&entries[2]),
            common(5)
                + " PORTSENTRY_SOURCE=2001:db8::9 PORTSENTRY_PORT=23 PORTSENTRY_PROTOCOL=TCP PORTSENTRY_KIND=syn \
                   PORTSENTRY_BLOCKED=true PORTSENTRY_RULE=SCAN_PORTS"
        );
    }

    #[test]
    fn what_the_journal_does_not_take_goes_to_stdout_and_one_that_is_back_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (parcel, mut stdout) = (parcel(), Vec::new());
        let mut journal = Journal::at(&path, "portsentry");
        for _ in 0..2 {
            journal.write(&parcel, &mut stdout);
            assert_eq!(stdout, parcel.log.as_bytes());
            stdout.clear();
            // The next round: there is one that nobody holds any more.
            drop(UnixDatagram::bind(&path));
        }
        std::fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            let socket = UnixDatagram::bind(&path).unwrap();
            journal.write(&parcel, &mut stdout);
            assert_eq!((stdout.len(), received(&socket).len()), (0, 4));
            std::fs::remove_file(&path).unwrap();
        }
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut large = Parcel::default();
        large.say("before");
        large.say(&"x".repeat(64 << 20));
        large.say("after");
        journal.write(&large, &mut stdout);
        assert_eq!((stdout.len(), received(&socket).len()), ((64 << 20) + 1, 2), "one that is too long for a datagram");
    }

    #[test]
    fn standard_output_is_the_journal_where_the_numbers_say_so() {
        assert!(is_stream("9:18446744073709551615", 9, u64::MAX));
        for other in ["", "9", "9:8", "8:7", "9:x", ":", "9:7:"] {
            assert!(!is_stream(other, 9, 7), "{other}");
        }
    }
}

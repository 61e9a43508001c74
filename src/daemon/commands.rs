//! What portsentry.conf has done to a scanner: KILL_HOSTS_DENY, KILL_ROUTE, KILL_RUN_CMD. Here it is done, by the daemon
//! itself or by the responder.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Result, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::config::Config;
use crate::host::Invocation;

/// How long a command may take before it and its children are killed.
pub const LIMIT: Duration = Duration::from_secs(30);
const HOSTS_DENY: &str = "/etc/hosts.deny";
/// hosts.deny is read for each connection of a service: beyond so many bytes nothing is added.
const HOSTS_DENY_BYTES: u64 = 1 << 20;

/// The commands of the configuration, with the mode that `$MODE$` stands for.
#[derive(Debug, Clone)]
pub struct Commands {
    pub mode: &'static str,
    pub route: Option<String>,
    pub hosts_deny: Option<String>,
    pub run: Option<String>,
    pub run_first: bool,
}

impl Commands {
    pub fn of(config: &Config, mode: &'static str) -> Commands {
        Commands {
            mode,
            route: config.kill_route.clone(),
            hosts_deny: config.kill_hosts_deny.clone(),
            run: config.kill_run_cmd.clone(),
            run_first: config.kill_run_cmd_first,
        }
    }

    /// `template` for this target. What is put in is an address, a number and a mode: nothing that a shell would obey.
    fn filled(&self, template: &str, target: &str, port: u16) -> String {
        template.replace("$TARGET$", target).replace("$PORT$", &port.to_string()).replace("$MODE$", self.mode)
    }

    /// The command, or the line, of `deed`; `None` where the configuration has none.
    pub fn text(&self, deed: Deed, target: IpAddr, port: u16) -> Option<String> {
        let template = match deed {
            Deed::Route => self.route.as_ref()?,
            Deed::Deny => self.hosts_deny.as_ref()?,
            Deed::Command => self.run.as_ref()?,
        };
        Some(if deed == Deed::Deny && target.is_ipv6() {
            // libwrap reads an IPv6 address in brackets only.
            self.filled(&template.replace("[$TARGET$]", "$TARGET$"), &format!("[{target}]"), port)
        } else {
            self.filled(template, &target.to_string(), port)
        })
    }

    /// Does it, here; how it ended, and its last words if it failed.
    pub fn carry_out(&self, deed: Deed, target: IpAddr, port: u16) -> (Ended, String) {
        match (deed, self.text(deed, target, port)) {
            (_, None) => (Ended::NotStarted, String::new()),
            (Deed::Deny, Some(line)) => match add_line(Path::new(HOSTS_DENY), &line) {
                Ok(()) => (Ended::Done, String::new()),
                Err(error) => (Ended::NotStarted, format!("cannot write {HOSTS_DENY}: {error}")),
            },
            (Deed::Route | Deed::Command, Some(command)) => run(&command, LIMIT),
        }
    }
}

/// What the configuration can have done to a scanner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// KILL_ROUTE.
    Route,
    /// KILL_HOSTS_DENY.
    Deny,
    /// KILL_RUN_CMD.
    Command,
}

/// How a deed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    Done,
    /// With this status.
    Exited(i32),
    Signalled,
    /// It was killed after [`LIMIT`].
    TookTooLong,
    NotStarted,
}

impl fmt::Display for Ended {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Done => out.write_str("was done"),
            Ended::Exited(status) => write!(out, "exited with {status}"),
            Ended::Signalled => out.write_str("was ended by a signal"),
            Ended::TookTooLong => write!(out, "did not end within {} s; it was killed", LIMIT.as_secs()),
            Ended::NotStarted => out.write_str("could not be started"),
        }
    }
}

fn run(command: &str, limit: Duration) -> (Ended, String) {
    let start = Instant::now();
    let invocation = Invocation::new("/bin/sh", &["-c", command]).within(limit).without_stdout();
    match invocation.run() {
        Ok(output) if output.ok() => (Ended::Done, String::new()),
        Ok(output) => (output.status.map_or(Ended::Signalled, Ended::Exited), output.last_words().replace('\n', "; ")),
        Err(_) if start.elapsed() >= limit => (Ended::TookTooLong, String::new()),
        Err(error) => (Ended::NotStarted, format!("{error:#}").replace('\n', "; ")),
    }
}

/// Adds `line` to a file of TCP wrappers, once, and as a whole: of `ALL: 203.0.113.9` the beginning denies a network. A last
/// line that has no newline gets one first, for libwrap would read both as one.
fn add_line(path: &Path, line: &str) -> Result<()> {
    let mut file: File = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    if bytes.split(|&byte| byte == b'\n').any(|known| known == line.as_bytes()) {
        return Ok(());
    }
    let open_end = bytes.last().is_some_and(|&byte| byte != b'\n');
    let text = format!("{}{line}\n", if open_end { "\n" } else { "" });
    let length = bytes.len() as u64;
    if length + text.len() as u64 > HOSTS_DENY_BYTES {
        return Err(Error::other(format!(
            "it has {length} bytes, and is to have {HOSTS_DENY_BYTES} at most; take old lines out"
        )));
    }
    file.write_all(text.as_bytes()).inspect_err(|_| {
        let _ = file.set_len(length);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child that goes on would hold its output, and be waited for.
    #[test]
    fn a_command_that_takes_too_long_is_killed_with_its_children_and_has_failed() {
        let start = std::time::Instant::now();
        let (ended, _) = run("sleep 20 & wait", Duration::from_millis(100));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(ended, Ended::TookTooLong);
        assert!(ended.to_string().contains("it was killed"), "{ended}");
    }

    #[test]
    fn a_line_of_hosts_deny_comes_once_and_on_a_line_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts.deny");
        std::fs::write(&path, "# no newline").unwrap();
        for _ in 0..2 {
            add_line(&path, "ALL: [fd66::9] : DENY").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# no newline\nALL: [fd66::9] : DENY\n");
    }

    #[test]
    fn hosts_deny_does_not_grow_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts.deny");
        let before = "ALL: 203.0.113.9\n".repeat(HOSTS_DENY_BYTES as usize / 17);
        std::fs::write(&path, &before).unwrap();
        let error = add_line(&path, "ALL: 203.0.113.10 : DENY").unwrap_err().to_string();
        assert!(error.contains("take old lines out"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    }

    /// Its exit is the end, in both peers.
    #[test]
    fn a_command_in_the_background_is_done_at_once() {
        let start = Instant::now();
        assert_eq!(run("sleep 60 &", LIMIT).0, Ended::Done);
        assert!(start.elapsed() < LIMIT / 2);
    }
}

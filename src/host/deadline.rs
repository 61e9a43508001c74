//! The time within which an apply is to be confirmed: a timer of systemd, which outlives this process and the session it
//! is in, and a unit that a boot starts as well, since the timer goes with a boot.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use askama::Template;
use rustix::time::{ClockId, clock_gettime};

use super::commands::Invocation;
use super::{Host, ServiceManager};

const UNIT: &str = "harden-portsentry-confirm.service";
const TIMER: &str = "harden-portsentry-confirm.timer";
const UNIT_FILE: &str = "/etc/systemd/system/harden-portsentry-confirm.service";
const DIRECTORY: &str = "/var/lib/harden-portsentry/confirm";
/// What the unit runs. Not where apply puts this program, for undo takes that away, nor where it was started from, for a
/// build directory goes. Not below /run, which is mounted noexec; below /var/lib dpkg's own scripts are run.
const PROGRAM: &str = "/var/lib/harden-portsentry/confirm/harden-portsentry";

#[derive(Template)]
#[template(path = "harden-portsentry-confirm.service", escape = "none")]
struct Service<'a> {
    program: &'a str,
}

impl Host {
    /// Has what is not confirmed taken back `within` that time, or at the next boot, whatever becomes of this process.
    ///
    /// # Errors
    /// systemd's own words, or the file system refuses; nothing is left of it then.
    pub fn arm(&self, within: Duration) -> Result<()> {
        let armed = self.set_up(within).context("cannot have it taken back by itself; nothing was changed");
        if armed.is_err() {
            let _ = self.disarm();
        }
        armed
    }

    fn set_up(&self, within: Duration) -> Result<()> {
        // Of an earlier time, if it was killed while it took that away.
        self.stop(TIMER)?;
        let from = std::env::current_exe().context("cannot tell where this program is")?;
        let program = std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(Path::new(PROGRAM), &program, 0o755)?;
        let mut text = Service { program: PROGRAM }.render().context("cannot fill a template")?;
        text.push('\n'); // askama drops the last one
        self.write(Path::new(UNIT_FILE), text.as_bytes(), 0o644)?;
        self.make_link(&self.wants_link(UNIT))?;
        self.reload_units()?;
        let active = format!("--on-active={}s", within.as_secs());
        // Without a command it makes the timer alone, for the unit that is there.
        let words = ["--quiet", &active, "--timer-property=AccuracySec=100ms", "--unit", UNIT];
        Invocation::new("systemd-run", &words).demand().map(drop)
    }

    /// Has all of the time begin again, and what waits for its end with it.
    ///
    /// # Errors
    /// systemctl's own words.
    pub fn rearm(&self) -> Result<()> {
        self.restart(TIMER)
    }

    /// Whether the timer is there. A boot takes it away.
    pub fn is_armed(&self) -> bool {
        if !self.is_live() {
            return false;
        }
        let units = self.units(&ServiceManager::Systemd, &[TIMER]).unwrap_or_default();
        units.get(TIMER).is_some_and(|timer| timer.active == "active")
    }

    /// Takes the timer away, and what it would have started; nothing to do where they are not.
    ///
    /// # Errors
    /// systemctl's own words, or the file system refuses.
    pub fn disarm(&self) -> Result<()> {
        if ![UNIT_FILE, DIRECTORY].iter().any(|path| self.exists(path)) {
            return Ok(());
        }
        self.stop(TIMER)?;
        // Last what says that there is something to take away.
        self.remove(&self.wants_link(UNIT).path)?;
        self.remove(Path::new(PROGRAM))?;
        self.remove_if_empty(Path::new(DIRECTORY));
        self.remove(Path::new(UNIT_FILE))?;
        self.reload_units()
    }
}

/// How long this kernel has been up, by the clock of such timers, which nobody sets.
pub fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_was_armed_nothing_is_written() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path()).unwrap();
        host.disarm().unwrap();
        assert_eq!(host.list("/"), [] as [&str; 0]);
    }

    #[test]
    fn nothing_is_left_of_it() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path()).unwrap();
        host.write(Path::new(PROGRAM), b"", 0o755).unwrap();
        host.write(Path::new(UNIT_FILE), b"", 0o644).unwrap();
        host.make_link(&host.wants_link(UNIT)).unwrap();
        host.disarm().unwrap();
        assert!(!host.exists(DIRECTORY) && !host.exists(UNIT_FILE), "{:?}", host.list("/etc/systemd/system"));
        assert_eq!(host.list("/etc/systemd/system/multi-user.target.wants"), [] as [&str; 0]);
    }
}

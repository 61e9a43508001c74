//! The user that the embedded portsentry runs as.

use anyhow::{Context, Result};

use super::{Host, Invocation};

/// Its name.
pub const EMBEDDED_USER: &str = "harden-portsentry";
/// By which systemd-sysusers(8) makes it.
pub const SYSUSERS: &str = "/etc/sysusers.d/harden-portsentry.conf";

impl Host {
    /// Whether there is such a user.
    pub fn has_user(&self, name: &str) -> bool {
        let text = self.text("/etc/passwd").unwrap_or_default();
        text.lines().any(|line| line.split(':').next() == Some(name))
    }

    /// Whether there is such a user, or is to be one.
    pub fn wants_user(&self, name: &str) -> bool {
        self.has_user(name) || self.exists(SYSUSERS)
    }

    /// The numbers of a user and its group, which is made if it is missing, as systemd-sysusers(8) would.
    ///
    /// # Errors
    /// The words of systemd-sysusers or useradd.
    pub fn make_user(&self, name: &str) -> Result<(u32, u32)> {
        if !self.has_user(name) {
            let made = Invocation::new("systemd-sysusers", &[SYSUSERS]).run().is_ok_and(|output| output.ok());
            if !made {
                let words = [
                    "--system",
                    "--user-group",
                    "--no-create-home",
                    "--home-dir",
                    "/",
                    "--shell",
                    "/usr/sbin/nologin",
                    name,
                ];
                Invocation::new("useradd", &words).demand().with_context(|| format!("cannot make the user {name}"))?;
            }
        }
        let text = self.text("/etc/passwd").unwrap_or_default();
        let line = text.lines().find(|line| line.split(':').next() == Some(name));
        let numbers = line.and_then(|line| {
            let mut cells = line.split(':').skip(2);
            Some((cells.next()?.parse().ok()?, cells.next()?.parse().ok()?))
        });
        numbers.with_context(|| format!("there is no user {name} in /etc/passwd"))
    }

    /// Removes a user, and the group that is its own, if there is one.
    ///
    /// # Errors
    /// userdel's own words.
    pub fn remove_user(&self, name: &str) -> Result<()> {
        if self.has_user(name) {
            Invocation::new("userdel", &[name]).demand().with_context(|| format!("cannot remove the user {name}"))?;
            // Its number may be somebody else's one day.
            let _ = Invocation::new("chown", &["-R", "-h", "root:root", &format!("/var/log/{name}")]).run();
        }
        Ok(())
    }
}

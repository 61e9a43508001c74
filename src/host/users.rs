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

    /// Removes a user, and the group that is its own, if there is one.
    ///
    /// # Errors
    /// userdel's own words.
    pub fn remove_user(&self, name: &str) -> Result<()> {
        if self.has_user(name) {
            Invocation::new("userdel", &[name]).demand().with_context(|| format!("cannot remove the user {name}"))?;
        }
        Ok(())
    }
}

//! The user that the embedded portsentry runs as.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

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

    /// Those of `paths` that a user cannot read, or, of directories, not go through. Tried as that user, or, while there is
    /// none of that name, as nobody; where that cannot be tried, what others may do counts. What is not there is left out.
    pub fn unreadable_by(&self, name: &str, paths: &[&str]) -> Vec<String> {
        let there: Vec<&str> = paths.iter().copied().filter(|path| self.exists(path)).collect();
        if self.is_live()
            && let Some(found) = self.tried_by(name, &there)
        {
            return found;
        }
        let is_closed = |path: &&str| {
            let meta = self.real_path(Path::new(path)).ok().and_then(|real| self.outside(&real).metadata().ok());
            meta.is_some_and(|meta| meta.mode() & if meta.is_dir() { 0o001 } else { 0o004 } == 0)
        };
        there.into_iter().filter(is_closed).map(str::to_owned).collect()
    }

    fn tried_by(&self, name: &str, paths: &[&str]) -> Option<Vec<String>> {
        const TRY: &str =
            "for path; do if test -d $path; then test -x $path; else test -r $path; fi || echo $path; done";
        let (user, group) = if self.has_user(name) { (name, name) } else { ("nobody", "nogroup") };
        let (user, group) = (format!("--reuid={user}"), format!("--regid={group}"));
        let words = [&[user.as_str(), &group, "--init-groups", "--", "sh", "-c", TRY, "sh"], paths].concat();
        let tried = Invocation::new("setpriv", &words).run().ok().filter(|output| output.ok())?;
        Some(tried.stdout.lines().map(str::to_owned).collect())
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

    /// Removes a user, and the group that is its own, if there is one. Its logs stay, unless they are empty.
    ///
    /// # Errors
    /// userdel's own words.
    pub fn remove_user(&self, name: &str) -> Result<()> {
        if self.has_user(name) {
            Invocation::new("userdel", &[name]).demand().with_context(|| format!("cannot remove the user {name}"))?;
            let logs = format!("/var/log/{name}");
            // Its number may be somebody else's one day.
            let _ = Invocation::new("chown", &["-R", "-h", "root:root", &logs]).run();
            let _ = Invocation::new("find", &[&logs, "-xdev", "-empty", "-delete"]).run();
            let _ = std::fs::remove_dir_all(self.outside(Path::new(&format!("/run/{name}"))));
        }
        Ok(())
    }
}

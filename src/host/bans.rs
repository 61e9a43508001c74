//! What fail2ban's portsentry jail remembers.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Host, Invocation};

const JAIL: &str = "portsentry";
/// Its action, as the jail of this program names it.
const ACTION: &str = "harden-portsentry";
/// How long fail2ban may take; it stands still while an action hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many addresses are words of one command.
const PARCEL: usize = 500;

impl Host {
    /// Frees whom the jail bans, and has it ban nobody until fail2ban is restarted or reads its jails anew. fail2ban keeps
    /// its bans in a database of its own and would bring them back with the next jail of this name. A server that does not
    /// answer has no bans in force either.
    pub fn release_bans(&self) {
        let _ = self.fail2ban(&["set", JAIL, "idle", "on"]);
        let _ = self.banned().and_then(|banned| self.unban(&banned));
    }

    /// Whom the jail bans; nobody, where there is no such jail or no fail2ban runs.
    ///
    /// # Errors
    /// fail2ban runs and does not answer.
    pub fn banned(&self) -> Result<Vec<IpAddr>> {
        let listed = self.fail2ban(&["get", JAIL, "banip"])?.unwrap_or_default();
        Ok(listed.split_whitespace().filter_map(|word| word.parse().ok()).collect())
    }

    /// Has the jail ban these no longer. Where its action would only have them unblocked one by one, it is spared that.
    ///
    /// # Errors
    /// fail2ban does not answer.
    pub fn unban(&self, addresses: &[IpAddr]) -> Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        let action = ["set", JAIL, "action", ACTION, "actionunban"];
        let unblocks = self
            .fail2ban(&["get", JAIL, "action", ACTION, "actionunban"])?
            .map(|text| text.trim().to_owned())
            .filter(|text| text.contains(" unblock "));
        if unblocks.is_some() {
            self.fail2ban(&[&action[..], &[""]].concat())?;
        }
        let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let unbanned = words.chunks(PARCEL).try_for_each(|parcel| {
            let parcel = parcel.iter().map(String::as_str);
            self.fail2ban(&["set", JAIL, "unbanip"].into_iter().chain(parcel).collect::<Vec<_>>()).map(drop)
        });
        if let Some(text) = unblocks {
            self.fail2ban(&[&action[..], &[&text]].concat())?;
        }
        unbanned
    }

    /// What fail2ban's server answers; `None` where none runs, or it refuses.
    fn fail2ban(&self, words: &[&str]) -> Result<Option<String>> {
        if !self.exists("/usr/bin/fail2ban-client") || !self.exists("/run/fail2ban/fail2ban.sock") {
            return Ok(None);
        }
        let output = Invocation::new("fail2ban-client", words)
            .within(PATIENCE)
            .run()
            .context("fail2ban does not answer: systemctl status fail2ban")?;
        Ok(output.ok().then_some(output.stdout))
    }
}

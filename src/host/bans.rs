//! What fail2ban's portsentry jail remembers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Host, Invocation, fail2ban_server};

const SOCKET: &str = "/run/fail2ban/fail2ban.sock";
/// The jail that the article turns on, and the file that this program has it in.
pub const JAIL: &str = "portsentry";
pub const JAIL_FILE: &str = "/etc/fail2ban/jail.d/portsentry.conf";
const ACTION_FILE: &str = "/etc/fail2ban/action.d/harden-portsentry.conf";
/// Its action, as the jail of this program names it.
const ACTION: &str = "harden-portsentry";
/// How long fail2ban may take; it stands still while an action hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an action takes at most, where nothing is wrong.
const A_WHILE: Duration = Duration::from_secs(2);
/// So many are unblocked one by one: to spare the action that takes three commands.
const FEW: usize = 50;
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

    /// Whether a ban of the jail asks for a block, and is none itself.
    pub fn bans_are_wishes(&self) -> bool {
        self.text(ACTION_FILE).is_some_and(|text| text.contains(" block <ip>"))
    }

    /// Whom the jail bans; nobody, where there is no such jail or no fail2ban runs.
    ///
    /// # Errors
    /// fail2ban runs and does not answer.
    pub fn banned(&self) -> Result<Vec<IpAddr>> {
        if !self.is_live() || !self.exists(SOCKET) {
            return Ok(Vec::new());
        }
        // What this cannot read, a refusal among it, its own client does.
        if let Ok(Some(banned)) = fail2ban_server::banned(SOCKET, JAIL) {
            return Ok(banned);
        }
        let listed = self.fail2ban(&["get", JAIL, "banip"])?.unwrap_or_default();
        Ok(listed.split_whitespace().filter_map(|word| word.parse().ok()).collect())
    }

    /// Has the jail ban these no longer. Where its action would have many of them unblocked, one by one, who are free already, it
    /// is spared that.
    ///
    /// # Errors
    /// fail2ban does not answer.
    pub fn unban(&self, addresses: &[IpAddr]) -> Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        let action = ["set", JAIL, "action", ACTION, "actionunban"];
        let asked = match addresses.len() > FEW {
            true => self.fail2ban(&["get", JAIL, "action", ACTION, "actionunban"])?,
            false => None,
        };
        let unblocks = asked.map(|text| text.trim().to_owned()).filter(|text| text.contains(" unblock "));
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

    /// Has the jail ban nobody who is not `blocked`; how many bans it lifted. A ban is counted before its action has blocked
    /// anybody, so whoever seems to be free is looked at again, a while later.
    ///
    /// # Errors
    /// As [`Host::unban`], or those of `blocked`.
    pub fn unban_others(&self, blocked: impl Fn() -> Result<BTreeSet<IpAddr>>) -> Result<usize> {
        if !self.bans_are_wishes() {
            return Ok(0);
        }
        let mut others = self.banned()?;
        for look in 0..2 {
            if others.is_empty() {
                return Ok(0);
            }
            std::thread::sleep(A_WHILE * look);
            let blocked = blocked()?;
            others.retain(|address| !blocked.contains(address));
        }
        self.unban(&others)?;
        Ok(others.len())
    }

    /// What fail2ban's server answers; `None` where none runs, or it refuses.
    fn fail2ban(&self, words: &[&str]) -> Result<Option<String>> {
        if !self.exists("/usr/bin/fail2ban-client") || !self.exists(SOCKET) {
            return Ok(None);
        }
        let output = Invocation::new("fail2ban-client", words)
            .within(PATIENCE)
            .run()
            .context("fail2ban does not answer: systemctl status fail2ban")?;
        Ok(output.ok().then_some(output.stdout))
    }
}

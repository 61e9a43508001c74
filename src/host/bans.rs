//! What fail2ban's portsentry jail remembers.

use std::net::IpAddr;
use std::time::Duration;

use super::{CommandOutput, Host, Invocation};

const JAIL: &str = "portsentry";
/// Its action, as the jail of this program names it.
const ACTION: &str = "harden-portsentry";
/// How long fail2ban may take; it stands still while an action hangs.
const PATIENCE: Duration = Duration::from_secs(30);

impl Host {
    /// Frees whom the jail bans, and has it ban nobody until fail2ban is restarted or reads its jails anew. fail2ban keeps
    /// its bans in a database of its own and would bring them back with the next jail of this name. A server that does not
    /// answer has no bans in force either.
    pub fn release_bans(&self) {
        let _ = self.fail2ban(&["set", JAIL, "idle", "on"]);
        // One by one each would be unblocked, by a program that may be about to go.
        let _ = self.fail2ban(&["set", JAIL, "action", ACTION, "actionunban", ""]);
        self.unban(&self.banned());
    }

    /// Whom the jail bans; nobody, where there is no such jail or it does not run.
    pub fn banned(&self) -> Vec<IpAddr> {
        let listed = self.fail2ban(&["get", JAIL, "banip"]).unwrap_or_default();
        listed.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// Has the jail ban these no longer. Returns whether it took that.
    pub fn unban(&self, addresses: &[IpAddr]) -> bool {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let words: Vec<&str> =
            ["set", JAIL, "unbanip"].into_iter().chain(addresses.iter().map(String::as_str)).collect();
        addresses.is_empty() || self.fail2ban(&words).is_some()
    }

    /// What fail2ban's server answers, if it takes the command.
    fn fail2ban(&self, words: &[&str]) -> Option<String> {
        if !self.exists("/usr/bin/fail2ban-client") || !self.exists("/run/fail2ban/fail2ban.sock") {
            return None;
        }
        match Invocation::new("fail2ban-client", words).within(PATIENCE).run() {
            Ok(CommandOutput { status: Some(0), stdout, .. }) => Some(stdout),
            _ => None,
        }
    }
}

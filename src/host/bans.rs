//! What fail2ban's portsentry jail remembers.

use std::net::IpAddr;

use super::{CommandOutput, Host, Invocation};

const JAIL: &str = "portsentry";

impl Host {
    /// Frees whom the jail bans, and has it ban nobody until fail2ban is restarted or reads its jails anew. fail2ban keeps
    /// its bans in a database of its own and would bring them back with the next jail of this name. A server that does not
    /// answer has no bans in force either.
    pub fn release_bans(&self) {
        if !self.exists("/usr/bin/fail2ban-client") {
            return;
        }
        let client = |words: &[&str]| Invocation::new("fail2ban-client", words).run();
        let _ = client(&["set", JAIL, "idle", "on"]);
        let Ok(CommandOutput { status: Some(0), stdout, .. }) = client(&["get", JAIL, "banip"]) else { return };
        let addresses = stdout.split_whitespace().filter(|word| word.parse::<IpAddr>().is_ok());
        let words: Vec<&str> = ["set", JAIL, "unbanip"].into_iter().chain(addresses).collect();
        if words.len() > 3 {
            let _ = client(&words);
        }
    }
}

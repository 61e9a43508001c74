//! What an attacker on the wire does and sees, and what the box's firewall says of it.

use regex::Regex;

use crate::bed::{Bed, HOST, wait_for};

impl Bed {
    /// A SYN scan of closed ports, over in a fraction of a second whether or not it gets blocked.
    pub fn scan(&self, source: &str) {
        self.attack(&format!("nmap -sS -Pn -n --max-retries 0 -p 1-20 -S {source} -e wire {HOST}")).succeeds();
    }

    pub fn scan_udp(&self, source: &str) {
        self.attack(&format!(
            "nmap -sU -Pn -n --max-retries 0 --host-timeout 20 -p 7,9,13,19 -S {source} -e wire {HOST}"
        ))
        .succeeds();
    }

    pub fn scan_ipv6(&self, source: &str) {
        self.attack(&format!("nmap -6 -sS -Pn -n --max-retries 0 -p 1-20 -S {source} -e wire fd66::1")).succeeds();
    }

    /// Whether sshd greets that source: the connection of which a block makes an end.
    pub fn ssh_answers(&self, source: &str) -> bool {
        let host = if source.contains(':') { "fd66::1" } else { HOST };
        self.attack(&format!("nc -w 3 -s {source} {host} 22 </dev/null")).stdout.starts_with("SSH-")
    }

    /// How many of `tries` connections sshd greets, all of them tried at once.
    pub fn greetings(&self, source: &str, tries: usize) -> usize {
        let host = if source.contains(':') { "fd66::1" } else { HOST };
        let tried = format!("for i in $(seq {tries}); do nc -w 4 -s {source} {host} 22 </dev/null & done; wait");
        self.attack(&tried).stdout.matches("SSH-").count()
    }

    /// Whether a closed UDP port says so to that source, as it does to everyone who is not blocked.
    pub fn udp_answers(&self, source: &str) -> bool {
        self.attack(&format!("nmap -sU -Pn -n -p 40123 --max-retries 2 -S {source} -e wire {HOST}"))
            .stdout
            .contains("closed")
    }

    /// All rules of the box, of whatever tool is there, and whom our own sets block; without the tables that only watch,
    /// which name whom they saw.
    pub fn firewall(&self) -> String {
        self.ok("for tool in 'iptables -S' 'ip6tables -S'; do ! command -v ${tool%% *} >/dev/null || $tool; done
                 ! command -v nft >/dev/null || nft list tables | grep -v harden_portsentry | while read -r table; do nft list $table; done
                 for set in blocked4 blocked6; do nft -s list set inet harden_portsentry_blocks $set 2>/dev/null; done; true")
    }

    /// Whether a rule or a set of the firewall names the address.
    pub fn firewall_names(&self, address: &str) -> bool {
        let pattern = format!(r"(^|[^0-9a-f.:]){}($|[^0-9a-f.:])", regex::escape(address));
        Regex::new(&pattern).expect("an escaped address is a pattern").is_match(&self.firewall())
    }

    #[track_caller]
    pub fn wait_until_blocked(&self, address: &str) {
        wait_for(self.patience(60), &format!("a rule against {address}"), || self.firewall_names(address));
    }

    /// Until portsentry has opened its sockets: before that a scan is not seen by anyone.
    #[track_caller]
    pub fn wait_until_it_listens(&self) {
        let listening = if self.suite.units() == ["harden-portsentry.service"] {
            // its table is there and the kernel has a reader of what that hands up
            "nft list table inet harden_portsentry >/dev/null && grep -q . /proc/net/netfilter/nfnetlink_log"
        } else if self.suite.has_portsentry_1() {
            // both modes hold a raw socket, visible by protocol (1.2 opens one of TCP and one of UDP)
            "test $(tail -q -n +2 /proc/net/raw | wc -l) -ge 2"
        } else {
            "grep -q . /proc/net/packet && test $(wc -l </proc/net/packet) -ge 2"
        };
        wait_for(self.patience(30), "portsentry's sockets", || self.run(listening).status == 0);
    }

    #[track_caller]
    pub fn wait_until_banned(&self, address: &str) {
        let counted = || self.run("fail2ban-client status portsentry").stdout.contains(address);
        wait_for(self.patience(60), &format!("fail2ban to count {address}"), counted);
    }

    #[track_caller]
    pub fn wait_for_service(&self, service: &str) {
        wait_for(self.patience(60), service, || self.run(&format!("systemctl is-active {service}")).status == 0);
    }

    #[track_caller]
    pub fn wait_for_jail(&self, jail: &str) {
        wait_for(self.patience(60), &format!("fail2ban's jail {jail}"), || {
            self.run(&format!("fail2ban-client status {jail}")).status == 0
        });
    }
}

//! `response = "noise"`: what nftables alone makes a blocked host see, on each Debian's own nft.

use std::collections::BTreeSet;

use crate::bed::{Bed, HOST, OTHER_OUTSIDER, OUTSIDER, Suite, seconds, wait_for};

impl Bed {
    /// What nmap makes of a hundred ports, in XML.
    fn picture(&self, source: &str) -> String {
        self.attack(&format!("nmap -sS -Pn -n -T4 --max-retries 1 -p 1-100 -oX - -S {source} -e wire {HOST}")).stdout
    }

    /// How many of a hundred ports look open to that source, and how many closed; only that of ssh is open.
    pub fn looks(&self, source: &str) -> (usize, usize) {
        let seen = self.picture(source);
        let many = |state: &str| {
            let rest = seen.split(&format!("<extraports state=\"{state}\" count=\"")).nth(1);
            let rest = rest.and_then(|rest| rest.split('"').next()?.parse().ok()).unwrap_or(0);
            seen.matches(&format!("<state state=\"{state}\"")).count() + rest
        };
        (many("open"), many("closed"))
    }

    /// Which of these look open.
    fn open_ports(&self, source: &str) -> BTreeSet<String> {
        let seen = self.picture(source);
        let ports = seen.split("portid=\"").skip(1).filter(|port| port.contains("<state state=\"open\""));
        ports.filter_map(|port| port.split('"').next()).map(str::to_owned).collect()
    }
}

pub fn a_blocked_host_meets_noise(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.set_policy("response = \"noise\"\n");
    bed.tool("apply --yes -v").succeeds().says("connection tracking");
    bed.wait_until_it_listens();
    assert!(bed.ssh_answers(OUTSIDER), "nobody is blocked");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    let is_noise = || {
        let (open, closed) = bed.looks(OUTSIDER);
        (15..80).contains(&open) && (5..70).contains(&closed)
    };
    assert!(is_noise(), "{:?}", bed.looks(OUTSIDER));
    assert!(!bed.ssh_answers(OUTSIDER), "what looks open is not");
    assert!(bed.ssh_answers(OTHER_OUTSIDER));
    bed.tool("verify").succeeds();
    bed.tool("diff").exits(0);

    // A jail's ban, a flush of somebody, and a power cut end in the same.
    bed.wait_until_banned(OUTSIDER);
    bed.ok("nft flush ruleset");
    wait_for(seconds(30), "the noise", is_noise);
    bed.power_cycle();
    bed.wait_until_it_listens();
    wait_for(seconds(30), "the noise", is_noise);
    assert!(!bed.ssh_answers(OUTSIDER) && bed.ssh_answers(OTHER_OUTSIDER));

    // A false host that stays the same.
    bed.set_policy("response = \"noise\"\n[block]\nnoise = \"stable\"\n");
    bed.ok("systemctl reload harden-portsentry 2>/dev/null || systemctl reload harden-portsentry-keeper");
    wait_for(seconds(30), "the other noise", || {
        bed.ok("nft list table inet harden_portsentry_blocks").contains("jhash")
    });
    assert!(is_noise());
    let pictures = [bed.open_ports(OUTSIDER), bed.open_ports(OUTSIDER)];
    // A probe may be lost.
    assert!(pictures[0].symmetric_difference(&pictures[1]).count() <= 2, "{pictures:?}");
    bed.tool("undo 1 --yes").succeeds();
    bed.run("nft list tables | grep harden_portsentry").fails();

    // This nft takes the table of each answer; its grammar has words that later ones have not.
    for answer in ["drop", "reject", "noise", "chaos"] {
        bed.write(
            "/etc/harden-portsentry/portsentry.conf",
            &format!("TCP_PORTS=\"1-1023\"\nBLOCK_TCP=\"1\"\nKILL_NFT=\"{answer}\"\n"),
        );
        bed.tool("block 203.0.113.77").succeeds();
        bed.ok("nft delete table inet harden_portsentry_blocks");
    }
}

//! The embedded engine beside the firewalls that people run: each drops what is not for ssh, and is loaded again.

use crate::bed::{Bed, GATEWAY, OTHER_OUTSIDER, OUTSIDER, Suite, is_embedded, wait_for};

/// Sees a scan of closed ports that the firewall drops, before and after `reload`; the scanner is blocked.
fn seen_behind(bed: &Bed, reload: &str) {
    bed.apply();
    bed.wait_until_it_listens();
    seen(bed, OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.ok(reload);
    bed.wait_until_it_listens();
    seen(bed, OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    // With that ban fail2ban finds that its rules were flushed, and brings back all of them.
    bed.wait_until_banned(OTHER_OUTSIDER);
    bed.tool("verify").succeeds();
    if is_embedded() {
        // Connections are tracked anyway.
        let (open, closed) = bed.looks(OUTSIDER);
        assert!(open > 10 && closed > 5, "{open} open, {closed} closed: this is no noise");
        assert!(!bed.ssh_answers(OUTSIDER), "{}", bed.firewall());
        assert!(bed.ssh_answers(GATEWAY), "{}", bed.firewall());
        bed.tool("diff").exits(0);
    }
}

fn seen(bed: &Bed, source: &str) {
    assert!(bed.ssh_answers(source), "the firewall lets ssh through");
    let unblocked = bed.attack("nmap -sS -Pn -n --max-retries 0 -p 1-3 192.168.66.1");
    assert!(!unblocked.stdout.contains("closed"), "the firewall drops the rest: {unblocked}");
    bed.scan(source);
    // The first probe is enough: those behind it meet the block.
    let told =
        || bed.run("cat /var/log/harden-portsentry/portsentry.log").stdout.contains(&format!("from: [{source}]"));
    wait_for(bed.patience(20), &format!("{source} in the history"), told);
}

pub fn behind_nftables(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.apt("install nftables");
    bed.write(
        "/etc/nftables.conf",
        "#!/usr/sbin/nft -f\nflush ruleset\ntable inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t\tct state established,related accept\n\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n\t\ttcp dport 22 accept\n\t}\n}\n",
    );
    bed.ok("systemctl enable nftables; systemctl restart nftables");
    seen_behind(&bed, "systemctl restart nftables");
}

pub fn behind_iptables_legacy(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.apt("install iptables");
    bed.ok("update-alternatives --set iptables /usr/sbin/iptables-legacy; update-alternatives --set ip6tables /usr/sbin/ip6tables-legacy");
    let rules = "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables -A INPUT -p tcp --dport 22 -j ACCEPT; iptables -P INPUT DROP";
    bed.ok(rules);
    seen_behind(&bed, &format!("iptables -P INPUT ACCEPT; iptables -F INPUT; {rules}"));
}

pub fn behind_ufw(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.apt("install ufw");
    bed.ok("ufw allow 22/tcp; ufw --force enable");
    seen_behind(&bed, "ufw reload");
}

pub fn behind_firewalld(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.apt("install firewalld");
    bed.wait_for_service("firewalld");
    bed.ok("firewall-cmd --set-default-zone=drop; firewall-cmd --permanent --zone=drop --add-service=ssh; firewall-cmd --reload");
    seen_behind(&bed, "firewall-cmd --reload");
}

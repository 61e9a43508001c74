//! Traps of the block itself: a rule that is not there although everything says so.

use crate::article::DROP;
use crate::bed::{
    Bed, Bullseye, GATEWAY, HOST, OTHER_OUTSIDER, OUTSIDER, Suite, control, is_embedded, seconds, wait_for,
};

pub fn trap_01_the_article_is_not_idempotent(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let active = "grep -c '^KILL_ROUTE=' /etc/portsentry/portsentry.conf";
    let entries =
        "grep -c '192.168.66' /etc/hosts.allow; grep -c '192.168.66' /etc/portsentry/portsentry.ignore.static";
    bed.ok("mkdir /tmp/before; cp -a --parents /etc/portsentry /etc/hosts.allow /etc/default/portsentry /tmp/before");
    bed.ok(crate::article::EDITS);
    assert_eq!(bed.run(active).stdout, "1\n", "the first time");
    bed.ok(crate::article::EDITS);
    assert_eq!(bed.run(active).stdout, "0\n", "the second time no KILL_ROUTE is left");
    assert_eq!(bed.run(entries).stdout, "2\n2\n", "and the entries are there twice");
    bed.ok("mkdir -p /var/lib/portsentry; echo kept >>/var/lib/portsentry/portsentry.history");
    bed.ok(crate::article::JAIL);
    assert_eq!(bed.read("/var/lib/portsentry/portsentry.history"), "", "and the history is gone");

    bed.ok("cp -a /tmp/before/. /; rm /etc/fail2ban/jail.d/portsentry.conf; echo kept >>/var/lib/portsentry/portsentry.history");
    bed.apply();
    bed.apply();
    assert_eq!(bed.run(active).stdout, "1\n", "ours, twice:\n{}", bed.read("/etc/portsentry/portsentry.conf"));
    for entries in bed.run(entries).stdout.lines() {
        assert_eq!(entries, "1", "ours, twice: one entry in each list");
    }
    assert!(bed.read("/var/lib/portsentry/portsentry.history").starts_with("kept\n"), "ours keeps the history");
}

pub fn trap_04_chaos_without_its_module_blocks_nothing(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    // Without what it recommends: dkms would build the module for a minute, and for a kernel that does not run here.
    bed.apt("install --no-install-recommends xtables-addons-common");
    bed.run("iptables -I INPUT -s 203.0.113.10 -j CHAOS").fails();
    control(|| {
        bed.block_by_hand("/usr/sbin/iptables -I INPUT -s $TARGET$ -j CHAOS");
        bed.scan(OTHER_OUTSIDER);
        wait_for(seconds(30), "portsentry's claim to have blocked", || {
            bed.run(&format!("grep -F {OTHER_OUTSIDER} {}", suite.history())).status == 0
        });
        assert!(
            !bed.firewall_names(OTHER_OUTSIDER) && bed.udp_answers(OTHER_OUTSIDER),
            "there is no rule behind the claim:\n{}",
            bed.firewall()
        );
    });

    bed.tool("apply --yes --response chaos").exits(1).says("xtables-addons-dkms");
    bed.apply().says("not the article's CHAOS");
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    assert!(!bed.udp_answers(OUTSIDER), "ours has a rule behind it:\n{}", bed.firewall());
    bed.tool("verify").exits(0).says("not the article's CHAOS");
}

pub fn trap_05_resolving_first_blocks_after_the_scan(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.block_by_hand(DROP);
    bed.ok("echo 'RESOLVE_HOST = \"1\"' >>/etc/portsentry/portsentry.conf");
    bed.ok("echo 'nameserver 203.0.113.53' >/etc/resolv.conf"); // routed to the attacker, who does not answer
    bed.ok(&format!("systemctl restart {}", suite.units().join(" ")));
    bed.wait_until_it_listens();
    bed.scan(OTHER_OUTSIDER);
    assert!(!bed.firewall_names(OTHER_OUTSIDER), "the scan is over before the block begins");
    bed.wait_until_blocked(OTHER_OUTSIDER);

    bed.tool("diff --dry-run").says("RESOLVE_HOST").says("name server");
}

/// The embedded one blocks first, and asks for the name afterwards.
pub fn trap_05_a_silent_resolver_delays_no_block(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.ok("echo 'nameserver 203.0.113.53' >/etc/resolv.conf"); // routed to the attacker, who does not answer
    bed.apply();
    bed.ok(&format!("grep -x 'RESOLVE_HOST=\"1\"' {}", suite.conf()));
    bed.wait_until_it_listens();
    // The history waits for the name, two seconds at most, and the block is there before. Where the machine sleeps for so
    // long nothing is shown, and another scanner comes.
    let is_blocked_before_its_line = |source: &&str| {
        bed.attack(&format!("nmap -sS -Pn -n -p 1-20 -S {source} -e wire {HOST} >/dev/null 2>&1 &")).succeeds();
        let set = "nft list set inet harden_portsentry_blocks blocked4";
        let waited = bed.ok(&format!(
            "for try in $(seq 600); do {set} | grep -q '{source} ' && break; sleep 0.05; done
             {set} | grep -q '{source} ' && ! grep -F '[{source}]' {} && echo first; true",
            suite.history()
        ));
        bed.wait_until_blocked(source);
        wait_for(bed.patience(30), "its line", || bed.read(suite.history()).contains(&format!("[{source}]")));
        waited.ends_with("first\n")
    };
    let sources = [OUTSIDER, OTHER_OUTSIDER, "203.0.113.11", "203.0.113.12"];
    assert!(sources.iter().any(is_blocked_before_its_line), "no block came before its line");
    bed.tool("diff").exits(0).says_not("name server");
}

/// A firewall that lets only ssh in.
const INPUT_DROP: &str = "
    iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables -A INPUT -i lo -j ACCEPT
    iptables -A INPUT -p tcp --dport 22 -j ACCEPT; iptables -P INPUT DROP";

/// The embedded one looks before the firewall.
pub fn trap_11_a_scan_behind_input_drop_is_seen(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.ok(INPUT_DROP);
    bed.apply().says_not("blind");
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.tool("verify").succeeds().says_not("blind");
}

pub fn trap_11_a_raw_socket_sees_nothing_behind_input_drop(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.ok(INPUT_DROP);
    bed.block_by_hand(DROP);
    bed.scan(OTHER_OUTSIDER);
    bed.attack(&format!("nc -z -w 2 -s {OTHER_OUTSIDER} {HOST} 22")).succeeds(); // later packets have come through
    assert_eq!(bed.run(&format!("cat {}", suite.history())).stdout, "", "1.2 has seen no scan");

    let apply = bed.tool("apply --yes");
    assert!(apply.status == 0 || apply.status == 3, "{apply}");
    apply.says("blind").says("INPUT");
    bed.tool("verify").says("blind");
}

pub fn trap_13_advanced_udp_blocks_the_dhcp_server(suite: Suite) {
    let server_says =
        |source: &str, port: u16| format!("echo x | nc -u -b -w 1 -s {source} -p 67 192.168.66.255 {port}");
    let bed = Bed::stock(suite).with_program();
    control(|| {
        bed.block_by_hand(DROP);
        bed.attack(&server_says("203.0.113.12", 68)).succeeds(); // an answer to another client
        bed.wait_until_blocked("203.0.113.12");
    });

    bed.apply();
    bed.wait_until_it_listens();
    for port in [68, 5353, 1900, 5355] {
        bed.attack(&server_says(OTHER_OUTSIDER, port)).succeeds(); // and mDNS, SSDP, LLMNR
    }
    bed.scan_udp("203.0.113.11"); // what came after it is seen
    bed.wait_until_blocked("203.0.113.11");
    let history = bed.read(suite.history());
    assert!(!bed.firewall_names(OTHER_OUTSIDER), "DHCP and chatter block nobody:\n{history}\n{}", bed.firewall());
}

pub fn trap_15_an_ipv6_scanner_is_blocked_by_an_ipv6_rule(suite: Suite) {
    let (first, second) = ("2001:db8:66::10", "2001:db8:66::11");
    let bed = Bed::stock(suite).with_program();
    control(|| {
        bed.block_by_hand(DROP);
        bed.scan_ipv6(first);
        wait_for(seconds(30), "portsentry's claim to have blocked", || {
            bed.run(&format!("grep -F '[{first}]' {}", suite.history())).stdout.contains("blocked: [true]")
        });
        assert!(!bed.firewall_names(first) && bed.ssh_answers(first), "there is no rule behind the claim");
    });

    bed.apply();
    bed.wait_until_it_listens();
    assert!(bed.ssh_answers(second), "before the scan");
    bed.scan_ipv6(second);
    bed.wait_until_blocked(second);
    wait_for(seconds(20), "ssh over IPv6 to be refused", || !bed.ssh_answers(second));
    assert!(bed.ssh_answers("fd66::9"), "the gateway's IPv6 address is safe");
}

pub fn trap_16_the_rules_program_is_where_the_rule_says(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    assert_eq!(bed.exists("/sbin/iptables"), suite != Bullseye, "iptables below /sbin");
    assert!(bed.exists("/usr/sbin/iptables"));

    bed.apply();
    let conf = bed.read("/etc/portsentry/portsentry.conf");
    let kill_route = conf
        .lines()
        .find_map(|line| line.strip_prefix("KILL_ROUTE=\""))
        .unwrap_or_else(|| panic!("no KILL_ROUTE:\n{conf}"));
    let program = kill_route.split_whitespace().next().expect("a command");
    assert!(program.starts_with('/') && bed.run(&format!("test -x {program}")).status == 0, "{kill_route}");
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
}

pub fn trap_18_verify_sees_firewall_and_memory_drift_apart(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apt("install nftables");
    bed.apply();
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    wait_for(seconds(30), "fail2ban's ban", || bed.ok("fail2ban-client status portsentry").contains(OUTSIDER));
    bed.tool("verify").succeeds();

    // Whoever keeps the blocks brings them back by itself, unless it is held up; then verify sees it.
    let keeper = if is_embedded() { "harden-portsentry" } else { "harden-portsentry-keeper" };
    bed.ok(&format!("systemctl kill --signal=STOP {keeper}; nft flush ruleset"));
    bed.tool("verify").exits(2).says(OUTSIDER);
    bed.ok(&format!("systemctl kill --signal=CONT {keeper}"));
    bed.wait_until_blocked(OUTSIDER);
    wait_for(seconds(20), "verify to be content", || bed.tool("verify").status == 0);

    bed.ok("systemctl restart nftables"); // flushes as well, but as a unit
    bed.wait_until_blocked(OUTSIDER);
    wait_for(seconds(20), "ssh to be refused", || !bed.ssh_answers(OUTSIDER));
    bed.wait_until_it_listens();
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
}

pub fn trap_29_portsentry_1_does_not_see_ipv6(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.block_by_hand(DROP);
    bed.scan_ipv6("2001:db8:66::10");
    bed.scan(OTHER_OUTSIDER); // what came after it is seen
    bed.wait_until_blocked(OTHER_OUTSIDER);
    assert!(!bed.run(&format!("cat {}", suite.history())).stdout.contains("2001:db8"), "1.2 has no line of it");

    bed.tool("verify").says("IPv6");
    bed.apply();
    bed.tool("verify").says("IPv6");
    assert!(bed.ssh_answers(GATEWAY));
}

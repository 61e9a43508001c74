//! Traps of who may connect and who is never blocked: hosts.allow, the ignore lists, libwrap.

use crate::article::DROP;
use crate::bed::{Bed, Forky, GATEWAY, OTHER_OUTSIDER, OUTSIDER, Suite, Trixie, seconds, wait_for};

/// tcpd's own answer for a client of sshd, under a hosts.deny that refuses everyone.
fn tcpdmatch(bed: &Bed, client: &str) -> String {
    bed.ok(&format!("tcpdmatch sshd {client} 2>/dev/null | sed -n 's/^access: *//p'")).trim().to_owned()
}

pub fn trap_02_hosts_allow_with_host_bits_matches_nobody(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    if suite == Forky {
        bed.apt("install tcpd");
    }
    bed.ok("cp /etc/hosts.allow /tmp/hosts.allow; cp /etc/hosts.deny /tmp/hosts.deny");
    bed.write("/etc/hosts.deny", "ALL: ALL\n");
    for (entry, access) in [
        ("192.168.66.1/24", "denied"),
        ("192.168.66.1/255.255.255.0", "denied"),
        ("192.168.66.0/24", "granted"),
        ("192.168.66.0/255.255.255.0", "granted"),
        ("192.168.66.", "granted"),
    ] {
        bed.write("/etc/hosts.allow", &format!("ALL: {entry}\n"));
        assert_eq!(tcpdmatch(&bed, "192.168.66.77"), access, "stock tcpd with ALL: {entry}");
    }

    for netmask in ["24", "255.255.255.0"] {
        bed.ok("cp /tmp/hosts.allow /etc/hosts.allow; cp /tmp/hosts.deny /etc/hosts.deny");
        bed.ok(&format!("sed -i 's/LAN_NM=\"[^\"]*\"/LAN_NM=\"{netmask}\"/' /root/config.env"));
        bed.apply();
        bed.write("/etc/hosts.deny", "ALL: ALL\n");
        assert_eq!(tcpdmatch(&bed, "192.168.66.77"), "granted", "ours, with LAN_NM={netmask}");
        assert_eq!(tcpdmatch(&bed, "198.51.100.77"), "denied", "ours lets only the LAN in, with LAN_NM={netmask}");
    }
}

pub fn trap_03_the_ignore_builder_drops_forms_silently(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let entries = "10.0.0.5/255.255.255.0\nfd00::/64\n  10.1.0.0/16 # c\n10.2.0.0/16";
    bed.ok("cp /etc/portsentry/portsentry.ignore.static /tmp/static");
    bed.ok(&format!("printf '{entries}' >>/etc/portsentry/portsentry.ignore.static; /usr/lib/portsentry/portsentry-build-ignore-file"));
    let built = bed.read("/etc/portsentry/portsentry.ignore");
    assert!(built.contains("10.1.0.0/16") && built.contains("10.2.0.0/16"), "the builder takes these:\n{built}");
    assert!(!built.contains("10.0.0.5") && !built.contains("fd00::"), "the builder is known to drop these:\n{built}");
    assert!(!built.contains("192.168.66.1"), "the builder is known to miss the host's own address:\n{built}");

    bed.ok("cp /tmp/static /etc/portsentry/portsentry.ignore.static");
    bed.apply();
    let built = bed.read("/etc/portsentry/portsentry.ignore");
    assert!(
        built.lines().any(|line| line.split_whitespace().next() == Some("192.168.66.0/24")),
        "the LAN, own address and gateway:\n{built}"
    );
}

/// The embedded one reads its list itself: networks of both families hold, and what it cannot read is refused by its
/// place while it is still watching.
pub fn trap_03_and_17_no_ignored_address_is_dropped_silently(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let list = "/etc/harden-portsentry/portsentry.ignore";
    bed.apply();
    bed.ok(&format!("cp -p {list} /tmp/list"));
    let line = bed.read(list).lines().count() + 1;
    for entry in ["10.0.0.5/255.255.255.0", " 203.0.113.10/32", "203.0.113.10/32 # c", "203.0.113.10/24"] {
        bed.ok(&format!("printf '{entry}\\n' >>{list}"));
        bed.tool("verify").exits(2).says(&format!("portsentry.ignore, line {line}"));
        bed.ok(&format!("cp -p /tmp/list {list}"));
    }

    bed.ok(&format!("printf '203.0.113.10/32\\n2001:db8:66::/64\\n' >>{list}"));
    bed.apply();
    bed.wait_until_it_listens();
    for source in [OTHER_OUTSIDER, OUTSIDER] {
        bed.scan(source);
    }
    bed.scan_ipv6("2001:db8:66::10");
    bed.wait_until_blocked(OUTSIDER); // later than what came before it
    wait_for(seconds(20), "the lines of the ignored scans", || {
        let history = bed.read(suite.history());
        [OTHER_OUTSIDER, "2001:db8:66::10"].iter().all(|source| history.contains(&format!("from: [{source}]")))
    });
    assert!(!bed.firewall_names(OTHER_OUTSIDER) && !bed.firewall_names("2001:db8:66::10"), "{}", bed.firewall());
}

pub fn trap_10_libwrap_guards_ssh_in_sshd_session(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let linked = |program: &str| bed.run(&format!("ldd {program} | grep -q libwrap")).status == 0;
    let in_session = suite >= Trixie;
    assert_eq!(linked("/usr/sbin/sshd"), !in_session, "where sshd itself has libwrap");
    assert_eq!(
        bed.exists("/usr/lib/openssh/sshd-session") && linked("/usr/lib/openssh/sshd-session"),
        in_session,
        "where its session has it"
    );
    bed.ok("echo 'sshd: 203.0.113.10' >>/etc/hosts.deny");
    assert!(bed.ssh_answers(OUTSIDER) && !bed.ssh_answers(OTHER_OUTSIDER), "hosts.deny guards ssh here");

    bed.apply();
    let guard = if in_session { "sshd-session" } else { "/usr/sbin/sshd" };
    bed.tool("verify").succeeds().says("libwrap").says(guard);
}

pub fn trap_17_an_ignore_line_with_leading_blanks_is_without_effect(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.ok("printf ' 203.0.113.10/32\\n203.0.113.11/32\\t# c\\n' >>/etc/portsentry/portsentry.ignore.static");
    bed.block_by_hand(DROP);
    assert!(bed.read("/etc/portsentry/portsentry.ignore").contains(" 203.0.113.10/32"), "the builder copies it");
    bed.scan("203.0.113.11");
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    assert!(!bed.firewall_names("203.0.113.11"), "the line without leading blanks holds");

    bed.tool("apply --yes").exits(3); // the line that is without effect stays, and verify says so
    bed.tool("verify").exits(2).says("portsentry.ignore.static, line");
    let static_list = bed.read("/etc/portsentry/portsentry.ignore.static");
    let ours = static_list.lines().filter(|line| line.contains("192.168.66."));
    assert!(
        ours.clone().count() > 0 && ours.clone().all(|line| !line.starts_with([' ', '\t'])),
        "our entries start their lines:\n{static_list}"
    );
}

/// 2.0's list is edited directly; there too the LAN has to be safe and an outsider not.
pub fn safe_addresses_scan_and_are_not_blocked(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.scan(GATEWAY);
    bed.scan_udp(GATEWAY);
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    assert!(!bed.firewall_names(GATEWAY), "the gateway is safe:\n{}", bed.firewall());
    assert!(bed.ssh_answers(GATEWAY) && !bed.ssh_answers(OUTSIDER), "who scanned from outside is out, and nobody else");
    let denied = bed.run("cat /etc/hosts.deny").stdout;
    assert!(!denied.contains(GATEWAY), "nor is it in hosts.deny:\n{denied}");
}

pub fn trap_27_on_14_the_articles_seds_change_comments_only(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let active = "grep -cE '^ *(BLOCK_TCP|BLOCK_UDP|KILL_ROUTE)' /etc/portsentry/portsentry.conf";
    let edits = "cp /etc/hosts.allow /tmp/hosts.allow 2>/dev/null";
    bed.run(edits);
    bed.follow_the_article().succeeds();
    assert_eq!(bed.run(active).stdout.trim(), "0", "the article's edits left nothing that blocks");

    bed.ok("if [ -e /tmp/hosts.allow ]; then cp /tmp/hosts.allow /etc/hosts.allow; else rm /etc/hosts.allow; fi; rm /etc/portsentry/portsentry.ignore.static");
    bed.apply();
    assert_eq!(bed.run(active).stdout.trim(), "3", "one line each:\n{}", bed.read("/etc/portsentry/portsentry.conf"));
}

/// The history of 14 keeps growing while a safe address scans: ignored is not triggered.
pub fn an_ignored_scan_is_seen_and_bans_nobody(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.scan(GATEWAY);
    wait_for(seconds(20), "2.0's line of the ignored scan", || {
        bed.run(&format!("grep -F 'Scan from: [{GATEWAY}]' {}", suite.history())).stdout.contains("ignored: [true]")
    });
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.wait_for_jail("portsentry");
    wait_for(seconds(30), "the ban of the outsider", || bed.ok("fail2ban-client status portsentry").contains(OUTSIDER));
    assert!(!bed.ok("fail2ban-client status portsentry").contains(GATEWAY), "and of nobody else");
}

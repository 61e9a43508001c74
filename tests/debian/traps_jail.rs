//! Traps of fail2ban: jails that do not start, watch nothing, or ban nobody.

use crate::article::JAIL;
use crate::bed::{Bed, OTHER_OUTSIDER, OUTSIDER, Suite, Trixie, control, is_embedded, seconds, wait_for};

/// A line as the portsentry that watches writes it, for an address that portsentry itself has not blocked: what follows is the jail's doing.
fn history_line(suite: Suite, address: &str) -> String {
    if !suite.has_portsentry_1() {
        format!(
            "date +'%Y-%m-%dT%H:%M:%S.000+0000 Scan from: [{address}] ({address}) protocol: [TCP] port: [11] type: [TCP SYN/Normal scan] \
             IP opts: [not set] ignored: [false] triggered: [true] noblock: [false] blocked: [true]' >>{}",
            suite.history()
        )
    } else {
        format!("date +'%s - %m/%d/%Y %H:%M:%S Host: {address}/{address} Port: 11 TCP Blocked' >>{}", suite.history())
    }
}

fn counts_a_ban(bed: &Bed, address: &str) -> bool {
    bed.run("fail2ban-client status portsentry").stdout.contains(address)
}

/// The stock jail as the article enables it, on a box where nothing else stops fail2ban.
fn stock_jail(bed: &Bed) {
    bed.ok("printf '[sshd]\\nbackend = systemd\\n' >/etc/fail2ban/jail.d/sshd-journal.conf");
    bed.ok(JAIL);
    bed.ok("systemctl restart fail2ban");
    bed.wait_for_jail("portsentry");
}

fn without_stock_jail(bed: &Bed) {
    bed.run("fail2ban-client unban --all");
    bed.ok(&format!("truncate -s 0 {}", bed.suite.history()));
    bed.ok("rm /etc/fail2ban/jail.d/portsentry.conf /etc/fail2ban/jail.d/sshd-journal.conf; systemctl restart fail2ban || true");
}

pub fn trap_06_fail2ban_fails_for_want_of_sshds_log(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.run("systemctl is-active fail2ban").fails();
    bed.run("fail2ban-server -f -x 2>&1 & sleep 3; kill $!; true").says("Have not found any log file for sshd jail");
    bed.ok("truncate -s 0 /var/log/fail2ban.log");

    bed.tool("diff --dry-run").exits(2).says("backend = systemd").says("sshd");
    bed.apply();
    bed.ok("systemctl is-active fail2ban");
    bed.wait_for_jail("portsentry");
    bed.wait_for_jail("sshd");
}

pub fn trap_09_on_14_the_stock_jail_breaks_fail2ban(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    control(|| {
        bed.ok("printf '[portsentry]\\nenabled = true\\n' >/etc/fail2ban/jail.d/portsentry.conf; systemctl restart fail2ban || true");
        wait_for(seconds(30), "fail2ban to fail", || bed.run("systemctl is-active fail2ban").status != 0);
        bed.ok("rm /etc/fail2ban/jail.d/portsentry.conf; systemctl reset-failed; systemctl restart fail2ban");
    });

    the_jail_alone_bans_all_protocols(&bed);
}

/// Ours: a line in the history, and nothing of that address gets through any more.
fn the_jail_alone_bans_all_protocols(bed: &Bed) {
    bed.apply();
    bed.wait_for_jail("portsentry");
    assert!(bed.udp_answers(OUTSIDER) && bed.ssh_answers(OUTSIDER), "before");
    bed.ok(&history_line(bed.suite, OUTSIDER));
    wait_for(seconds(60), "fail2ban's ban", || counts_a_ban(bed, OUTSIDER));
    wait_for(seconds(20), "ssh to be refused", || !bed.ssh_answers(OUTSIDER));
    assert!(!bed.udp_answers(OUTSIDER), "UDP too:\n{}", bed.firewall());
    assert!(bed.firewall_names(OUTSIDER), "and the ruleset says so:\n{}", bed.firewall());
    assert!(bed.udp_answers(OTHER_OUTSIDER) && bed.ssh_answers(OTHER_OUTSIDER), "of nobody else");
}

pub fn trap_14_fail2ban_bans_nothing_without_its_program(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.run("command -v nft").fails();
    stock_jail(&bed);
    bed.ok(&history_line(suite, OTHER_OUTSIDER));
    wait_for(seconds(60), "fail2ban's claim to have banned", || counts_a_ban(&bed, OTHER_OUTSIDER));
    assert!(
        bed.ssh_answers(OTHER_OUTSIDER) && !bed.firewall_names(OTHER_OUTSIDER),
        "there is no rule behind the claim"
    );
    without_stock_jail(&bed);

    the_jail_alone_bans_all_protocols(&bed);
}

pub fn trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    control(|| {
        if suite == Trixie {
            bed.apt("install nftables");
        }
        stock_jail(&bed);
        assert_eq!(bed.ok("fail2ban-client get portsentry bantime").trim(), "600");
        bed.ok(&history_line(suite, OTHER_OUTSIDER));
        wait_for(seconds(60), "fail2ban's ban", || {
            counts_a_ban(&bed, OTHER_OUTSIDER) && bed.firewall_names(OTHER_OUTSIDER)
        });
        assert!(bed.udp_answers(OTHER_OUTSIDER), "the stock jail lets UDP through");
        without_stock_jail(&bed);
    });

    the_jail_alone_bans_all_protocols(&bed);
    assert_eq!(bed.ok("fail2ban-client get portsentry bantime").trim(), "86400", "a day");
}

pub fn trap_21_a_missing_history_kills_all_of_fail2ban(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    control(|| {
        stock_jail(&bed);
        bed.ok(&format!("rm {}; systemctl restart fail2ban || true", suite.history()));
        let dead = || bed.run("fail2ban-client status sshd").status != 0;
        wait_for(seconds(30), "fail2ban to fail, its sshd jail too", dead);
        without_stock_jail(&bed);
    });

    bed.ok(&format!("rm -f {}", suite.history()));
    bed.apply();
    bed.wait_for_jail("portsentry");
    bed.wait_for_jail("sshd");
    assert!(bed.exists(suite.history()));
    bed.ok(&format!("rm {}; systemctl restart fail2ban", suite.history()));
    bed.wait_for_jail("portsentry");
    bed.wait_for_jail("sshd");
    if is_embedded() {
        nobody_follows_a_link_in_the_watchers_directory(&bed);
    }
}

/// Whoever took over the watcher can put a link there; neither fail2ban's start nor apply makes a file at its end.
fn nobody_follows_a_link_in_the_watchers_directory(bed: &Bed) {
    let history = bed.suite.history();
    bed.ok("systemctl stop harden-portsentry");
    let put_link = || {
        bed.ok(&format!(
            "rm -f {history}; setpriv --reuid=harden-portsentry --regid=harden-portsentry --clear-groups \
               ln -s /etc/cron.d/mine {history}"
        ));
    };
    put_link();
    bed.run("systemctl restart fail2ban");
    assert!(!bed.exists("/etc/cron.d/mine"), "by fail2ban's start");
    put_link();
    bed.tool("apply --yes");
    bed.ok("systemctl stop harden-portsentry");
    assert!(!bed.exists("/etc/cron.d/mine"), "by apply");
    bed.ok(&format!("rm -f {history}"));
    // fail2ban 1.1 runs without the jail that found no history, and nothing that apply wrote has changed.
    bed.tool("apply --yes");
    bed.ok("systemctl restart fail2ban");
    bed.wait_for_jail("portsentry");
    bed.tool("verify").succeeds();
}

pub fn trap_21_logrotate_leaves_no_gap_for_fail2ban(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apt("install logrotate");
    bed.apply();
    bed.wait_for_jail("portsentry");
    bed.ok(&history_line(suite, OTHER_OUTSIDER));
    bed.ok(&format!("logrotate --force $(grep -l {} /etc/logrotate.d/*)", suite.history()));
    bed.ok("systemctl restart fail2ban");
    bed.wait_for_jail("sshd");
    bed.wait_for_jail("portsentry");
    // and its portsentry goes on in the new one
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_banned(OUTSIDER);
    assert!(bed.read(suite.history()).contains(&format!("from: [{OUTSIDER}]")));
}

pub fn trap_22_on_14_the_stock_jail_watches_a_file_that_nobody_writes(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    if is_embedded() {
        bed.ok("printf '[sshd]\\nbackend = systemd\\n' >/etc/fail2ban/jail.d/sshd-journal.conf");
    }
    bed.ok(JAIL);
    bed.ok("systemctl restart fail2ban");
    bed.wait_for_jail("portsentry");
    let watched = bed.ok("fail2ban-client get portsentry logpath");
    assert!(watched.contains("/var/lib/portsentry/portsentry.history"), "{watched}");
    bed.ok("rm /etc/fail2ban/jail.d/portsentry.conf");

    bed.apply();
    bed.wait_for_jail("portsentry");
    assert!(bed.ok("fail2ban-client get portsentry logpath").contains(suite.history()), "ours watches what is written");
    let conf = bed.read(suite.conf());
    // The embedded one needs none: the ledger knows.
    assert!(
        is_embedded() || conf.lines().any(|line| line.starts_with("BLOCKED_FILE=\"/run/")),
        "and the blocked file is out of /tmp:\n{conf}"
    );
}

pub fn trap_30_a_silent_resolver_does_not_delay_the_ban(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_for_jail("portsentry");
    assert_eq!(bed.ok("fail2ban-client get portsentry usedns").trim(), "no", "our jail asks no resolver");
}

pub fn trap_31_a_host_name_cannot_inject(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_for_jail("portsentry");
    let filter = bed.ok("fail2ban-client get portsentry failregex");
    assert!(filter.contains("failregex") || filter.contains('|') || filter.contains('^'), "{filter}");
    let hostile = if !suite.has_portsentry_1() {
        [
            "date +'%Y-%m-%dT%H:%M:%S.000+0000 Scan from: [203.0.113.12] (x Scan from: [198.51.100.7] (y) protocol: [TCP] port: [1] type: [T] IP opts: [not set] ignored: [false] triggered: [true] noblock: [false] blocked: [true]'",
            "date +'%Y-%m-%dT%H:%M:%S.000+0000 Scan from: [203.0.113.11] (ignored: [false] triggered: [true]) protocol: [TCP] port: [1] type: [T] IP opts: [not set] ignored: [true] triggered: [false] noblock: [false] blocked: [false]'",
        ]
    } else {
        [
            "date +'%s - %m/%d/%Y %H:%M:%S Host: x/198.51.100.7/203.0.113.12 Port: 11 TCP Blocked'",
            "date +'%s - %m/%d/%Y %H:%M:%S Host: evil.Port: 1 TCP Blocked Host: y/198.51.100.7 Port/203.0.113.12 Port: 11 TCP Blocked'",
        ]
    };
    for line in hostile {
        bed.ok(&format!("{line} >>{}", suite.history()));
    }
    bed.ok(&history_line(suite, OUTSIDER)); // what came before it has been read
    wait_for(seconds(60), "fail2ban's ban", || counts_a_ban(&bed, OUTSIDER));
    let status = bed.ok("fail2ban-client status portsentry");
    assert!(
        status.contains("203.0.113.12") && !status.contains("198.51.100.7") && !status.contains("203.0.113.11"),
        "{status}"
    );
}

/// The embedded one asks the scanner's own name server, whose answer reads like a line about somebody else.
pub fn trap_31_a_hostile_name_server_injects_nothing(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.ok("echo 'nameserver 192.168.66.9' >/etc/resolv.conf");
    bed.apply();
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    let name = "x) Scan from: [198.51.100.7] (y) ignored: [false] triggered: [true]";
    bed.attack(&format!(
        "(timeout 60 dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --pid-file= --no-resolv --no-hosts \
           --bind-interfaces --listen-address=192.168.66.9 '--ptr-record=9.113.0.203.in-addr.arpa,{name}' >/dev/null 2>&1 &)
         for i in $(seq 100); do nc -z 192.168.66.9 53 && exit 0; sleep 0.1; done; exit 1"
    ))
    .succeeds();
    bed.scan(OUTSIDER);
    let cleaned = name.to_lowercase().replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.', ""); // dnsmasq tells it so
    wait_for(seconds(30), "the name, with nothing in it that a name has not", || {
        bed.read(suite.history()).contains(&format!("from: [{OUTSIDER}] ({cleaned}) protocol: "))
    });
    bed.wait_until_banned(OUTSIDER);
    let status = bed.ok("fail2ban-client status portsentry");
    assert!(!status.contains("198.51.100.7") && !bed.firewall_names("198.51.100.7"), "{status}\n{}", bed.firewall());
}

//! Traps of a service that says it runs.

use crate::article::DROP;
use crate::bed::{Bed, Forky, OTHER_OUTSIDER, OUTSIDER, PROGRAM, Suite, Trixie, is_embedded, seconds, wait_for};

pub fn trap_07_after_a_boot_portsentry_forgets(suite: Suite) {
    let bed = Bed::stock(suite);
    bed.block_by_hand(DROP);
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    bed.reboot();
    bed.wait_until_it_listens();
    assert!(!bed.firewall_names(OTHER_OUTSIDER) && bed.udp_answers(OTHER_OUTSIDER), "no rule survives a boot");
    // ours: flow::fresh_to_undo reboots and finds the ban restored by fail2ban
}

pub fn trap_08_on_13_the_article_leaves_nothing_running(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.follow_the_article().fails().says("masked");
    bed.run("pgrep -x portsentry").fails();

    bed.ok("sed -i '/192.168.66/d' /etc/hosts.allow /etc/portsentry/portsentry.ignore.static");
    bed.apply();
    bed.ok("systemctl is-active portsentry@atcp portsentry@audp; systemctl is-enabled portsentry@atcp portsentry@audp");
    for mode in ["tcp", "udp", "stcp", "sudp"] {
        bed.run(&format!("systemctl is-active portsentry@{mode}")).fails();
        bed.run(&format!("systemctl is-enabled portsentry@{mode}")).fails();
    }
    bed.reboot();
    bed.ok("systemctl is-active portsentry@atcp portsentry@audp");
}

/// The embedded one, killed, comes back by itself; stopped, or with its table gone while its unit is active, it does not
/// pass for watching, and apply brings it back.
pub fn trap_19_active_without_its_table_is_blind(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.tool("verify").succeeds();
    let pid = || bed.ok("systemctl show --property=MainPID --value harden-portsentry").trim().to_owned();
    let killed = pid();
    bed.ok("systemctl kill --signal=KILL harden-portsentry");
    wait_for(seconds(30), "another process in its place", || !["0", &killed].contains(&pid().as_str()));
    bed.wait_for_service("harden-portsentry");
    bed.wait_until_it_listens();
    bed.tool("verify").succeeds();

    bed.ok("systemctl stop harden-portsentry");
    bed.tool("verify").exits(2);
    bed.apply();
    bed.wait_until_it_listens();
    bed.tool("verify").succeeds();

    // It loads its table again by itself, unless it is held up; then verify sees it.
    bed.ok("systemctl kill --signal=STOP harden-portsentry; nft delete table inet harden_portsentry; systemctl is-active harden-portsentry");
    bed.tool("verify").exits(2);
    bed.ok("systemctl kill --signal=CONT harden-portsentry");
    let has_table = || bed.ok("nft list tables").contains("table inet harden_portsentry");
    wait_for(seconds(20), "the table", has_table);
    bed.tool("verify").succeeds();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
}

/// Without the right to watch, the embedded one names it and is not active.
pub fn trap_19_the_embedded_one_without_its_right_says_so(suite: Suite) {
    let bed = Bed::up(suite, &["--stock", "--drop-capability=CAP_NET_ADMIN"]).with_program();
    bed.tool("apply --yes").says("NET_ADMIN");
    bed.run("systemctl is-active harden-portsentry").fails();
    wait_for(seconds(20), "the reason in the journal", || {
        bed.run("journalctl -u harden-portsentry").stdout.contains("CAP_NET_ADMIN")
    });
    bed.tool("verify").exits(2).says("NET_ADMIN");
}

pub fn trap_19_active_proves_nothing(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    if suite < Trixie {
        bed.ok("pkill -KILL -x portsentry; systemctl is-active portsentry");
    } else if suite == Trixie {
        for _ in 0..6 {
            bed.run("systemctl restart portsentry@atcp");
        }
        bed.run("systemctl restart portsentry@atcp").fails();
        bed.ok("systemctl is-failed portsentry@atcp");
    }

    bed.apply();
    bed.wait_until_it_listens();
    bed.tool("verify").succeeds();
    if suite < Trixie {
        bed.ok("pkill -KILL -x portsentry; systemctl is-active portsentry");
    } else {
        bed.ok(&format!("systemctl stop {}", suite.units().join(" ")));
    }
    bed.tool("verify").exits(2);
    bed.apply();
    bed.wait_until_it_listens();
    bed.tool("verify").succeeds();
}

/// 2.0 without the right to open its socket says that it is active and listening.
pub fn trap_19_active_without_its_socket_is_blind(suite: Suite) {
    let bed = Bed::up(suite, &["--stock", "--drop-capability=CAP_NET_RAW"]).with_program();
    bed.run("systemctl restart portsentry");
    wait_for(seconds(20), "portsentry's claim", || {
        bed.run("journalctl -u portsentry").stdout.contains("now active and listening")
    });
    assert_eq!(bed.ok("tail -n +2 /proc/net/packet"), "", "it has no socket");

    let apply = bed.tool("apply --yes");
    assert!(apply.status == 3, "applied, but it cannot see: {apply}");
    bed.tool("verify").exits(2);
}

pub fn trap_23_a_deleted_conffile_comes_back(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    if is_embedded() {
        bed.apply();
    }
    bed.ok(&format!("cp {0} /tmp/portsentry.conf; rm {0}", suite.conf()));
    bed.apt("install --reinstall portsentry");
    assert!(!bed.exists(suite.conf()), "a reinstall does not bring it back");

    bed.apply();
    let conf = bed.read(suite.conf());
    assert!(
        conf.lines().count() >= bed.read("/tmp/portsentry.conf").lines().count(),
        "it is the package's, edited:\n{conf}"
    );
    bed.tool("verify").succeeds();
}

pub fn trap_28_the_diff_reads_conffiles_out_of_the_cached_archive(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.run("cd /tmp && apt-get download portsentry").fails();
    bed.ok("ls /var/cache/apt/archives/portsentry_*.deb");

    let diff = bed.tool("diff --dry-run").exits(2).says("/etc/portsentry/portsentry.conf").says("+KILL_ROUTE=\"");
    assert!(
        !bed.exists("/etc/portsentry") && bed.run("command -v portsentry").status != 0,
        "nothing got installed: {diff}"
    );

    bed.ok("rm /var/cache/apt/archives/portsentry_*.deb");
    bed.tool("diff --dry-run")
        .exits(2)
        .says("could not be looked into before they are installed")
        .says_not("+KILL_ROUTE=\"");
    bed.ok("rm -rf /var/lib/apt/lists/*; mkdir /var/lib/apt/lists/partial");
    bed.tool("apply --yes").exits(1).says("portsentry").says("--engine");
}

/// The lock of dpkg is waited for. dpkg's locks are fcntl's, so it takes a dpkg to hold one: it waits for its input.
pub fn a_busy_dpkg_is_waited_for(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.ok("mkfifo /tmp/hold; (apt-get -o Dpkg::Pre-Invoke::='cat /tmp/hold' install -q -y netcat-openbsd --reinstall >/dev/null 2>&1 &)
            for i in $(seq 600); do pgrep -f 'cat /tmp/hol[d]' >/dev/null && exit 0; sleep 0.1; done; exit 1");
    bed.run("apt-get install -q -y portsentry").fails().says("lock");
    bed.ok("(until grep -q install /tmp/out; do sleep 0.1; done; sleep 2; echo >/tmp/hold) >/dev/null 2>&1 &");
    bed.run(&format!("cd /root && {PROGRAM} apply --yes >/tmp/out 2>&1; s=$?; cat /tmp/out; exit $s")).succeeds();
    bed.tool("verify").succeeds();
}

pub fn trap_12_a_daemon_that_refuses_its_configuration_is_not_active(suite: Suite) {
    assert_eq!(suite, Forky);
    let bed = Bed::stock(suite).with_program();
    bed.ok("echo 'PORT_BANER=\"x\"' >>/etc/portsentry/portsentry.conf; systemctl restart portsentry || true");
    wait_for(seconds(20), "its refusal", || bed.run("journalctl -u portsentry").stdout.contains("Invalid config"));

    let line = bed.ok("wc -l </etc/portsentry/portsentry.conf").trim().to_owned();
    bed.tool("apply --yes").exits(1).says("PORT_BANER").says(&format!("line {line}"));
    bed.ok("sed -i '/^PORT_BANER/d' /etc/portsentry/portsentry.conf");
    bed.apply();
    bed.wait_until_it_listens();
    bed.tool("verify").succeeds();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
}

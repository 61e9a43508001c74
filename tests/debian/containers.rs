//! Where no service may be started, or no rule made: what cannot be done is said, and what can be checked is.

use crate::bed::{Bed, Forky, OUTSIDER, Suite, is_embedded};

/// A box whose PID 1 only reaps, with a log for fail2ban's sshd jail, as a machine with rsyslog has it.
fn container(suite: Suite, options: &[&str]) -> Bed {
    let bed = Bed::up(suite, &[&["--without-systemd"], options].concat()).with_program();
    bed.ok("touch /var/log/auth.log");
    bed
}

/// PID 1 is no systemd, nothing forbids sysv's scripts: 1.2 starts by its own; 2.0 has no script.
pub fn trap_25_without_systemd(suite: Suite) {
    let bed = container(suite, &[]);
    bed.apt("install portsentry");
    bed.run("systemctl is-active portsentry").fails();
    bed.run("invoke-rc.d portsentry restart").succeeds();
    bed.run("pgrep -x portsentry").fails();

    if is_embedded() || suite == Forky {
        let apply = bed.tool("apply --yes");
        assert!(apply.status == 0 || apply.status == 3, "{apply}");
        apply.says("systemd");
        bed.run("pgrep -x portsentry").fails();
    } else {
        bed.apply();
        bed.ok("pgrep -x portsentry");
        blocks(&bed);
    }
}

fn blocks(bed: &Bed) {
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
}

/// The embedded one has no script either; the command that apply names starts it.
pub fn trap_25_without_systemd_the_embedded_one_is_started_by_hand(suite: Suite) {
    let bed = container(suite, &[]);
    let command = format!("harden-portsentry daemon -c {}", suite.conf());
    bed.tool("apply --yes").exits(3).says("process 1 is not systemd").says(&command);
    bed.run("pgrep -f '[d]aemon -c'").fails();
    bed.ok(&format!("setsid {command} >/tmp/daemon 2>&1 </dev/null &"));
    blocks(&bed);
    // It gives up what it does not need, as its unit would have it.
    let status = bed.ok("cat /proc/$(pgrep -f '[d]aemon -c' | head -n 1)/status");
    assert!(status.contains("CapEff:\t0000000000001000") && !status.contains("Uid:\t0"), "{status}");
    bed.tool("verify").succeeds();
    bed.tool("undo --yes").succeeds();
    bed.run("pgrep -f '[d]aemon -c'").fails();
    bed.run("pgrep -f 'harden-portsentry [r]esponder'").fails();
    assert!(!bed.firewall_names(OUTSIDER), "{}", bed.firewall());
}

/// No journal and no log: with the stock sshd jail fail2ban does not start. It is turned off, said with the remedy, and
/// comes back with its log.
pub fn without_systemd_and_without_logs_the_sshd_jail_waits_for_its_log(suite: Suite) {
    let bed = Bed::up(suite, &["--without-systemd"]).with_program();
    bed.write("/etc/harden-portsentry/policy.toml", "mend_sshd_jail = false\n");
    let apply = bed.tool("apply --yes");
    assert!(apply.status == 1 || apply.status == 3, "{apply}");
    apply.says("sshd jail").says("/var/log/auth.log").says("rsyslog");
    bed.run("fail2ban-client ping").fails();

    bed.ok("rm /etc/harden-portsentry/policy.toml");
    bed.apply().says("sshd jail").says("/var/log/auth.log").says("rsyslog");
    bed.wait_for_jail("portsentry");
    bed.run("fail2ban-client status sshd").fails();
    bed.tool("apply --yes").succeeds().says("Nothing to change");

    bed.ok("touch /var/log/auth.log");
    bed.apply();
    bed.wait_for_jail("portsentry");
    bed.wait_for_jail("sshd");
    bed.tool("undo 1 --yes").succeeds();
}

/// An image being built: policy-rc.d forbids every start, and apply respects and says it.
pub fn trap_25_where_nothing_may_start_services(suite: Suite) {
    let bed = container(suite, &[]);
    bed.ok("printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d");
    let apply = bed.tool("apply --yes");
    assert!(apply.status == 0 || apply.status == 3, "prepared: {apply}");
    apply.says("policy-rc.d");
    bed.run("pgrep -x portsentry").fails();
    bed.run("pgrep -f fail2ban-serve[r]").fails();
    bed.tool("verify").says("policy-rc.d");
    bed.tool("verify --strict").exits(2);
    bed.tool("diff --dry-run").exits(0);
    bed.tool("undo --yes").succeeds();
}

pub fn trap_26_without_net_admin_there_is_no_rule(suite: Suite) {
    let bed = container(suite, &["--drop-capability=CAP_NET_ADMIN"]);
    bed.run("iptables -S").fails();
    let apply = bed.tool("apply --yes");
    assert!(apply.status == 0 || apply.status == 3, "applied, but nothing can be blocked: {apply}");
    apply.says("NET_ADMIN");
    bed.tool("verify").says("NET_ADMIN");
    bed.tool("verify --strict").exits(2);
}

/// A machine without any of it fails the check; it does not pass for want of something to check.
pub fn verify_of_nothing_is_a_failure(suite: Suite) {
    let bed = Bed::up(suite, &["--without-systemd"]).with_program();
    bed.tool("verify").exits(2);
    bed.tool("verify --format json").exits(2).says("{");
    bed.tool("verify --format junit").exits(2).says("<testsuite");
}

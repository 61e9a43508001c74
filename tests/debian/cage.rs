//! What the two units of the embedded engine may do, asked of systemd and of the kernel.

use crate::bed::{Bed, OTHER_OUTSIDER, OUTSIDER, Suite, seconds, wait_for};

/// The most that `systemd-analyze security` may say of the watcher (0 to 10, less is better).
const EXPOSURE: f64 = 1.5;
const DENIED: &str = "/var/lib/harden-portsentry/denied";

pub fn the_watcher_may_do_little_and_the_responder_what_the_configuration_says(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.ok("touch /etc/hosts.deny");
    bed.apply();
    bed.wait_until_it_listens();
    let said = bed.ok("systemd-analyze security --no-pager harden-portsentry.service | tail -n 1");
    let level = said.split(": ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let level: f64 = level.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number: {said}"));
    assert!(level <= EXPOSURE, "{said}");
    for unit in ["harden-portsentry-responder@1", "harden-portsentry-names@1"] {
        let said = bed.ok(&format!("systemd-analyze security --no-pager {unit}.service | tail -n 1"));
        println!("watcher {level}; {unit} {}", said.trim());
    }
    let status = bed.ok("cat /proc/$(systemctl show -p MainPID --value harden-portsentry)/status");
    let has = |line: &str| status.lines().any(|known| known.split_whitespace().collect::<Vec<_>>().join(" ") == line);
    assert!(has("CapEff: 0000000000001000") && has("CapBnd: 0000000000001000"), "CAP_NET_ADMIN alone:\n{status}");
    assert!(has("Seccomp: 2") && has("NoNewPrivs: 1") && !status.contains("Uid:\t0"), "{status}");

    // Commands are root's, come from the configuration, and nobody but the watcher can have them run.
    bed.ok(&format!(
        "printf 'KILL_HOSTS_DENY=\"ALL: $TARGET$ : DENY\"\\nKILL_RUN_CMD=\"echo $TARGET$ $PORT$ $MODE$ $(id -u) >>/run/ran\"\\n' >>{}
         systemctl reload harden-portsentry",
        suite.conf()
    ));
    wait_for(seconds(20), "the new configuration", || {
        bed.run("journalctl -u harden-portsentry").stdout.contains("configuration read again")
    });
    bed.attack(&format!("nmap -sS -Pn -n --max-retries 0 -p 7 -S {OUTSIDER} -e wire 192.168.66.1")).succeeds();
    bed.wait_until_blocked(OUTSIDER);
    wait_for(bed.patience(30), "the command", || bed.run("cat /run/ran").stdout == format!("{OUTSIDER} 7 stealth 0\n"));
    assert!(bed.read("/etc/hosts.deny").ends_with(&format!("\nALL: {OUTSIDER} : DENY\n")));
    bed.run("setpriv --reuid=65534 --clear-groups nc -w 1 -U /run/harden-portsentry-responder.sock </dev/null").fails();
    bed.run("setpriv --reuid=65534 --clear-groups nc -w 1 -U /run/harden-portsentry/control </dev/null").fails();
    bed.run("setpriv --reuid=65534 --clear-groups nc -w 1 -U /run/harden-portsentry-names.sock </dev/null").fails();
    let asked = |what: &str| {
        let question = format!("{{\"number\":1,\"what\":{what}}}");
        bed.run(&format!("echo '{question}' | timeout 20 nc -w 5 -U /run/harden-portsentry-responder.sock")).stdout
    };
    assert_eq!(asked(r#"{"run":{"deed":"command","target":"$(id -u)","port":7,"mode":"stealth"}}"#), "");
    // Nor anybody who is safe, nor a socket for a watcher that listens on nothing.
    assert!(
        asked(r#"{"run":{"deed":"deny","target":"192.168.66.9","port":7,"mode":"stealth"}}"#).contains("notstarted")
    );
    assert!(asked(r#"{"listen":{"port":7,"tcp":true,"mode":"connect"}}"#).contains("null"));
    bed.ok("test $(wc -l </run/ran) = 1; test $(grep -c DENY /etc/hosts.deny) = 1");

    // hosts.deny names a file of root's, for root reads it.
    wait_for(bed.patience(20), "that it is denied", || bed.run(&format!("cat {DENIED}")).stdout.contains(OUTSIDER));
    assert_eq!(bed.ok(&format!("stat -c '%F %U %a' {DENIED}")), "regular file root 644\n");
    // Names are looked up by somebody who is neither root nor the watcher.
    bed.ok("echo 127.0.0.77 here.example >>/etc/hosts");
    let threads = bed.ok(
        "( echo '\"127.0.0.77\"'; until test -e /run/looked; do sleep 0.1; done ) | timeout 30 nc -U /run/harden-portsentry-names.sock >/run/name &
         for try in $(seq 200); do grep -q 127 /run/name && break; sleep 0.1; done
         cat /proc/$(pgrep -f 'responder [n]ames')/task/*/status; touch /run/looked",
    );
    assert_eq!(bed.ok("cat /run/name"), "[\"127.0.0.77\",\"here.example\"]\n");
    let watcher = bed.ok("id -u harden-portsentry");
    for line in threads.lines().filter(|line| line.starts_with("Uid:")) {
        assert!(!line.contains("\t0") && !line.contains(&format!("\t{}", watcher.trim())), "{threads}");
    }
    assert!(
        threads.lines().filter(|line| line.starts_with("CapEff:")).all(|line| line.ends_with("\t0000000000000000"))
    );
}

/// Connect mode's low ports, all of them, are opened by the responder, and a connection is evidence of who it is from.
pub fn connect_mode_in_the_cage_has_its_low_ports(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.ok(&format!(
        "mkdir -p /run/systemd/system/harden-portsentry.service.d
         printf '[Service]\\nExecStart=\\nExecStart=/usr/local/sbin/harden-portsentry daemon --connect -c {conf}\\n' >/run/systemd/system/harden-portsentry.service.d/test.conf
         mkdir -p /run/systemd/system/harden-portsentry-responder@.service.d
         printf '[Service]\\nExecStart=\\nExecStart=/usr/local/sbin/harden-portsentry responder commands --connect -c {conf}\\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\\n' >/run/systemd/system/harden-portsentry-responder@.service.d/test.conf
         sed -i 's/^TCP_PORTS=.*/TCP_PORTS=\"1-1023\"/; s/^UDP_PORTS=.*/UDP_PORTS=\"1-1023\"/' {conf}
         systemctl daemon-reload; systemctl restart harden-portsentry",
        conf = suite.conf()
    ));
    let listening = bed.ok("cat /proc/net/tcp6 /proc/net/udp6");
    for port in [":0007 ", ":0009 ", ":000D "] {
        assert!(listening.contains(port), "{port}: {listening}");
    }
    bed.attack(&format!("nc -w 3 -s {OUTSIDER} 192.168.66.1 7 </dev/null"));
    bed.wait_until_blocked(OUTSIDER);
    // Its name is waited for, not longer than two seconds.
    wait_for(bed.patience(20), "a term of a day", || {
        let said = bed.ok("journalctl -u harden-portsentry");
        said.contains(&format!("Host {OUTSIDER} has been blocked via nftables for 1 day"))
    });
}

/// One that hangs is ended and started anew, and watches.
pub fn a_watcher_that_hangs_is_started_anew(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.ok("mkdir -p /run/systemd/system/harden-portsentry.service.d; printf '[Service]\\nWatchdogSec=2\\nRestartSec=0\\n' >/run/systemd/system/harden-portsentry.service.d/test.conf
            systemctl daemon-reload; systemctl restart harden-portsentry");
    bed.wait_until_it_listens();
    let restarts = || bed.ok("systemctl show -p NRestarts --value harden-portsentry").trim().to_owned();
    assert_eq!(restarts(), "0");
    bed.ok("systemctl kill --signal=STOP harden-portsentry");
    wait_for(seconds(60), "another in its place", || restarts() != "0");
    bed.wait_for_service("harden-portsentry");
    bed.wait_until_it_listens();
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
}

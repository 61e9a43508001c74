//! What it sees, and how it tells it.

use crate::subject::{First, Second, subject};
use crate::{LOGGED, Told, told};

const LOG_ONLY: &str = "BLOCK_TCP=\"0\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\n";

/// Log lines of scans that are only logged; 1.2 says after each that it does nothing, and notes it as blocked.
fn logged(generation: crate::Generation, lines: &[Told]) -> Vec<String> {
    lines
        .iter()
        .flat_map(|line| {
            let ignoring = format!("attackalert: Ignoring {} response per configuration file setting.", line.protocol);
            let second = if generation == First { Some(ignoring) } else { None };
            [Some(line.line(generation)), second]
        })
        .flatten()
        .collect()
}

#[test]
fn a_probe_of_an_unused_port_is_told_and_one_of_a_service_is_not() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 22");
    subject.scan("203.0.113.9", "-sF -p 22");
    subject.scan("203.0.113.9", "-sS -p 11");
    let scan = Told { words: LOGGED, ..Told::SYN };
    subject.wait_for_alerts(&logged(subject.generation, &[scan]));
    let scan = Told { words: LOGGED, ..Told::SYN };
    assert_eq!(subject.history(), [scan.history(subject.generation)]);
}

#[test]
fn fin_null_and_xmas_are_told_by_name() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    let mut lines = Vec::new();
    for (flag, source, kind) in [
        ("-sF", "203.0.113.9", "TCP FIN scan"),
        ("-sN", "203.0.113.10", "TCP NULL scan"),
        ("-sX", "203.0.113.11", "TCP XMAS scan"),
    ] {
        subject.scan(source, &format!("{flag} -p 11"));
        lines.push(Told { source, kind, words: LOGGED, ..Told::SYN });
        subject.wait_for_alerts(&logged(subject.generation, &lines));
    }
}

#[test]
fn udp_is_told() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    subject.scan("203.0.113.9", "-sU -p 11");
    let scan = Told { protocol: "UDP", kind: "UDP", words: LOGGED, ..Told::SYN };
    subject.wait_for_alerts(&logged(subject.generation, &[scan]));
}

/// Flags that no program sends.
#[test]
fn odd_flags_are_spelled_out() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    subject.scan("203.0.113.9", "-sS --scanflags URG -p 11");
    let kind = "Unknown Type: TCP Packet Flags: SYN: 0 FIN: 0 ACK: 0 PSH: 0 URG: 1 RST: 0";
    subject.wait_for_alerts(&logged(subject.generation, &[Told { kind, words: LOGGED, ..Told::SYN }]));
}

/// IP options are told by 2.0; nmap's record route gets through the wire but not always through the target's answer.
#[test]
fn ip_options_are_told() {
    let subject = subject();
    if subject.generation == First {
        // 1.2's line has no place for them.
        return;
    }
    subject.configure(LOG_ONLY);
    subject.start();
    subject.scan("203.0.113.9", "-sS --ip-options R -p 11");
    subject.wait_for_alerts(&told(&subject, &[Told { options: "set", words: LOGGED, ..Told::SYN }]));
}

/// Both peers are blind to ACK and Maimon scans. The embedded one tells them once a source asked for three ports that
/// way: one or two are what a dead connection sends.
#[test]
fn ack_and_maimon_scans() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    subject.scan("203.0.113.9", "-sA -p 11-12");
    subject.scan("203.0.113.10", "-sM -p 11");
    subject.settle();
    let about =
        |source: &str| subject.alerts().iter().filter(|line| line.contains(source) && line.contains("scan")).count();
    assert_eq!(
        (about("203.0.113.9/") + about("[203.0.113.9]"), about("203.0.113.10")),
        (0, 0),
        "{:?}",
        subject.alerts()
    );
    subject.scan("203.0.113.9", "-sA -p 13");
    subject.scan("203.0.113.10", "-sM -p 11-15");
    subject.scan("203.0.113.11", "-sS -p 1001");
    subject.wait_until("the last probe", || about("203.0.113.11") == 1);
    let wanted = match (subject.embedded, subject.generation) {
        (false, _) => (0, 0),
        (true, Second) => (3, 5),
        (true, First) => (3, 5),
    };
    subject.wait_until("all of them", || {
        (about("203.0.113.9/") + about("[203.0.113.9]"), about("203.0.113.10")) == wanted
    });
}

#[test]
fn ipv6() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    subject.scan("fd66::9", "-sS -p 11");
    if subject.generation == First && !subject.embedded {
        subject.settle();
        assert!(subject.alerts().iter().all(|line| !line.contains("fd66")), "1.2 sees no IPv6: {:?}", subject.alerts());
        return;
    }
    let scan = Told { source: "fd66::9", options: "unknown", words: LOGGED, ..Told::SYN };
    subject.wait_for_alerts(&logged(subject.generation, &[scan]));
}

/// A firewall that drops: 1.2's raw socket stands behind it.
#[test]
fn behind_a_firewall_that_drops() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    subject.ok("iptables -I INPUT -i wire -p tcp --dport 22 -j ACCEPT; iptables -I INPUT -i wire -s 203.0.113.12 -j ACCEPT; iptables -P INPUT DROP");
    subject.scan("203.0.113.9", "-sS -p 11");
    let seen = Told { words: LOGGED, ..Told::SYN };
    if subject.generation == First && !subject.embedded {
        subject.settle();
        assert!(!subject.alerts().contains(&seen.line(First)), "{:?}", subject.alerts());
    } else {
        subject.wait_for_alerts(&logged(subject.generation, &[seen]));
    }
    subject.ok("iptables -P INPUT ACCEPT; iptables -F INPUT");
}

/// 2.0 tells whom it ignores; 1.2 does not.
#[test]
fn whom_it_ignores() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.ignore("203.0.113.9/32\n");
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    match subject.generation {
        First => {
            subject.settle();
            assert!(subject.alerts().iter().all(|line| !line.contains("203.0.113.9/")), "{:?}", subject.alerts());
        }
        Second => {
            let words = ["true", "unset", "unset", "unset"];
            subject.wait_for_alerts(&told(&subject, &[Told { words, ..Told::SYN }]));
        }
    }
}

/// A port that is hit again: 2.0 tells every packet, and an attacker fills the disk with them. The embedded one tells the
/// first of each source, port and kind in ten minutes, and what changes.
#[test]
fn repeats() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    for _ in 0..5 {
        subject.scan("203.0.113.9", "-sS -p 11");
    }
    subject.settle();
    let history = subject.history();
    let lines = history.iter().filter(|line| line.contains("203.0.113.9")).count();
    // 1.2 has a line a block, and takes a host that it logged for blocked.
    let wanted = if subject.generation == Second && !subject.embedded { 5 } else { 1 };
    assert_eq!(lines, wanted, "{history:?}");
    if subject.embedded {
        // One was told; by 1.2's words one more was looked at, for it might have been told as blocked already.
        let repeats = if subject.generation == First { 3 } else { 4 };
        subject.stop();
        subject.wait_for("their number", |log| {
            log.iter().any(|line| line.ends_with(&format!("{repeats} packets repeated probes that were told")))
        });
    }
}

/// 2.0 says more of whom it ignores with -v.
#[test]
fn verbosely_whom_it_ignores() {
    let subject = subject();
    if subject.generation == First {
        return;
    }
    subject.configure(LOG_ONLY);
    subject.ignore("203.0.113.9/32\n");
    subject.start_modes(&["--stealth -v"]);
    subject.scan("203.0.113.9", "-sS -p 11");
    subject.wait_for("that it is ignored", |log| {
        log.iter().any(|line| line == "Host: 203.0.113.9 found in ignore file /t/ignore, aborting actions")
    });
}

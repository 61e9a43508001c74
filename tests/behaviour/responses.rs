//! What it does about a scanner.

use crate::subject::{COMMANDS, First, Second, subject};
use crate::{BLOCKED, LOGGED, Told, already, told};

fn blocking(more: &str) -> String {
    format!("BLOCK_TCP=\"1\"\nBLOCK_UDP=\"1\"\n{COMMANDS}{more}")
}

const DENIED: &str =
    "attackalert: Host 203.0.113.9 has been blocked via wrappers with string: \"ALL: 203.0.113.9 : DENY\"";

fn routed(port: u16, mode: &str) -> String {
    format!(
        "attackalert: Host 203.0.113.9 has been blocked via dropped route using command: \"/bin/echo route 203.0.113.9 {port} {mode} >>/t/ran\""
    )
}

fn external(port: u16, mode: &str) -> String {
    format!(
        "attackalert: External command run for host: 203.0.113.9 using command: \"/bin/echo run 203.0.113.9 {port} {mode} >>/t/ran\""
    )
}

/// 1.2 tells the scan before what it does, 2.0 behind it.
fn in_order(generation: crate::Generation, scan: String, done: &[String]) -> Vec<String> {
    match generation {
        First => [&[scan][..], done].concat(),
        Second => [done, &[scan][..]].concat(),
    }
}

fn mode(generation: crate::Generation) -> &'static str {
    if generation == First { "atcp" } else { "stealth" }
}

#[test]
fn wrappers_then_route_then_command() {
    let subject = subject();
    subject.configure(&blocking("SCAN_TRIGGER=\"0\"\n"));
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    let (generation, mode) = (subject.generation, mode(subject.generation));
    let mut alerts =
        in_order(generation, Told::SYN.line(generation), &[DENIED.to_owned(), routed(11, mode), external(11, mode)]);
    subject.wait_for_alerts(&alerts);
    assert_eq!(subject.ran(), [format!("route 203.0.113.9 11 {mode}"), format!("run 203.0.113.9 11 {mode}")]);
    assert_eq!(subject.denied(), ["ALL: 203.0.113.9 : DENY"]);
    assert_eq!(subject.history(), [Told::SYN.history(generation)]);
    match generation {
        First => assert!(subject.blocked_file().contains("Host: 203.0.113.9/203.0.113.9 Port: 11 TCP Blocked")),
        Second => assert_eq!(subject.blocked_file(), "0200cb007109"),
    }

    // It comes back.
    subject.scan("203.0.113.9", "-sS -p 12");
    let again = Told { port: 12, ..Told::SYN }.line(generation);
    alerts.extend(in_order(generation, again, &[already("203.0.113.9")]));
    subject.wait_for_alerts(&alerts);
    assert_eq!((subject.ran().len(), subject.denied().len()), (2, 1));
    assert_eq!(subject.history().len(), if generation == First { 1 } else { 2 });
}

#[test]
fn the_command_first_where_that_is_asked_for() {
    let subject = subject();
    subject.configure(&blocking("SCAN_TRIGGER=\"0\"\nKILL_RUN_CMD_FIRST=\"1\"\n"));
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    let (generation, mode) = (subject.generation, mode(subject.generation));
    let done = [external(11, mode), DENIED.to_owned(), routed(11, mode)];
    subject.wait_for_alerts(&in_order(generation, Told::SYN.line(generation), &done));
}

#[test]
fn the_command_alone() {
    let subject = subject();
    subject.configure(&format!("BLOCK_TCP=\"2\"\nSCAN_TRIGGER=\"0\"\n{COMMANDS}"));
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    let (generation, mode) = (subject.generation, mode(subject.generation));
    subject.wait_for_alerts(&in_order(generation, Told::SYN.line(generation), &[external(11, mode)]));
    assert_eq!((subject.ran(), subject.denied().len()), (vec![format!("run 203.0.113.9 11 {mode}")], 0));
}

/// From the n-th hit on. Below it 2.0 tells the scan and 1.2 does not.
#[test]
fn the_trigger() {
    let subject = subject();
    subject.configure(&blocking("SCAN_TRIGGER=\"3\"\n"));
    subject.start();
    let (generation, mode) = (subject.generation, mode(subject.generation));
    let mut alerts = Vec::new();
    for port in [11, 12] {
        subject.scan("203.0.113.9", &format!("-sS -p {port}"));
        if generation == Second {
            alerts.push(Told { port, words: ["false", "false", "unset", "unset"], ..Told::SYN }.line(generation));
            subject.wait_for_alerts(&alerts);
        }
    }
    subject.scan("203.0.113.9", "-sS -p 13");
    let scan = Told { port: 13, ..Told::SYN }.line(generation);
    alerts.extend(in_order(generation, scan, &[DENIED.to_owned(), routed(13, mode), external(13, mode)]));
    subject.wait_for_alerts(&alerts);
}

/// All hits on one port: the dedupe has to let through as many as the trigger needs.
#[test]
fn the_trigger_by_one_port() {
    let subject = subject();
    subject.configure(&blocking("SCAN_TRIGGER=\"3\"\n"));
    subject.start();
    for _ in 0..4 {
        subject.scan("203.0.113.9", "-sS -p 11");
    }
    subject.wait_until("the block", || !subject.denied().is_empty());
    subject.wait_for("that it is blocked already", |_| subject.alerts().contains(&already("203.0.113.9")));
    assert_eq!(subject.ran().len(), 2, "{:?}", subject.ran());
}

/// BLOCK_UDP decides about UDP alone.
#[test]
fn each_protocol_by_its_own_key() {
    let subject = subject();
    subject.configure(&format!("BLOCK_TCP=\"1\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\n{COMMANDS}"));
    subject.start();
    subject.scan("203.0.113.9", "-sU -p 11");
    subject.scan("203.0.113.10", "-sS -p 12");
    subject.wait_until("the block of the one that used TCP", || !subject.denied().is_empty());
    assert_eq!(subject.denied(), ["ALL: 203.0.113.10 : DENY"]);
    if subject.generation == Second {
        let udp = Told { protocol: "UDP", kind: "UDP", words: LOGGED, ..Told::SYN };
        assert!(subject.alerts().contains(&udp.line(Second)), "{:?}", subject.alerts());
    }
}

/// libwrap reads IPv6 in brackets only. 2.0.7 writes it without, and the line matches nobody.
#[test]
fn an_ipv6_host_in_hosts_deny() {
    let subject = subject();
    if subject.generation == First && !subject.embedded {
        // 1.2 sees no IPv6: packets::ipv6.
        return;
    }
    subject.configure(&blocking("SCAN_TRIGGER=\"0\"\n"));
    subject.start();
    subject.scan("fd66::9", "-sS -p 11");
    subject.wait_until("the block", || !subject.denied().is_empty());
    let wanted = if subject.embedded { "ALL: [fd66::9] : DENY" } else { "ALL: fd66::9 : DENY" };
    assert_eq!(subject.denied(), [wanted]);
    let scan = Told { source: "fd66::9", options: "unknown", words: BLOCKED, ..Told::SYN };
    subject.wait_for("the scan", |log| log.contains(&scan.line(subject.generation)));
    match subject.generation {
        First => {
            subject.wait_until("the blocked file", || subject.blocked_file().contains("Host: fd66::9/fd66::9 Port: 11"))
        }
        Second => subject.wait_until("the blocked file", || subject.blocked_file().len() == 36),
    }
}

/// A KILL_ROUTE that fails: both peers say that the host is blocked. The embedded one says that it is not, and tries
/// again.
#[test]
fn a_route_that_cannot_be_made() {
    let subject = subject();
    let failing = "BLOCK_TCP=\"1\"\nSCAN_TRIGGER=\"0\"\nKILL_ROUTE=\"/bin/false $TARGET$\"\n";
    subject.configure(failing);
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    let claims =
        "attackalert: Host 203.0.113.9 has been blocked via dropped route using command: \"/bin/false 203.0.113.9\"";
    if subject.embedded {
        subject.wait_for("the failure", |log| {
            log.iter().any(|line| {
                line.starts_with("attackalert: ERROR: Host 203.0.113.9 could not be blocked via dropped route")
            })
        });
        subject.scan("203.0.113.9", "-sS -p 12");
        subject.wait_for("a second try", |log| {
            log.iter().filter(|line| line.contains("could not be blocked")).count() == 2
        });
        assert!(!subject.alerts().iter().any(|line| line == claims));
    } else {
        subject.wait_for("the claim", |log| log.iter().any(|line| line == claims));
    }
}

/// A command that hangs holds up nothing but commands.
#[test]
fn a_command_that_hangs_does_not_hide_the_next_scanner() {
    let subject = subject();
    // 2.0.7 is waited for.
    let sleep = if subject.generation == Second && !subject.embedded { 4 } else { 15 };
    let hangs = || subject.run(&format!("pgrep -f '[s]leep {sleep}'")).status == 0;
    subject.configure(&format!(
        "BLOCK_TCP=\"1\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\nKILL_ROUTE=\"sleep {sleep}; true $TARGET$\"\n"
    ));
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    subject.wait_until("the command", hangs);
    subject.scan("203.0.113.10", "-sU -p 12");
    let udp = Told { source: "203.0.113.10", protocol: "UDP", port: 12, kind: "UDP", words: LOGGED, ..Told::SYN };
    if subject.embedded || subject.generation == First {
        // 1.2 has a process of its own for UDP.
        subject.wait_for("the other scanner", |log| log.contains(&udp.line(subject.generation)));
        assert!(hangs(), "while the command still runs");
    } else {
        subject.wait_until("the end of the command", || !hangs());
        subject.wait_for("the other scanner", |log| log.contains(&udp.line(Second)));
    }
    subject.run(&format!("pkill -f '[s]leep {sleep}'"));
}

/// The second generation remembers whom it blocked, and the first asks again. 2.0.7 begins its history anew, and 1.2 has
/// a host in hosts.deny as often as it blocked him.
#[test]
fn a_blocked_host_is_remembered_over_a_restart_by_the_second_and_not_by_the_first() {
    let subject = subject();
    subject.configure(&blocking("SCAN_TRIGGER=\"0\"\n"));
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    subject.wait_until("the block", || subject.ran().len() == 2);
    subject.wait_until("its record", || {
        subject.blocked_file().contains(if subject.generation == First { "Host" } else { "cb007109" })
    });
    subject.stop();
    subject.forget_log();
    subject.start();
    let emptied = subject.generation == Second && !subject.embedded;
    assert_eq!(subject.history().len(), usize::from(!emptied), "{:?}", subject.history());
    if subject.generation == First {
        assert_eq!(subject.blocked_file(), "");
    }
    subject.scan("203.0.113.9", "-sS -p 12");
    match subject.generation {
        First => subject.wait_until("a second block", || subject.ran().len() == 4),
        Second => {
            let scan = Told { port: 12, ..Told::SYN };
            subject.wait_for_alerts(&[vec![already("203.0.113.9")], told(&subject, &[scan])].concat());
            assert_eq!(subject.ran().len(), 2);
        }
    }
    let twice = subject.generation == First && !subject.embedded;
    assert_eq!(subject.denied().len(), 1 + usize::from(twice), "{:?}", subject.denied());
}

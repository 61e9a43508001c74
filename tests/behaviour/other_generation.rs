//! A configuration of the other generation: which ports are watched, asked of it with real probes.

use std::collections::BTreeSet;

use crate::subject::{First, Second, Subject, subject};

const LOG_ONLY: &str = "BLOCK_TCP=\"0\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\n";
/// As 2.0's portsentry.conf has them.
const SECONDS: &str = "TCP_PORTS=\"1-20,30-40\"\nUDP_PORTS=\"5-8\"\n";
/// As 1.2's has them, list and limit.
const FIRSTS: &str = "TCP_PORTS=\"3,5,2000\"\nUDP_PORTS=\"7\"\nADVANCED_PORTS_TCP=\"50\"\nADVANCED_PORTS_UDP=\"30\"\nADVANCED_EXCLUDE_TCP=\"9,22,10-12\"\nADVANCED_EXCLUDE_UDP=\"20\"\n";

/// Asks for TCP and UDP ports, below 60 and 2000, and says which were told.
fn watched(subject: &Subject) -> (BTreeSet<u16>, BTreeSet<u16>) {
    subject.scan("203.0.113.9", "-sS -p 1-60,2000");
    // From another source, and faster than ICMP errors come.
    subject.scan("203.0.113.10", "-sU -p 1-60,2000 --min-rate 100");
    // Told behind all of them, in either protocol: 5 is watched by every one.
    subject.scan("203.0.113.11", "-sS -p 5");
    subject.scan("203.0.113.11", "-sU -p 7");
    let told = |source: &str, protocol: &str| -> BTreeSet<u16> {
        let line = format!("{}.*{protocol}.* port: \\[?(\\d+)", regex::escape(source));
        let line = regex::Regex::new(&line).expect("a pattern");
        let found = subject.alerts();
        found.iter().filter_map(|text| line.captures(text)?[1].parse().ok()).collect()
    };
    subject
        .wait_for("the last", |_| !told("203.0.113.11", "TCP").is_empty() && !told("203.0.113.11", "UDP").is_empty());
    (told("203.0.113.9", "TCP"), told("203.0.113.10", "UDP"))
}

fn ports(ranges: &[std::ops::RangeInclusive<u16>]) -> BTreeSet<u16> {
    ranges.iter().cloned().flatten().collect()
}

/// 1.2's modes with a file of 2.0: without ADVANCED_PORTS_* the limit is 1024, and ranges are ranges. 1.2 itself knows no
/// limit for UDP, whatever ADVANCED_PORTS_UDP says.
#[test]
fn the_firsts_modes_with_the_seconds_file() {
    let subject = subject();
    if subject.generation == Second {
        return;
    }
    subject.configure_with(SECONDS, LOG_ONLY);
    subject.start_modes(&["-atcp", "-audp"]);
    let unlimited = if subject.embedded { vec![] } else { vec![2000..=2000] };
    let udp = ports(&[vec![1..=60], unlimited].concat());
    assert_eq!(watched(&subject), (ports(&[1..=21, 23..=60]), udp));
    if subject.embedded {
        subject.stop();
        subject.forget_log();
        subject.start_modes(&["-stcp", "-sudp"]);
        assert_eq!(watched(&subject), (ports(&[1..=20, 30..=40]), ports(&[5..=8])));
    }
}

/// 2.0 with a file of 1.2: refused by 2.0.7; the embedded one watches what 1.2's advanced modes do, and connect mode the
/// listed ports.
#[test]
fn the_seconds_modes_with_the_firsts_file() {
    let subject = subject();
    if subject.generation == First {
        return;
    }
    subject.configure_with(FIRSTS, LOG_ONLY);
    if !subject.embedded {
        subject.call("--stealth").exits(1).says("Invalid config file entry at line 7");
        return;
    }
    subject.start();
    let (tcp, udp) = watched(&subject);
    assert_eq!((tcp, udp), (ports(&[1..=8, 13..=21, 23..=49]), ports(&[1..=19, 21..=29])));
    subject.stop();
    subject.forget_log();
    subject.start_connecting();
    let sockets = |words: &str| {
        subject.ok(&format!(
            "ss -Hnlp {words} | grep portsentry | sed 's/.*:\\([0-9]*\\) .*/\\1/' | sort -n | tr '\\n' ' '"
        ))
    };
    assert_eq!((sockets("-t").trim(), sockets("-u").trim()), ("3 5 2000", "7"));
}

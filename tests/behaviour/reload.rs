//! SIGHUP, and files that are moved away under it.

use std::collections::BTreeSet;

use crate::subject::{COMMANDS, First, Subject, subject};
use crate::{LOGGED, Told};

const LOG_ONLY: &str = "BLOCK_TCP=\"0\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\n";

/// SIGHUP, and the configuration is read and in force.
fn reload(subject: &Subject) {
    let read = |log: &[String]| log.iter().filter(|line| line.contains("configuration read again")).count();
    let before = read(&subject.log());
    subject.ok("pkill -HUP -x portsentry");
    subject.wait_for("the configuration to be read", |log| read(log) > before);
}

/// SIGHUP ends 2.0.7 and means nothing to 1.2. The embedded one reads its configuration again, and goes on with the old one if the new
/// one is broken.
#[test]
fn sighup() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    if !subject.embedded {
        subject.ok("pkill -HUP -x portsentry");
        if subject.generation == First {
            subject.settle();
        } else {
            subject.wait_until("it to end", || subject.run("pgrep -x portsentry").status != 0);
        }
        return;
    }
    subject.scan("203.0.113.9", "-sS -p 11");
    subject.wait_for("the first", |log| log.contains(&Told { words: LOGGED, ..Told::SYN }.line(subject.generation)));
    subject.configure("BLOCK_TCP=\"x\"\n");
    let line = subject.ok("grep -n x /etc/portsentry/portsentry.conf | grep BLOCK_TCP | cut -d: -f1");
    subject.ok("pkill -HUP -x portsentry");
    let place = format!("/etc/portsentry/portsentry.conf, line {}: ", line.trim());
    subject.wait_for("the refusal", |log| {
        log.iter().any(|line| line.contains("the old one goes on") && line.contains(&place))
    });
    subject.scan("203.0.113.10", "-sS -p 11");
    let second = Told { source: "203.0.113.10", words: LOGGED, ..Told::SYN };
    subject.wait_for("the second, by the old one", |log| log.contains(&second.line(subject.generation)));
    subject.configure(LOG_ONLY);
    subject.ignore("203.0.113.11/32\n");
    subject.ok("pkill -HUP -x portsentry");
    subject.wait_for("the new one", |log| log.iter().any(|line| line.contains("configuration read again")));
    subject.scan("203.0.113.11", "-sS -p 11");
    subject.settle();
    let told = subject
        .alerts()
        .iter()
        .filter(|line| line.contains("203.0.113.11") && !line.contains("ignored: [true]"))
        .count();
    assert_eq!(told, 0, "{:?}", subject.alerts());
}

/// The history is moved away, as logrotate does: 1.2 and 2.0.7 open it for each line, and it is missing until the next.
/// The embedded one makes it anew at SIGHUP, and for each line.
#[test]
fn a_history_that_is_moved_away_is_made_anew() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    subject.wait_until("a line", || subject.history().len() == 1);
    subject.ok("mv /t/history /t/history.1");
    if subject.embedded {
        subject.ok("pkill -HUP -x portsentry");
        subject.wait_until("the file", || subject.run("test -e /t/history").status == 0);
    }
    subject.scan("203.0.113.10", "-sS -p 12");
    subject.wait_until("a line in the new one", || subject.history().len() == 1);
    assert_eq!(subject.ok("wc -l </t/history.1").trim(), "1");
}

/// Another configuration in every respect that the kernel's rules and the sources' counts depend on.
#[test]
fn a_reload_keeps_what_is_known() {
    let subject = subject();
    if !subject.embedded {
        return; // sighup
    }
    let blocking = |trigger: u8| format!("BLOCK_TCP=\"1\"\nBLOCK_UDP=\"1\"\nSCAN_TRIGGER=\"{trigger}\"\n{COMMANDS}");
    subject.configure(&blocking(2));
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11-12");
    subject.wait_until("the block", || subject.ran().len() == 2);
    subject.scan("203.0.113.10", "-sS -p 11");
    // A service that was there for one connection.
    subject.ok("nc -l -p 700 </dev/null >/dev/null 2>&1 &");
    subject.wait_until("a connection", || subject.attack("nc -z -w 1 -s 203.0.113.12 192.168.66.1 700").status == 0);
    subject.wait_until("its end", || subject.run("pgrep -x nc").status != 0);

    subject.configure(&blocking(3));
    subject.ok("sed -i 's/^\\(TCP_PORTS=\"\\)/\\12000,/; s/^\\(ADVANCED_PORTS_TCP=\"\\).*/\\12001\"/' /etc/portsentry/portsentry.conf");
    subject.ignore("203.0.113.11/32\n");
    reload(&subject);
    subject.scan("203.0.113.9", "-sS -p 2000");
    subject.wait_for("the port that is new", |_| subject.alerts().contains(&crate::already("203.0.113.9")));
    subject.scan("203.0.113.11", "-sS -p 11-15");
    subject.attack("nc -z -w 1 -s 203.0.113.12 192.168.66.1 700");
    subject.scan("203.0.113.10", "-sS -p 12");
    subject.scan("203.0.113.9", "-sS -p 999");
    subject.wait_for("what came behind all that", |_| subject.alerts().iter().any(|line| line.contains("999")));
    assert_eq!(subject.ran().len(), 2, "blocked stays blocked, two hits of three are not enough: {:?}", subject.ran());
    assert!(!subject.alerts().iter().any(|line| line.contains("203.0.113.12")), "{:?}", subject.alerts());
    subject.scan("203.0.113.10", "-sS -p 13");
    subject.wait_until("the third hit, the first of them before", || subject.ran().len() == 4);
    let done = subject.ran();
    assert!(done[2..].iter().all(|line| line.contains("203.0.113.10 13")), "{done:?}");
}

/// A scanner asks for every port once, while the configuration changes all the time.
#[test]
fn no_probe_is_lost_or_doubled_by_a_reload() {
    let subject = subject();
    if !subject.embedded {
        return;
    }
    subject.configure(&format!("{LOG_ONLY}KILL_ROUTE=\"/bin/true $TARGET$\"\n"));
    subject.start();
    let conf = "/etc/portsentry/portsentry.conf";
    subject.ok(&format!(
        "cp {conf} /t/one; sed 's/^\\(TCP_PORTS=\"\\)/\\12000,/; s/^\\(ADVANCED_PORTS_TCP=\"\\).*/\\12001\"/; s/^\\(SCAN_TRIGGER=\"\\)./\\13/' {conf} >/t/two"
    ));
    let reloads = std::thread::scope(|scope| {
        let scan = scope.spawn(|| subject.scan("203.0.113.9", "-sS -p 1-600 --max-rate 250"));
        // What 1.2's modes do not tell, below the trigger, is not lost.
        subject.wait_until("three hits", || ports_told(&subject.alerts()).len() >= 3);
        let mut reloads = 0;
        while !scan.is_finished() {
            subject.ok(&format!("cp /t/{} {conf}.new; mv {conf}.new {conf}", ["two", "one"][reloads % 2]));
            reload(&subject);
            reloads += 1;
        }
        reloads
    });
    assert!(reloads >= 2, "{reloads} reloads while it scanned");
    let told = || ports_told(&subject.alerts());
    // 22 is in use, 113 is not watched.
    subject.wait_until("every port", || told().iter().collect::<BTreeSet<_>>().len() == 598);
    assert_eq!(told().len(), 598);
}

/// The ports that lines about 203.0.113.9 are about.
fn ports_told(lines: &[String]) -> Vec<u16> {
    let port = regex::Regex::new(
        r"^(?:.* )?(?:Scan from: \[203\.0\.113\.9\].* port: \[(\d+)\] type.*|attackalert: TCP .*scan from host: 203\.0\.113\.9/.* port: (\d+))$",
    );
    let port = port.expect("a pattern");
    let found = lines.iter().filter_map(|line| port.captures(line));
    found.map(|found| found.get(1).or(found.get(2)).expect("a port").as_str().parse().expect("a port")).collect()
}

/// logrotate under a stream of probes, each of which has to have its line, whole, in one of the files.
#[test]
fn logrotate_loses_no_line() {
    let subject = subject();
    if subject.generation == First {
        return; // One line a block: no stream.
    }
    subject.configure(LOG_ONLY);
    subject.start();
    // 2.0.7 would end.
    let signal = if subject.embedded { "pkill -HUP -x portsentry" } else { "true" };
    let conf = format!("/t/history {{\n rotate 99\n create 0640 root adm\n postrotate\n {signal}\n endscript\n}}\n");
    subject.ok(&format!("printf '{conf}' >/root/rotate; chmod 644 /root/rotate; chmod 755 /t"));
    let rotations = std::thread::scope(|scope| {
        let scan = scope.spawn(|| subject.scan("203.0.113.9", "-sS -p 1-600 --max-rate 250"));
        subject.wait_until("the first line", || !subject.history().is_empty());
        let mut rotations = 0;
        while !scan.is_finished() {
            subject.ok("logrotate --force --state /root/rotated /root/rotate");
            rotations += 1;
            if subject.embedded {
                subject.wait_until("a history", || subject.run("test -e /t/history").status == 0);
            }
        }
        rotations
    });
    assert!(rotations >= 2, "{rotations} rotations while it scanned");
    let lines = || -> Vec<String> { subject.ok("cat /t/history*").lines().map(str::to_owned).collect() };
    subject.wait_until("every port", || ports_told(&lines()).len() >= 598);
    let lines = lines();
    assert_eq!((lines.len(), ports_told(&lines).iter().collect::<BTreeSet<_>>().len()), (598, 598));
}

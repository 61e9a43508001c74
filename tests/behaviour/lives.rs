//! How it starts, reads its configuration, and ends.

use crate::subject::{First, Second, subject};
use crate::{LOGGED, Told};

const LOG_ONLY: &str = "BLOCK_TCP=\"0\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\n";

#[test]
fn sigterm_ends_it_with_its_last_words() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    subject.stop();
    let last = if subject.generation == First {
        "adminalert: PortSentry is shutting down"
    } else {
        "Portsentry is shutting down"
    };
    subject.wait_for("its last words", |log| log.iter().any(|line| line == last));
    assert!(!subject.ok("nft list tables").contains("harden_portsentry"), "nothing is left behind");
}

/// A command that hangs does not keep it from ending.
#[test]
fn sigterm_while_a_command_hangs() {
    let subject = subject();
    subject.configure("BLOCK_TCP=\"1\"\nSCAN_TRIGGER=\"0\"\nKILL_ROUTE=\"sleep 6; true $TARGET$\"\n");
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    let hangs = || subject.run("pgrep -f '[s]leep 6'").status == 0;
    subject.wait_until("the command", hangs);
    subject.ok("pkill -x portsentry");
    let runs = || subject.run("pgrep -x portsentry").status == 0;
    subject.wait_until("one of them to end", || !runs() || !hangs());
    assert!(!runs(), "the command ended first");
    subject.wait_until("the command to end as well", || !hangs());
}

/// A key that nobody knows: 2.0 does not start and names the line, 1.2 does not see it. The embedded one names key, line
/// and what was meant, as either.
#[test]
fn an_unknown_key() {
    let subject = subject();
    subject.configure(&format!("{LOG_ONLY}BLOCK_TPC=\"1\"\n"));
    match subject.generation {
        First => {
            subject.start();
            if subject.embedded {
                subject.wait_for("a warning", |log| log.iter().any(|line| line.contains("did you mean BLOCK_TCP")));
            }
        }
        Second => {
            let output = subject.call("").exits(1).says("Invalid config file entry at line 10");
            if subject.embedded {
                output.says("BLOCK_TPC").says("did you mean BLOCK_TCP").says("/etc/portsentry/portsentry.conf");
            }
        }
    }
}

#[test]
fn what_cannot_be_is_refused_at_the_start() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.call("--nope").fails();
    subject.call("-foo").fails();
    if subject.generation == Second {
        subject.call("--stealth --connect").exits(1).says("Only one mode can be specified");
        subject.call("-m foo").exits(1).says("Invalid sentry method specified");
        subject.call("-l foo").exits(1).says("Invalid log output specified");
        subject.call("-c /nowhere").exits(1).says("Cannot open config file: /nowhere");
        subject.configure("BLOCK_TCP=\"1\"\n");
        subject.call("").exits(1).says("KILL_HOSTS_DENY and/or KILL_ROUTE must be specified");
        subject.configure("BLOCK_TCP=\"5\"\n");
        subject.call("").exits(1).says("Invalid config file entry for BLOCK_TCP");
        subject.configure(LOG_ONLY);
        subject.ignore("not an address\n");
        subject.call("").exits(1).says("Error initializing ignore file");
    }
}

/// Two of them would take each other's table away, or tell everything twice; the peers do.
#[test]
fn a_second_one_of_the_same_mode() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    let mode = if subject.generation == First { "-atcp" } else { "--stealth" };
    let second = subject.call(mode);
    if subject.embedded {
        second.exits(1).says("another one is watching already");
    } else {
        second.says_not("another one");
    }
    subject.settle();
}

/// A resolver that does not answer. 1.2 waits for it before it tells or blocks anybody. The embedded one blocks first,
/// tells after two seconds at most, and keeps no line to itself when it is told to end.
#[test]
fn a_resolver_that_does_not_answer() {
    let subject = subject();
    subject.ok("cp -L /etc/resolv.conf /root/resolv.conf; rm -f /etc/resolv.conf; echo nameserver 192.168.66.250 >/etc/resolv.conf");
    subject.configure(
        "RESOLVE_HOST=\"1\"\nBLOCK_TCP=\"1\"\nSCAN_TRIGGER=\"0\"\nKILL_ROUTE=\"/bin/echo route $TARGET$ >>/t/ran\"\n",
    );
    subject.ok("sed -i '0,/RESOLVE_HOST/{/RESOLVE_HOST/d}' /etc/portsentry/portsentry.conf");
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    if subject.embedded {
        subject.wait_until("the block", || subject.ran().len() == 1);
        subject.scan("203.0.113.10", "-sS -p 11");
        subject.wait_until("the second block", || subject.ran().len() == 2);
        subject.stop();
        subject.wait_until("both lines", || subject.history().len() == 2);
        assert!(subject.history()[0].contains("203.0.113.9") && subject.history()[1].contains("203.0.113.10"));
    } else if subject.generation == Second {
        subject.wait_until("the block", || subject.ran().len() == 1);
    } else {
        let told = || subject.history().len();
        subject.wait_until("that it waits", || {
            subject.run("ss -Hun state established dst 192.168.66.250").stdout.contains(":53")
        });
        assert_eq!((told(), subject.ran().len()), (0, 0), "nothing is told or done meanwhile");
    }
    subject.ok("cp /root/resolv.conf /etc/resolv.conf");
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
    subject.ok("pkill -HUP -x portsentry");
    let refused = |log: &[String]| log.iter().any(|line| line.contains("the old one goes on"));
    subject.wait_for("the refusal", refused);
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

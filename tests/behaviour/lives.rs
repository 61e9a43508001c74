//! How it starts, reads its configuration, and ends.

use crate::subject::{First, Second, subject};

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

/// A command that hangs does not keep it from ending, but for 2.0.7, which ends with the command.
#[test]
fn sigterm_while_a_command_hangs() {
    let subject = subject();
    subject.configure("BLOCK_TCP=\"1\"\nSCAN_TRIGGER=\"0\"\nKILL_ROUTE=\"sleep 600; true $TARGET$\"\n");
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    let hangs = || subject.run("pgrep -f '[s]leep 600'").status == 0;
    subject.wait_until("the command", hangs);
    let end_the_command = || subject.ok("pkill -f '[s]leep 600'");
    if subject.generation == Second && !subject.embedded {
        subject.ok("pkill -x portsentry");
        end_the_command();
        subject.wait_until("it to end", || subject.run("pgrep -x portsentry").status != 0);
    } else {
        subject.stop();
        end_the_command();
    }
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
    // A peer's would watch for as long as it is let.
    let second =
        subject.run(&format!("timeout {} {} {mode}", if subject.embedded { 20 } else { 2 }, subject.program()));
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
    subject.configure("BLOCK_TCP=\"1\"\nSCAN_TRIGGER=\"0\"\nKILL_ROUTE=\"/bin/echo route $TARGET$ >>/t/ran\"\n");
    subject.resolve_by("192.168.66.250");
    subject.start();
    subject.scan("203.0.113.9", "-sS -p 11");
    if subject.embedded {
        subject.wait_until("the block", || subject.ran().len() == 1);
        subject.scan("203.0.113.10", "-sS -p 11");
        subject.wait_until("the second block", || subject.ran().len() == 2);
        subject.stop();
        assert!(subject.log().iter().all(|line| !line.contains("left to itself")), "{:?}", subject.log());
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
}

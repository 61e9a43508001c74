//! The command line: what each option prints and how it ends. The letters are 2.0's; 1.2 takes nothing but a mode.

use crate::subject::{First, Second, subject};
use crate::{LOGGED, Told};

const LOG_ONLY: &str = "BLOCK_TCP=\"0\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\n";
const ACTIVE: &str = "Portsentry is now active and listening.";

/// 1.2 says how it is used, on stdout, and ends with 255. The embedded one has the options of 2.0, and 1 for an error.
#[test]
fn the_first_takes_a_mode_and_nothing_else() {
    let subject = subject();
    if subject.generation == Second {
        return;
    }
    subject.configure(LOG_ONLY);
    for words in ["-?", "-tcp -udp", "-stcp extra", "-TCP", "foo"] {
        let output = subject.call(words);
        if subject.embedded {
            output.exits(1).says("--help");
        } else {
            output.exits(255).says("usage: portsentry [-tcp -udp -stcp -atcp -sudp -audp]");
        }
        assert!(subject.run("pgrep -x portsentry").status != 0, "it runs after {words}");
    }
}

#[test]
fn help_and_version() {
    let subject = subject();
    if subject.generation == First {
        return;
    }
    for words in ["-V", "--version", "--vers", "-dV", "-V -h", "-V --nope"] {
        let said = subject.call(words).exits(0).stdout;
        assert!(said.starts_with("Portsentry 2.0.7 (") && said.lines().count() == 1, "{words}: {said}");
    }
    for words in ["-h", "--help", "-h -V"] {
        let said = subject.call(words).exits(0).says("--logoutput").says("--stealth").stdout;
        assert!(said.starts_with("Portsentry 2.0.7 ("), "{words}: {said}");
    }
    for words in ["--nope", "-?", "-i", "-l", "--ver", "--version=3", "--nope -V"] {
        subject.call(words).exits(1);
    }
    subject.configure(LOG_ONLY);
    // 2.0.7 passes over what is no option, and has no way to count the ports of services in.
    let ends = if subject.embedded { 1 } else { 124 };
    assert_eq!(subject.run(&format!("timeout 2 {} extra", subject.program())).status, ends);
    if !subject.embedded {
        subject.call("-S").exits(1);
    }
}

/// Where the lines go.
#[test]
fn log_output() {
    let subject = subject();
    if subject.generation == First {
        return;
    }
    subject.configure(LOG_ONLY);
    subject.start_modes(&["--stealth -l stdout"]);
    subject.scan("203.0.113.9", "-sS -p 11");
    let line = Told { words: LOGGED, ..Told::SYN }.line(Second);
    subject.wait_for("the line on stdout", |log| log.contains(&line));
    assert!(!subject.journal().iter().any(|told| *told == line || told == ACTIVE), "{:?}", subject.journal());
    subject.stop();
    subject.forget_log();
    subject.ok(&format!("setsid {} -l syslog >/t/out 2>&1 </dev/null &", subject.program()));
    subject.wait_until("it to watch", || subject.journal().iter().any(|told| told == ACTIVE));
    subject.scan("203.0.113.10", "-sS -p 11");
    let line = Told { source: "203.0.113.10", words: LOGGED, ..Told::SYN }.line(Second);
    subject.wait_until("the line in syslog", || subject.journal().contains(&line));
    assert!(!subject.log().iter().any(|told| *told == line || told == ACTIVE), "{:?}", subject.log());
}

/// Into the background: a session of its own, at no terminal, in no directory that could not be unmounted, and with
/// nothing left of its caller's; its lines go to syslog, whatever -l says.
#[test]
fn into_the_background() {
    let subject = subject();
    let words = match subject.generation {
        First => "-atcp",
        Second => "-D -l stdout",
    };
    subject.configure(LOG_ONLY);
    // $(…) ends once nobody holds the pipe any more.
    let said =
        subject.ok(&format!("cd /root && said=$(timeout 20 {} {words} 2>&1) && echo \"$said\"", subject.program()));
    if subject.embedded {
        // Its caller may rely on it from now on.
        subject.ok("nft list tables | grep harden_portsentry");
    }
    let active = |told: &String| told.ends_with("is now active and listening.");
    subject.wait_until("it to watch", || subject.journal().iter().any(active));
    assert!(!said.lines().any(|line| active(&line.to_owned())), "{said}");
    let about = subject.run("pid=$(pgrep -x portsentry); ps -o ppid=,tty= -p $pid; ps -o sid= -p $pid; echo $pid; readlink /proc/$pid/cwd /proc/$pid/fd/0 /proc/$pid/fd/1 /proc/$pid/fd/2");
    let about: Vec<&str> = about.stdout.lines().map(str::trim).collect();
    if subject.generation == Second || subject.embedded {
        // 1.2 is its caller's child no more, and that is all.
        assert_eq!(about[0].split_whitespace().collect::<Vec<_>>(), ["1", "?"], "{about:?}");
        assert_eq!(about[1], about[2], "it leads its session: {about:?}");
        assert_eq!(about[3..], ["/", "/dev/null", "/dev/null", "/dev/null"]);
    }
    subject.scan("203.0.113.9", "-sS -p 11");
    let line = Told { words: LOGGED, ..Told::SYN }.line(subject.generation);
    subject.wait_until("the line in syslog", || subject.journal().contains(&line));
}

/// What a host sends to itself: skipped, and said so with -d; told with -L.
#[test]
fn source_and_destination_the_same() {
    let subject = subject();
    if subject.generation == First {
        return;
    }
    subject.configure(LOG_ONLY);
    let ask = "nc -z -w 1 127.0.0.1 12";
    subject.start_modes(&["--stealth -i ALL -d"]);
    subject.run(ask);
    let skipped = "debug: Source address 127.0.0.1 same as destination address 127.0.0.1, skipping";
    subject.wait_for("that it is skipped", |log| log.iter().any(|line| line == skipped));
    subject.settle();
    let told: Vec<String> = subject.alerts().into_iter().filter(|line| line.contains("[127.0.0.1]")).collect();
    // 2.0.7 has a line of whom it skips, as of whom it ignores.
    assert!(told.iter().all(|line| !subject.embedded && line.contains("ignored: [true]")), "{told:?}");
    subject.stop();
    subject.forget_log();
    subject.start_modes(&["--stealth -i ALL -L"]);
    subject.run(ask);
    let told = Told { source: "127.0.0.1", port: 12, words: LOGGED, ..Told::SYN }.line(Second);
    subject.wait_for("the line", |log| log.contains(&told));
}

/// -S, which is not 2.0.7's: whoever asks for a service is told as well.
#[test]
fn ports_of_services_by_choice() {
    let subject = subject();
    if subject.generation == First || !subject.embedded {
        return;
    }
    subject.configure(LOG_ONLY);
    subject.start_modes(&["--stealth -S"]);
    subject.scan("203.0.113.9", "-sS -p 22");
    subject.wait_for_alerts(&[Told { port: 22, words: LOGGED, ..Told::SYN }.line(Second)]);
}

//! The watcher as the unit runs it: a user that may do nothing but CAP_NET_ADMIN, and so many system calls. Both builds, for
//! their C libraries make different calls. In network namespaces, as root.

mod neighbourhood;

use std::collections::BTreeMap;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use neighbourhood::blocks::{BLOCK, blocked};
use neighbourhood::daemon::{Daemon, program};
use neighbourhood::home::Home;
use neighbourhood::{Net, scanner, scanner6, wait_until};
use rustix::process::Signal;

/// nobody, of whom nothing here is but what is given to him.
const USER: u32 = 65_534;

/// `program` as the unit starts it, where everybody may read it.
fn as_nobody(home: &Home, net: &Net, program: &Path, words: &[&str]) -> Command {
    let copy = home.path("/run/harden-portsentry.program");
    if !copy.exists() {
        std::fs::copy(program, &copy).expect("a copy");
    }
    let setpriv = "--reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin --bounding-set=-all,+net_admin --no-new-privs";
    let all: Vec<&str> =
        setpriv.split(' ').chain(["/run/harden-portsentry.program"]).chain(words.iter().copied()).collect();
    home.prepared(net, Path::new("setpriv"), &all)
}

fn status(daemon: &Daemon) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid().as_raw_nonzero())).expect("it runs");
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
}

fn works_in_the_cage(tag: &str, program: &Path) {
    let (net, home) = (Net::new(tag), Home::new());
    home.open_to_all();
    for directory in ["/var/lib/harden-portsentry/blocks", "/run/harden-portsentry"] {
        std::fs::create_dir_all(home.path(directory)).expect("a directory");
        chown(home.path(directory), Some(USER), Some(USER)).expect("root may");
    }
    let start = |words: &[&str]| as_nobody(&home, &net, program, words);
    let daemon = Daemon::start("1-1023", BLOCK, chown_all, |_, words| start(words));
    let found = status(&daemon);
    assert_eq!(found["Uid"], "65534 65534 65534 65534");
    assert_eq!([&found["CapEff"], &found["CapBnd"]], ["0000000000001000"; 2], "CAP_NET_ADMIN alone");
    assert_eq!([&found["Seccomp"], &found["NoNewPrivs"]], ["2", "1"]);

    let blocked = |source: &str| blocked(&net).contains(source);
    let seen_and_blocked = |number: usize| {
        net.scan(&scanner(number), "1-20");
        wait_until("the history", || !daemon.history().ports(&scanner(number), "TCP").is_empty());
        wait_until("the block", || blocked(&scanner(number)));
    };
    seen_and_blocked(0);
    net.run(
        "client",
        "nmap",
        &["-6", "-sU", "-Pn", "-n", "-p", "7,9", "-S", &scanner6(1), "-e", "lan", neighbourhood::HOST6],
    );
    wait_until("the block of IPv6", || blocked(&scanner6(1)));
    let by_hand = |words: &[&str]| {
        let output = home.output(&net, program, words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    by_hand(&["block", "203.0.113.9", "--for", "1h"]);
    assert!(by_hand(&["blocked"]).contains("203.0.113.9"));
    by_hand(&["unblock", "203.0.113.9"]);

    daemon.signal(Signal::HUP);
    wait_until("the reload", || daemon.said().contains("configuration read again"));
    seen_and_blocked(2);
    net.nft("host", "flush ruleset");
    wait_until("both tables", || blocked(&scanner(0)));
    seen_and_blocked(3);
    daemon.lose_history();
    seen_and_blocked(4);
    assert!(!daemon.said().contains("ERROR"), "{}", daemon.said());
}

fn chown_all(files: &Path) {
    chown(files, Some(USER), Some(USER)).expect("root may");
    for entry in std::fs::read_dir(files).expect("a directory").flatten() {
        chown(entry.path(), Some(USER), Some(USER)).expect("root may");
    }
}

#[test]
fn with_the_ordinary_c_library() {
    works_in_the_cage("glibc", Path::new(env!("CARGO_BIN_EXE_harden-portsentry")));
}

#[test]
fn as_it_ships() {
    let program: PathBuf = program();
    works_in_the_cage("ships", &program);
}

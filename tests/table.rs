//! The kernel's table, by which the daemon sees, taken away from under it: it is there again at once, and scans are seen.
//! In network namespaces, as root, like tests/no_false_alarms.rs.

mod neighbourhood;

use std::fs;

use neighbourhood::blocks::{BLOCK, blocked, run};
use neighbourhood::daemon::Daemon;
use neighbourhood::home::Home;
use neighbourhood::{LIMIT, Net, scanner, wait_until, waited};

const TABLE: &str = "table inet harden_portsentry";

fn has_table(net: &Net) -> bool {
    net.run("host", "nft", &["list", "tables"]).contains(TABLE)
}

/// A scan of ports 1 to 20 by source `number`, and `ports` of them in the history.
fn a_scan_is_seen(net: &Net, daemon: &Daemon, number: usize, ports: usize) {
    let source = scanner(number);
    net.scan(&source, "1-20");
    wait_until("the scan in the history", || daemon.history().ports(&source, "TCP").len() >= ports);
}

#[test]
fn somebody_flushes_the_ruleset_or_deletes_the_table() {
    let net = Net::new("gone");
    let daemon = Daemon::watch(&net, "1-1023");
    let firewall =
        "flush ruleset; table inet filter { chain input { type filter hook input priority 0; policy accept; }; }";
    for (number, loss) in ["flush ruleset", "delete table inet harden_portsentry", firewall].into_iter().enumerate() {
        net.nft("host", loss);
        wait_until("the table", || has_table(&net));
        a_scan_is_seen(&net, &daemon, number, 20);
    }
}

/// Nor does it load its own again and again, or mistake another one's for it.
#[test]
fn tables_of_others_come_and_go() {
    let net = Net::new("others");
    let daemon = Daemon::watch(&net, "1-1023");
    net.nft("host", "add element inet harden_portsentry used_tcp { 7 }");
    for _ in 0..20 {
        net.nft("host", "table inet other { }");
        net.nft("host", "delete table inet other");
    }
    a_scan_is_seen(&net, &daemon, 0, 19);
    assert!(!daemon.history().ports(&scanner(0), "TCP").contains(&7), "the table is the one from before");
}

/// What is loaded again is what was there, rule by rule and set by set, whatever the configuration has made of it; and
/// without nft, which takes too long to start.
#[test]
fn it_is_the_same_table_that_comes_back() {
    let block = "BLOCK_TCP=\"1\"\nBLOCK_UDP=\"1\"\nKILL_NFT=\"drop\"\n";
    let answers = ["reject", "chaos", "noise", "noise"].map(|answer| block.replace("drop", answer));
    let others = ["", block, "SCAN_TRIGGER=\"4\"\n"].map(str::to_owned);
    for (number, more) in others.iter().chain(&answers).enumerate() {
        let (net, home) = (Net::new(&format!("same{number}")), Home::new());
        if number == others.len() + answers.len() - 1 {
            home.write("/etc/harden-portsentry/policy.toml", "[block]\nnoise = \"stable\"\n");
        }
        let daemon = Daemon::at_home(&net, &home, "1-20,80,443-445", more);
        // From now on it has no nft.
        let pid = daemon.pid().as_raw_nonzero().to_string();
        net.run("host", "nsenter", &["--mount", "-t", &pid, "mount", "--bind", "/bin/false", "/usr/sbin/nft"]);
        let tables = || net.run("host", "nft", &["list", "tables"]);
        let listed = || -> String {
            let names = tables();
            names
                .lines()
                .map(|name| {
                    net.run("host", "nft", &[&["-s", "list"], name.split(' ').collect::<Vec<_>>().as_slice()].concat())
                        + "\n"
                })
                .collect()
        };
        let (names, before) = (tables(), listed());
        assert_eq!(names.lines().count(), if more.contains("NFT") { 2 } else { 1 }, "{names}");
        net.nft("host", "flush ruleset");
        wait_until("the tables", || tables().lines().count() == names.lines().count());
        let sorted = |text: &str| {
            let mut parts: Vec<String> = text.split("\n}\n").map(|table| table.trim().to_owned()).collect();
            parts.sort();
            parts
        };
        wait_until("the same tables", || sorted(&listed()) == sorted(&before));
        assert_eq!(sorted(&listed()), sorted(&before), "{more}");
    }
}

/// A table that is there and has no rules, or not all of them, blocks and sees nobody.
#[test]
fn rules_that_somebody_takes_out_come_back() {
    let (net, home) = (Net::new("rules"), Home::new());
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let (said, ok) = run(&net, &home, &["block", &scanner(0)]);
    assert!(ok, "{said}");
    let listed = || net.run("host", "nft", &["-s", "list", "ruleset"]);
    let before = listed();
    for loss in [
        "flush table inet harden_portsentry_blocks",
        "flush chain inet harden_portsentry_blocks judged",
        "flush table inet harden_portsentry",
        "flush chain inet harden_portsentry arrived_tcp",
    ] {
        net.nft("host", loss);
        wait_until(&format!("the rules after `{loss}`"), || without_times(&listed()) == without_times(&before));
    }
    // Without a daemon it is seen as well.
    drop(daemon);
    net.nft("host", "flush chain inet harden_portsentry_blocks judged");
    let (said, ok) = run(&net, &home, &["restore"]);
    assert!(ok, "{said}");
    assert!(net.run("host", "nft", &["list", "table", "inet", "harden_portsentry_blocks"]).contains("icmpv6 type"));
}

/// Without how long elements are to stay, and in what order they stand; a name that says what was loaded is as good as
/// another.
fn without_times(ruleset: &str) -> Vec<String> {
    let words = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        while let Some(at) = words.iter().position(|&word| word == "timeout" || word == "expires") {
            words.drain(at..(at + 2).min(words.len()));
        }
        words.join(" ")
    };
    let mut lines: Vec<String> = ruleset.lines().filter(|line| !line.contains("chain version_")).map(words).collect();
    lines.sort();
    lines
}

/// `systemctl restart nftables` flushes twice within milliseconds, and the second time the blocks are just on their way back.
#[test]
fn flushed_again_and_again_it_goes_on() {
    let (net, home) = (Net::new("again"), Home::new());
    let ledger: String = (0..20_000).map(line).collect();
    fs::create_dir_all(home.path("/var/lib/harden-portsentry/blocks")).expect("a directory");
    home.write("/var/lib/harden-portsentry/blocks/ledger", &ledger);
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    for _ in 0..30 {
        net.run("host", "nft", &["flush ruleset; add table inet other; delete table inet other"]);
        net.nft("host", "flush ruleset");
    }
    wait_until("the tables", || net.run("host", "nft", &["list", "tables"]).lines().count() == 2);
    let all = || match blocked(&net).len() {
        20_000 => Ok(()),
        count => Err(format!("{count} blocks of 20,000: {}", daemon.said())),
    };
    waited(LIMIT, all).unwrap_or_else(|missing| panic!("{missing}"));
    a_scan_is_seen(&net, &daemon, 0, 1);
}

/// A line of the ledger.
fn line(number: u32) -> String {
    let address = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(10, 100, 0, 0)) + number);
    let line = format!("2026-11-27T00:00:00Z block {address} forever 1 hand a test");
    format!("{:08x} {line}\n", crc32fast::hash(line.as_bytes()))
}

/// Many save the whole ruleset and load it at the next boot, or when they change something: whom it blocks counts no more
/// than what the ledger says.
#[test]
fn a_ruleset_that_was_saved_with_our_tables_in_it() {
    let (net, home) = (Net::new("saved"), Home::new());
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let by_hand = |words: &[&str]| {
        let (said, ok) = run(&net, &home, words);
        assert!(ok, "{words:?}: {said}");
    };
    by_hand(&["block", "203.0.113.1"]);
    by_hand(&["block", "203.0.113.2"]);
    let saved = net.run("host", "nft", &["list", "ruleset"]);
    home.write("/etc/nftables.conf", &format!("flush ruleset\n{saved}\n"));
    by_hand(&["unblock", "203.0.113.1"]);
    by_hand(&["block", "203.0.113.3"]);
    let now = ["203.0.113.2", "203.0.113.3"].map(str::to_owned).into();
    assert_eq!(blocked(&net), now);
    net.run("host", "nft", &["-f", &home.path("/etc/nftables.conf").to_string_lossy()]);
    wait_until("whom the ledger blocks", || blocked(&net) == now);
    a_scan_is_seen(&net, &daemon, 0, 1);
    // Another daemon has another group, of which the saved table knows nothing.
    drop(daemon);
    let daemon = Daemon::at_home(&net, &home, "1-600", BLOCK);
    net.run("host", "nft", &["-f", &home.path("/etc/nftables.conf").to_string_lossy()]);
    let ports = || net.run("host", "nft", &["list", "set", "inet", "harden_portsentry", "tcp_ports"]);
    wait_until("the ports that are watched now", || ports().contains("1-600"));
    a_scan_is_seen(&net, &daemon, 1, 1);
}

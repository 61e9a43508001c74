//! The kernel's table, by which the daemon sees, taken away from under it: it is there again at once, and scans are seen.
//! In network namespaces, as root, like tests/no_false_alarms.rs.

mod neighbourhood;

use neighbourhood::daemon::Daemon;
use neighbourhood::home::Home;
use neighbourhood::{Net, scanner, wait_until};

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
    for (number, more) in ["", block, "SCAN_TRIGGER=\"4\"\n", &block.replace("drop", "reject")].into_iter().enumerate()
    {
        let (net, home) = (Net::new(&format!("same{number}")), Home::new());
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

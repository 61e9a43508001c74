//! The built-in response: whom the daemon blocks, for how long, what goes on, and who never is. In network namespaces, as
//! root; what is so is asked of the kernel, of connections, of libwrap's tcpdmatch.

mod neighbourhood;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use neighbourhood::blocks::{BLOCK, TABLE, blocked, listed, run};
use neighbourhood::daemon::Daemon;
use neighbourhood::home::Home;
use neighbourhood::{Net, scanner, wait_until};

fn set<const N: usize>(addresses: [&str; N]) -> BTreeSet<String> {
    addresses.map(str::to_owned).into()
}

#[test]
fn a_scanner_is_blocked_and_free_again_and_longer_blocked_when_it_comes_back() {
    let (net, home) = (Net::new("terms"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", "[block]\nfirst = \"10s\"\nterm = \"1h\"\n");
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let source = scanner(0);
    net.scan_until(&source, "1-20", "the scanner in the kernel's set", || blocked(&net).contains(&source));
    wait_until("that it is free again", || blocked(&net).is_empty());
    wait_until("that it is said", || daemon.said().contains(&format!("Host {source} is free again")));
    net.scan(&source, "21-40");
    wait_until("the scanner in the kernel's set", || blocked(&net).contains(&source));
    let (listed, _) = run(&net, &home, &["blocked"]);
    assert!(listed.contains(&source) && listed.contains(" 2      daemon  probed tcp/"), "{listed}");
    assert!(daemon.said().contains(&format!("Host {source} has been blocked via nftables for 10 seconds")));
    assert!(
        daemon.said().contains(&format!("Host {source} has been blocked via nftables for 1 hour")),
        "{}",
        daemon.said()
    );
}

/// Whoever is freed, by hand or because the time is over, and does just what he did before, is blocked again, each time.
#[test]
fn who_is_free_is_seen_again() {
    let (net, home) = (Net::new("free"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", "[block]\nfirst = \"10s\"\nterm = \"10s\"\ngrowth = 1\n");
    let _daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let source = scanner(0);
    for time in ["first", "second", "third", "fourth"] {
        net.scan(&source, "11");
        wait_until(&format!("the {time} block"), || blocked(&net).contains(&source));
        let (said, ok) = run(&net, &home, &["unblock", &source]);
        assert!(ok && blocked(&net).is_empty(), "{said}");
    }
    for time in ["fifth", "sixth", "seventh"] {
        net.scan_until(&source, "11", &format!("the {time} block"), || blocked(&net).contains(&source));
        wait_until("that it is over", || blocked(&net).is_empty());
    }
}

/// What somebody blocks with a daemon is so without one, and the other way round.
#[test]
fn by_hand_with_a_daemon_and_without() {
    let (net, home) = (Net::new("hand"), Home::new());
    assert_eq!(run(&net, &home, &["blocked"]), ("No host is blocked.\n".to_owned(), true));
    assert!(!home.path("/var/lib/harden-portsentry").exists(), "looking leaves nothing");
    let (said, ok) = run(&net, &home, &["block", "203.0.113.9", "--for", "1h", "--why", "a \u{1b}[31m test"]);
    assert!(ok && said.starts_with("203.0.113.9 is blocked, until 2"), "{said}");
    assert_eq!(blocked(&net), set(["203.0.113.9"]));
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let (said, ok) = run(&net, &home, &["block", "2001:db8::9"]);
    assert!(ok, "{said}");
    assert_eq!(blocked(&net), set(["203.0.113.9", "2001:db8::9"]));
    let (said, ok) = run(&net, &home, &["block", "203.0.113.9"]);
    assert!(ok && said.contains("is blocked already"), "{said}");
    let (listed, _) = run(&net, &home, &["blocked"]);
    assert!(listed.contains("hand") && listed.contains("a [31m test"), "{listed}");
    assert_eq!(run(&net, &home, &["unblock", "203.0.113.9"]), ("203.0.113.9 is free.\n".to_owned(), true));
    assert_eq!(run(&net, &home, &["unblock", "203.0.113.9"]), ("203.0.113.9 was not blocked.\n".to_owned(), true));
    drop(daemon);
    assert_eq!(blocked(&net), set(["2001:db8::9"]), "the kernel goes on");
    let (json, _) = run(&net, &home, &["blocked", "--format", "json"]);
    let document: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(document["blocked"][0]["address"], "2001:db8::9");
    assert_eq!(document["blocked"][0]["in_kernel"], true);
    assert_eq!(run(&net, &home, &["unblock", "--all"]), ("One host is free.\n".to_owned(), true));
    assert!(blocked(&net).is_empty());

    // Who is free already is forgotten, also by whoever reads the ledger.
    run(&net, &home, &["block", "203.0.113.9", "--for", "1s"]);
    wait_until("the end of it", || blocked(&net).is_empty());
    assert_eq!(run(&net, &home, &["unblock", "203.0.113.9"]), ("203.0.113.9 was not blocked.\n".to_owned(), true));
    run(&net, &home, &["block", "203.0.113.9"]);
    let (json, _) = run(&net, &home, &["blocked", "--format", "json"]);
    let document: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(document["blocked"][0]["times"], 1, "{json}");
}

/// A boot: the kernel knows nobody, and the ledger does.
#[test]
fn what_the_ledger_says_is_there_again_after_a_boot() {
    let (net, home) = (Net::new("boot"), Home::new());
    run(&net, &home, &["block", "203.0.113.9", "--for", "forever"]);
    run(&net, &home, &["block", "2001:db8::9", "--for", "1h"]);
    net.nft("host", "flush ruleset");
    let (listed, _) = run(&net, &home, &["blocked"]);
    assert!(
        listed.contains("blocked, and not in the kernel's sets") && listed.contains("harden-portsentry apply"),
        "{listed}"
    );
    assert_eq!(run(&net, &home, &["restore"]), ("2 hosts are blocked.\n".to_owned(), true));
    assert_eq!(blocked(&net), set(["203.0.113.9", "2001:db8::9"]));
    let text = net.run("host", "nft", &["list", "table", "inet", TABLE]);
    assert!(text.contains("{ 203.0.113.9 }") && text.contains("2001:db8::9 timeout 59m"), "{text}");

    // Whatever is wrong with policy.toml, which may name who must never be blocked: so nobody else is.
    home.write("/etc/harden-portsentry/policy.toml", "bantme = \"1d\"\n");
    net.nft("host", "flush ruleset");
    let (said, ok) = run(&net, &home, &["restore"]);
    assert!(ok && said.contains("line 1: unknown field `bantme`") && said.contains("2 hosts are blocked.\n"), "{said}");
    assert_eq!(blocked(&net), set(["203.0.113.9", "2001:db8::9"]));
    let (said, ok) = run(&net, &home, &["unblock", "203.0.113.9"]);
    assert!(ok && said.contains("203.0.113.9 is free.\n"), "{said}");
    let (said, ok) = run(&net, &home, &["block", "203.0.113.10"]);
    assert!(!ok && said.contains("unknown field `bantme`"), "{said}");
    assert_eq!(blocked(&net), set(["2001:db8::9"]));
}

/// A daemon that runs has lost none, and mends what somebody took out of the sets when it is asked.
#[test]
fn a_daemon_restores_when_it_is_asked() {
    let (net, home) = (Net::new("asked"), Home::new());
    let _daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    run(&net, &home, &["block", "203.0.113.9"]);
    run(&net, &home, &["block", "203.0.113.10"]);
    net.nft("host", &format!("delete element inet {TABLE} blocked4 {{ 203.0.113.9 }}"));
    let (listed, _) = run(&net, &home, &["blocked"]);
    assert!(
        listed.contains("blocked, and not in the kernel's sets") && listed.contains("harden-portsentry apply"),
        "{listed}"
    );
    assert_eq!(run(&net, &home, &["restore"]), ("2 hosts are blocked.\n".to_owned(), true));
    assert_eq!(blocked(&net), set(["203.0.113.9", "203.0.113.10"]));
}

/// A ruleset that was saved while hosts were blocked, and is loaded at boot, blocks nobody who is free by now; who was
/// blocked and never written down stays so.
#[test]
fn a_saved_ruleset_blocks_nobody_who_is_free() {
    let (net, home) = (Net::new("saved"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", "[block]\nfirst = \"1s\"\nterm = \"1s\"\n");
    run(&net, &home, &["block", "203.0.113.9", "--for", "1h"]);
    run(&net, &home, &["block", "203.0.113.10"]);
    run(&net, &home, &["block", "203.0.113.11", "--for", "1h"]);
    run(&net, &home, &["unblock", "203.0.113.9"]);
    wait_until("one is free by itself", || blocked(&net) == set(["203.0.113.11"]));
    let old = "203.0.113.9 timeout 1h, 203.0.113.10 timeout 1h, 203.0.113.11, 203.0.113.12 timeout 1h";
    net.nft("host", &format!("flush set inet {TABLE} blocked4; add element inet {TABLE} blocked4 {{ {old} }}"));
    let (said, ok) = run(&net, &home, &["restore"]);
    assert!(ok && said.contains("the kernel blocked whom the ledger does not know, as it does now: 1"), "{said}");
    assert_eq!(blocked(&net), set(["203.0.113.11", "203.0.113.12"]));
    assert_eq!(listed(&net, &home), set(["203.0.113.11", "203.0.113.12"]));
    let text = net.run("host", "nft", &["list", "set", "inet", TABLE, "blocked4"]);
    assert!(text.contains("203.0.113.11 timeout"), "its time is the ledger's: {text}");
}

/// Somebody lowers in_all below the number that is blocked: the longest stay, with a daemon and without.
#[test]
fn fewer_may_be_blocked_than_are() {
    let (net, home) = (Net::new("fewer"), Home::new());
    let allow = |count: usize| {
        home.write("/etc/harden-portsentry/policy.toml", &format!("[block]\nin_all = {count}\n"));
    };
    for (last, time) in [(1, "1h"), (2, "4h"), (3, "2h"), (4, "3h"), (5, "forever")] {
        run(&net, &home, &["block", &format!("203.0.113.{last}"), "--for", time]);
    }
    allow(4);
    let (said, ok) = run(&net, &home, &["restore"]);
    assert!(ok && said.contains("there were more than in_all of [block] in policy.toml allows: 1"), "{said}");
    assert!(said.contains("4 hosts are blocked."), "{said}");
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    assert_eq!(blocked(&net), set(["203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5"]));
    allow(2);
    daemon.signal(rustix::process::Signal::HUP);
    wait_until("the reload", || daemon.said().contains("configuration read again"));
    let longest = set(["203.0.113.2", "203.0.113.5"]);
    assert_eq!((blocked(&net), listed(&net, &home)), (longest.clone(), longest.clone()));
    for free in [3, 4] {
        let said = format!("Host 203.0.113.{free} is free again: there were more than in_all");
        assert!(daemon.said().contains(&said), "{}", daemon.said());
    }
    drop(daemon);
    allow(4);
    run(&net, &home, &["restore"]);
    assert_eq!(blocked(&net), longest, "the ledger has it");
}

/// A host is blocked, its set is full of others, and the kernel refuses to block it for longer: then it is blocked as it was.
#[test]
fn what_the_kernel_refuses_changes_nothing() {
    let (net, home) = (Net::new("refuses"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", "[block]\nin_all = 4\n");
    let _daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    run(&net, &home, &["block", "203.0.113.9", "--for", "1h"]);
    let others = "198.51.100.1, 198.51.100.2, 198.51.100.3, 198.51.100.4";
    net.nft("host", &format!("flush set inet {TABLE} blocked4"));
    net.nft("host", &format!("add element inet {TABLE} blocked4 {{ {others} }}"));
    let before = run(&net, &home, &["blocked", "--format", "json"]);
    assert!(before.0.contains("203.0.113.9"), "{}", before.0);
    let (said, ok) = run(&net, &home, &["block", "203.0.113.9", "--for", "2h"]);
    assert!(!ok && said.contains("no room") && said.contains("in_all of [block] in policy.toml"), "{said}");
    assert_eq!(run(&net, &home, &["blocked", "--format", "json"]), before);
}

/// A line of the ledger about an address of 10.0.0.0/8, blocked until then.
fn line_about(number: u32, until: &str) -> String {
    let address = Ipv4Addr::from_bits(0x0a00_0000 | number);
    let rest = format!("2026-01-01T00:00:00Z block {address} {until} 1 daemon probed tcp/7");
    format!("{:08x} {rest}\n", crc32fast::hash(rest.as_bytes()))
}

/// The clock was set while no daemon ran, and thousands of times are wrong in the kernel: they are renewed by few
/// transactions, for each that the kernel refuses takes it milliseconds.
#[test]
fn many_times_are_renewed_at_once() {
    const MANY: u32 = 3_000;
    let (net, home) = (Net::new("many"), Home::new());
    fs::create_dir_all(home.path("/var/lib/harden-portsentry/blocks")).expect("a directory");
    let say = |until: &str| {
        let lines: String = (1..=MANY).map(|number| line_about(number, until)).collect();
        home.write("/var/lib/harden-portsentry/blocks/ledger", &lines);
        run(&net, &home, &["restore"])
    };
    assert_eq!(say("2090-01-01T00:00:00Z"), (format!("{MANY} hosts are blocked.\n"), true));
    let out = home.path("/run/monitor");
    let monitor = net.prepared("host", "nft", &["monitor"]).stdout(fs::File::create(&out).expect("a file")).spawn();
    let _monitor = Ends(monitor.expect("nft runs"));
    // The number in `# new generation 7 by process 42 (nft)`, behind what was done.
    let generation = |table: &str| {
        let mut found = None;
        wait_until("that it is heard of", || {
            net.nft("host", &format!("add table inet {table}"));
            let said = fs::read_to_string(&out).unwrap_or_default();
            let behind = said.split_once(&format!("add table inet {table}\n")).map_or("", |(_, behind)| behind);
            let number = behind.strip_prefix("# new generation ").and_then(|rest| rest.split(' ').next());
            found = number.and_then(|number| number.parse::<u32>().ok());
            if found.is_none() {
                net.nft("host", &format!("delete table inet {table}"));
            }
            found.is_some()
        });
        found.expect("it was heard of")
    };
    let before = generation("before");
    assert_eq!(say("2080-01-01T00:00:00Z"), (format!("{MANY} hosts are blocked.\n"), true));
    let after = generation("after");
    assert!(after - before < 50, "{} transactions", after - before);
    assert_eq!(blocked(&net).len(), MANY as usize);
}

/// A process that ends with the test, however that ends.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who is never blocked has to be known: where the ignore list cannot be read nobody is blocked by hand, and all else goes.
#[test]
fn an_ignore_list_that_cannot_be_read_blocks_nobody() {
    let (net, home) = (Net::new("list"), Home::new());
    let list = "/etc/harden-portsentry/of-its-own";
    let conf = format!("TCP_PORTS=\"1-1023\"\nUDP_PORTS=\"1-1023\"\nIGNORE_FILE=\"{list}\"\n");
    home.write("/etc/harden-portsentry/portsentry.conf", &conf);
    home.write(list, "203.0.113.0/24\n");
    let (said, ok) = run(&net, &home, &["block", "203.0.113.9"]);
    assert!(!ok && said.contains(&format!("it is in the ignore list {list}")), "{said}");
    assert!(run(&net, &home, &["block", "198.51.100.9"]).1);
    home.write(list, "203.0.113.0/24\nno address\n");
    let (said, ok) = run(&net, &home, &["block", "203.0.113.9"]);
    assert!(!ok && said.contains(&format!("{list}, line 2")), "{said}");
    net.nft("host", "flush ruleset");
    let (said, ok) = run(&net, &home, &["restore"]);
    assert!(ok && said.contains("line 2") && said.contains("One host is blocked."), "{said}");
    assert_eq!(blocked(&net), set(["198.51.100.9"]));
    assert!(run(&net, &home, &["unblock", "198.51.100.9"]).1);
}

/// The kernel blocks whom a full disk does not take, and whoever asked hears what that means.
#[test]
fn a_block_by_hand_on_a_full_disk() {
    let full = "mount -t tmpfs -o size=4k tmpfs /var/lib && mkdir -p /var/lib/harden-portsentry/blocks && printf x >/var/lib/x";
    let (net, home) = (Net::new("filled"), Home::with(full));
    let (said, ok) = run(&net, &home, &["block", "203.0.113.9"]);
    assert!(!ok && said.contains("it is done in the kernel: a restart would forget it"), "{said}");
    assert_eq!(blocked(&net), set(["203.0.113.9"]));
}

/// A repeated block renews the time, which kernels before 6.12 do not do by themselves.
#[test]
fn a_repeated_block_renews_the_time() {
    let (net, home) = (Net::new("renew"), Home::new());
    for time in ["10m", "2h", "forever", "30m"] {
        run(&net, &home, &["block", "203.0.113.9", "--for", time]);
        let text = net.run("host", "nft", &["list", "set", "inet", TABLE, "blocked4"]);
        let shown =
            [("10m", "timeout 10m"), ("2h", "timeout 2h"), ("forever", "{ 203.0.113.9 }"), ("30m", "timeout 30m")];
        let wanted = shown.iter().find(|(name, _)| *name == time).expect("a time").1;
        assert!(text.contains(wanted), "{time}: {text}");
    }
}

#[test]
fn somebody_flushes_the_ruleset_and_the_blocks_are_back() {
    let (net, home) = (Net::new("flushed"), Home::new());
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    run(&net, &home, &["block", "203.0.113.9"]);
    for loss in ["flush ruleset", "delete table inet harden_portsentry_blocks"] {
        net.nft("host", loss);
        wait_until("the block", || blocked(&net).contains("203.0.113.9"));
    }
    assert!(daemon.said().contains("somebody took away the table of blocked hosts"));
    // One element alone: its source is heard, and blocked again.
    let source = scanner(0);
    net.scan(&source, "1-20");
    wait_until("the scanner", || blocked(&net).contains(&source));
    net.nft("host", &format!("flush set inet {TABLE} blocked4"));
    net.scan(&source, "21-40");
    wait_until("the scanner again", || blocked(&net).contains(&source));
}

/// Forged packets in the name of whom this host needs, and of itself; and asked for by hand.
#[test]
fn who_is_never_blocked() {
    let (net, home) = (Net::new("safe"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", "safe = [\"192.0.2.66\"]\n");
    home.write("/etc/resolv.conf", "nameserver 192.0.2.61\n");
    fs::create_dir_all(home.path("/var/lib/dhcp")).expect("a directory");
    let lease = "lease {\n  option dhcp-server-identifier 192.0.2.62;\n}\n";
    fs::write(home.path("/var/lib/dhcp/dhclient.leases"), lease).expect("a file");
    net.run("host", "ip", &["route", "add", "default", "via", "192.0.2.63"]);
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let safe = [
        ("192.0.2.61", "resolver"),
        ("192.0.2.62", "DHCP server"),
        ("192.0.2.63", "gateway"),
        ("192.0.2.66", "policy.toml, line 1"),
        ("10.1.0.1", "own address"),
        ("127.0.0.1", "no host's address"),
    ];
    for (address, why) in safe {
        let (said, ok) = run(&net, &home, &["block", address]);
        assert!(!ok && said.contains("must not be blocked") && said.contains(why), "{address}: {said}");
    }
    for (address, _) in &safe[..4] {
        net.scan(address, "1-20");
        wait_until(&format!("the scan of {address}"), || daemon.history().ports(address, "TCP").len() >= 20);
    }
    assert!(blocked(&net).is_empty(), "{:?}", blocked(&net));
    assert!(daemon.said().contains("Host 192.0.2.61 is not blocked: it is this host's resolver"), "{}", daemon.said());
    // Whom the host begins to need is free again at once, and whom somebody names with the next start.
    for scanner in ["192.0.2.64", "192.0.2.65"] {
        net.scan(scanner, "1-20");
        wait_until("the scanner", || blocked(&net).contains(scanner));
    }
    net.run("host", "ip", &["route", "replace", "default", "via", "192.0.2.64"]);
    wait_until("the gateway is free", || blocked(&net) == set(["192.0.2.65"]));
    let (said, ok) = run(&net, &home, &["block", "192.0.2.64"]);
    assert!(!ok && said.contains("gateway"), "{said}");
    home.write("/etc/harden-portsentry/policy.toml", "safe = [\"192.0.2.64/31\"]\n");
    drop(daemon);
    assert_eq!(blocked(&net), set(["192.0.2.65"]), "nothing frees it");
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    assert_eq!(blocked(&net), set([]));
    assert!(daemon.said().contains("192.0.2.65 is free again: it is safe"), "{}", daemon.said());
}

/// Routes with several next hops have several gateways.
#[test]
fn each_of_several_gateways_is_safe() {
    let (net, home) = (Net::new("hops"), Home::new());
    let hops = "route add default nexthop via 192.0.2.61 nexthop via 192.0.2.62";
    net.run("host", "ip", &hops.split(' ').collect::<Vec<_>>());
    for address in ["192.0.2.61", "192.0.2.62"] {
        let (said, ok) = run(&net, &home, &["block", address]);
        assert!(!ok && said.contains("gateway"), "{said}");
    }
}

/// A host for which the configuration wants a command alone is not blocked by its second packet either.
#[test]
fn where_only_a_command_is_wanted_nobody_is_blocked() {
    let (net, home) = (Net::new("command"), Home::new());
    let conf = BLOCK.replace("BLOCK_UDP=\"1\"", "BLOCK_UDP=\"2\"") + "KILL_RUN_CMD=\"true $TARGET$\"\n";
    let daemon = Daemon::at_home(&net, &home, "1-1023", &conf);
    let source = scanner(0);
    net.run("client", "nmap", &["-sU", "-Pn", "-n", "-S", &source, "-e", "lan", "-p", "1-20", neighbourhood::HOST]);
    wait_until("the scan", || daemon.history().ports(&source, "UDP").len() >= 20);
    // One that is to be blocked, and comes last.
    net.scan(&scanner(1), "1-20");
    wait_until("the other scanner", || blocked(&net).contains(&scanner(1)));
    assert_eq!(blocked(&net), set([scanner(1).as_str()]));
}

/// A file of two that is wrong, and neither is taken.
#[test]
fn a_reload_takes_all_or_nothing() {
    let (net, home) = (Net::new("reload"), Home::new());
    let policy = |daemon: &Daemon, first: &str| {
        let text = format!("[block]\nfirst = \"{first}\"\n");
        fs::write(daemon.sees("/etc/harden-portsentry/policy.toml"), text).expect("a file");
    };
    home.write("/etc/harden-portsentry/policy.toml", "");
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let ports = || net.run("host", "nft", &["list", "set", "inet", "harden_portsentry", "tcp_ports"]);
    let before = ports();
    policy(&daemon, "soon");
    daemon.configure(&format!("TCP_PORTS=\"1-99\"\n{BLOCK}"));
    daemon.signal(rustix::process::Signal::HUP);
    wait_until("what is wrong", || daemon.said().contains("the old one goes on"));
    assert!(daemon.said().contains("policy.toml, line 2"), "{}", daemon.said());
    assert_eq!(ports(), before);
    policy(&daemon, "1h");
    daemon.signal(rustix::process::Signal::HUP);
    wait_until("the new ports", || ports().contains("1-99"));
}

/// Whatever the answer, a blocked host opens nothing on what is behind this host, by TCP or by UDP; what that asks it is
/// answered.
#[test]
fn what_is_behind_this_host() {
    for (answer, tag) in [("drop", "behind-d"), ("reject", "behind-r"), ("noise", "behind-n")] {
        let (net, home) = (Net::new(tag), Home::new());
        let _daemon = Daemon::at_home(&net, &home, "1-1023", &BLOCK.replace("drop", answer));
        std::thread::scope(|scope| {
            let open =
                net.inside(scope, "box", || std::net::TcpListener::bind((neighbourhood::BOX, 8080)).expect("a port"));
            let _open = open.join().expect("it listens");
            let knock = || {
                net.output("client", "nc", &["-z", "-w", "2", "-s", &scanner(0), neighbourhood::BOX, "8080"])
                    .status
                    .success()
            };
            let bound = |place: &str, address: String| {
                let bound = net.inside(scope, place, move || UdpSocket::bind((address, 0)).expect("a port"));
                let socket = bound.join().expect("bound");
                socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
                socket
            };
            let (inside, outside) = (|| bound("box", neighbourhood::BOX.to_owned()), || bound("client", scanner(0)));
            // The first fragment is too short for the flags.
            let in_fragments = || {
                let words =
                    ["-sS", "-f", "-Pn", "-n", "--max-retries", "1", "-p", "8080", "-S", &scanner(0), "-e", "lan"];
                net.run("client", "nmap", &[&words[..], &[neighbourhood::BOX]].concat()).contains("8080/tcp open")
            };
            assert!(knock() && in_fragments() && is_answered(&outside(), &inside()), "{answer}: nobody is blocked");
            let (said, ok) = run(&net, &home, &["block", &scanner(0)]);
            assert!(ok, "{said}");
            assert!(!knock() && !in_fragments() && !is_answered(&outside(), &inside()), "{answer}: it is blocked");
            assert!(is_answered(&inside(), &outside()), "{answer}: what is behind this host asked");
            assert!(!is_answered(&outside(), &inside()), "{answer}: it is blocked");
        });
    }
}

/// Whether a datagram of `client` reaches `service`, and the answer comes back.
fn is_answered(client: &UdpSocket, service: &UdpSocket) -> bool {
    let mut room = [0; 8];
    client.send_to(b"question", service.local_addr().expect("bound")).expect("sent");
    let Ok((_, from)) = service.recv_from(&mut room) else { return false };
    service.send_to(b"answer", from).expect("sent");
    client.recv_from(&mut room).is_ok()
}

/// What routers say to each other goes on: a packet in the name of one of them must not make two masters of a VRRP group.
#[test]
fn routers_hear_each_other() {
    for answer in ["drop", "reject", "noise", "chaos"] {
        let (net, home) = (Net::new(&format!("vrrp-{answer}")), Home::new());
        let _daemon = Daemon::at_home(&net, &home, "1-1023", &BLOCK.replace("drop", answer));
        let (said, ok) = run(&net, &home, &["block", neighbourhood::CLIENT]);
        assert!(ok, "{said}");
        let heard = home.path("/run/heard");
        let hearing = "IP4-RECV:112,ip-add-membership=224.0.0.18:lan";
        let mut listener = net.spawn("host", "socat", &["-u", hearing, &format!("CREATE:{}", heard.display())]);
        wait_until("a listener", || heard.exists());
        wait_until("a word of the other router", || {
            let to = format!("IP4-SENDTO:224.0.0.18:112,ip-multicast-if={}", neighbourhood::CLIENT);
            net.run("client", "sh", &["-c", &format!("echo I am the master | socat -u - {to}")]);
            fs::read_to_string(&heard).is_ok_and(|text| text.contains("master"))
        });
        let _ = listener.kill();
        let _ = listener.wait();
    }
}

/// Protocols without ports, as tunnels are: what this host speaks with a blocked one goes on, what that one begins does not.
#[test]
fn a_tunnel_with_a_blocked_host_goes_on() {
    let (net, home) = (Net::new("tunnel"), Home::new());
    let _daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let (said, ok) = run(&net, &home, &["block", neighbourhood::CLIENT]);
    assert!(ok, "{said}");
    let heard = home.path("/run/heard");
    let hearing = format!("IP4-RECV:253,bind={}", neighbourhood::HOST);
    let mut listener = net.spawn("host", "socat", &["-u", &hearing, &format!("CREATE:{}", heard.display())]);
    let send = |place: &str, to: &str| {
        net.run(place, "sh", &["-c", &format!("echo from-{place} | socat -u - IP4-SENDTO:{to}:253")]);
    };
    let is_heard = || fs::read_to_string(&heard).is_ok_and(|text| text.contains("from-client"));
    wait_until("a listener", || heard.exists());
    for _ in 0..5 {
        send("client", neighbourhood::HOST);
    }
    let dropped = || net.run("host", "nft", &["list", "set", "inet", TABLE, "spoken4"]);
    assert!(!dropped().contains(neighbourhood::CLIENT) && !is_heard(), "{}", dropped());
    send("host", neighbourhood::CLIENT);
    wait_until("an answer", || {
        send("client", neighbourhood::HOST);
        is_heard()
    });
    listener.kill().expect("it runs");
    listener.wait().expect("it ended");
}

/// A scanner that holds a connection to a service is one like any other.
#[test]
fn a_connection_is_no_licence_to_scan() {
    let (net, home) = (Net::new("licence"), Home::new());
    let _daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    std::thread::scope(|scope| {
        let service =
            net.inside(scope, "host", || std::net::TcpListener::bind((neighbourhood::HOST, 22)).expect("a port"));
        let service = service.join().expect("bound");
        let mut idle = net.prepared("client", "nc", &["-s", &scanner(0), neighbourhood::HOST, "22"]);
        let mut idle = idle.stdin(std::process::Stdio::piped()).spawn().expect("nc runs");
        let (_connection, from) = service.accept().expect("a client");
        assert_eq!(from.ip().to_string(), scanner(0));
        net.scan(&scanner(0), "1-20");
        wait_until("the scanner in the kernel's set", || blocked(&net).contains(&scanner(0)));
        idle.kill().expect("it runs");
        idle.wait().expect("it ended");
    });
}

/// hosts.deny has one line, and libwrap finds in the file that it names who is blocked now.
#[test]
fn tcp_wrappers_read_who_is_blocked_now() {
    let (net, home) = (Net::new("deny"), Home::new());
    home.write("/etc/hosts.deny", "ALL: /var/lib/harden-portsentry/denied\n");
    home.write("/etc/hosts.allow", "");
    home.write("/etc/harden-portsentry/policy.toml", "[block]\nfirst = \"10s\"\n");
    let matches = |address: &str| {
        let output = home.output(&net, Path::new("/usr/sbin/tcpdmatch"), &["sshd", address]);
        String::from_utf8_lossy(&output.stdout).contains("denied")
    };
    let _daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    run(&net, &home, &["block", "203.0.113.9"]);
    run(&net, &home, &["block", "2001:db8::9"]);
    wait_until("both are denied", || matches("203.0.113.9") && matches("2001:db8::9"));
    assert!(!matches("203.0.113.91") && !matches("203.0.113.1") && !matches("2001:db8::91"));
    let source = scanner(0);
    net.scan_until(&source, "1-20", "the scanner is denied", || matches(&source));
    wait_until("it is denied no longer", || !matches(&source));
    run(&net, &home, &["unblock", "2001:db8::9"]);
    wait_until("one is denied", || matches("203.0.113.9") && !matches("2001:db8::9"));
    assert_eq!(home.read("/etc/hosts.deny"), "ALL: /var/lib/harden-portsentry/denied\n");
}

/// Without a daemon each command writes it, in the place of the link that there was once.
#[test]
fn tcp_wrappers_read_a_file_that_is_roots() {
    let (net, home) = (Net::new("roots"), Home::new());
    let file = home.path("/var/lib/harden-portsentry/denied");
    fs::create_dir_all(home.path("/var/lib/harden-portsentry/blocks")).expect("a directory");
    std::os::unix::fs::symlink("blocks/denied", &file).expect("a link");
    let denied = || fs::read_to_string(&file).expect("a file");
    run(&net, &home, &["block", "203.0.113.9"]);
    let found = fs::symlink_metadata(&file).expect("it is there");
    assert!(found.is_file(), "{found:?}");
    run(&net, &home, &["block", "2001:db8::9"]);
    assert_eq!(denied(), "203.0.113.9\n[2001:db8::9]\n");
    run(&net, &home, &["unblock", "203.0.113.9"]);
    assert_eq!(denied(), "[2001:db8::9]\n");
}

#[test]
fn commands_of_the_configuration_come_after_it() {
    let (net, home) = (Net::new("kill"), Home::new());
    home.write("/etc/hosts.deny", "");
    let more = format!(
        "{BLOCK}KILL_HOSTS_DENY=\"ALL: $TARGET$ : DENY\"\nKILL_RUN_CMD=\"nft list set inet {TABLE} blocked4 >/run/seen; echo $TARGET$ $PORT$ >>/run/ran\"\n"
    );
    let daemon = Daemon::at_home(&net, &home, "1-1023", &more);
    let source = scanner(0);
    net.scan(&source, "7");
    wait_until("the command", || home.read("/run/ran") == format!("{source} 7\n"));
    assert!(home.read("/run/seen").contains(&source), "the kernel's set came first");
    assert_eq!(home.read("/etc/hosts.deny"), format!("ALL: {source} : DENY\n"));
    wait_until("what is said of it", || daemon.said().contains("has been blocked via wrappers"));
    let said = daemon.said();
    let place = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what}: {said}"));
    assert!(place("has been blocked via nftables for 10 minutes") < place("has been blocked via wrappers"), "{said}");
}

/// Past the limits it says so, goes on watching, and whoever insists is blocked all the same.
#[test]
fn so_many_and_no_more() {
    let (net, home) = (Net::new("limits"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", "[block]\nin_all = 4\n");
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    for number in 0..6 {
        net.scan(&scanner(number), "1");
    }
    wait_until("all are in the history", || {
        (0..6).all(|number| !daemon.history().ports(&scanner(number), "TCP").is_empty())
    });
    assert_eq!(blocked(&net), set([scanner(0).as_str(), scanner(1).as_str()]), "half is for those who insist");
    let half = "is not blocked: 2 hosts are blocked, and half of in_all (4, [block] in policy.toml) is kept";
    assert!(daemon.said().contains(half), "{}", daemon.said());
    for number in 2..6 {
        net.scan(&scanner(number), "2-5");
    }
    wait_until("two more", || blocked(&net).len() == 4);
    let (said, ok) = run(&net, &home, &["block", "203.0.113.9"]);
    assert!(!ok && said.contains("203.0.113.9 is not blocked: 4 hosts"), "{said}");
}

/// The client is whatever this has in it.
const FORGED: &str = "100.64.0.0/10";

/// A datagram from each address of [`FORGED`], one after the other, as long as more than so many are wanted.
fn forge(is_wanted: impl Fn(u32) -> bool) {
    for number in (0..1 << 22).take_while(|&number| is_wanted(number)) {
        let source = Ipv4Addr::from_bits(0x6440_0000 | number);
        let socket = UdpSocket::bind((source, 0)).expect("an address of the client");
        socket.send_to(b"x", (neighbourhood::HOST, 7)).expect("a route");
    }
}

/// Whether the kernel blocks this IPv4 address; for it alone, for there may be thousands.
fn is_blocked(net: &Net, address: &str) -> bool {
    let element = format!("{{ {address} }}");
    net.output("host", "nft", &["get", "element", "inet", TABLE, "blocked4", &element]).status.success()
}

/// While forged sources come by the hundred thousand a scanner is blocked; of them no more are than the limits allow, and
/// neither the daemon nor the kernel grows with their number.
#[test]
fn a_scanner_does_not_hide_in_a_flood_of_forged_sources() {
    const COUNT: u32 = 300_000;
    const IN_ALL: usize = 4_000;
    const MEMORY_KIB: u64 = 64 << 10;
    let (net, home) = (Net::new("forged"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", &format!("[block]\nin_all = {IN_ALL}\n"));
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    net.run("client", "ip", &["route", "add", "local", FORGED, "dev", "lo"]);
    let (sent, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let flood = net.inside(scope, "client", || {
            forge(|number| {
                sent.store(number, Ordering::Relaxed);
                number < COUNT || !is_over.load(Ordering::Relaxed)
            });
        });
        // However this ends, so does the flood.
        let _over = Over(&is_over);
        let had = |count| wait_until("forged sources", || sent.load(Ordering::Relaxed) >= count);
        had(COUNT / 3);
        net.scan(&scanner(0), "1-100");
        wait_until("the scanner in the kernel's set", || is_blocked(&net, &scanner(0)));
        wait_until("that the limit is said", || daemon.said().contains("there are more than 100 new blocks a second"));
        had(COUNT);
        assert!(!flood.is_finished(), "it ended before the scan");
    });
    let count = blocked(&net).len();
    assert!((1_000..=IN_ALL).contains(&count), "{count} are blocked");
    let sets = net.run("host", "nft", &["-t", "list", "sets", "inet"]);
    assert_eq!(sets.matches(&format!("size {IN_ALL}")).count(), 2, "{sets}");
    let memory = daemon.peak_memory_kib();
    assert!(memory < MEMORY_KIB, "{memory} KiB");
    // Lines of those that were blocked, and of a quarter of a million others.
    let lines = daemon.lines_of_history();
    assert!(lines < 250_000 + 2 * IN_ALL, "{lines} lines for {} packets", sent.load(Ordering::Relaxed));
    println!("{count} of {} sources are blocked; the daemon's peak is {memory} KiB", sent.load(Ordering::Relaxed));
}

/// Says so when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// More forged sources between two of his probes than are remembered at all do not make a scanner a stranger.
#[test]
fn a_slow_scanner_is_not_forgotten_for_forged_sources() {
    let (net, home) = (Net::new("slow"), Home::new());
    let daemon = Daemon::at_home(&net, &home, "1-1023", &format!("{BLOCK}SCAN_TRIGGER=\"3\"\n"));
    net.run("client", "ip", &["route", "add", "local", FORGED, "dev", "lo"]);
    net.scan(&scanner(0), "1-2");
    wait_until("two probes", || daemon.history().ports(&scanner(0), "TCP").len() == 2);
    std::thread::scope(|scope| net.inside(scope, "client", || forge(|number| number < 100_000)).join().expect("sends"));
    net.scan(&scanner(1), "1");
    wait_until("what came behind it", || !daemon.history().ports(&scanner(1), "TCP").is_empty());
    assert!(blocked(&net).is_empty());
    net.scan(&scanner(0), "3");
    wait_until("the scanner in the kernel's set", || is_blocked(&net, &scanner(0)));
}

/// What is open stays open, either way, and nothing new opens.
mod what_goes_on {
    use super::neighbourhood::what_goes_on::of_family;
    use super::neighbourhood::{HOST, HOST6};
    use super::*;

    fn with_a_daemon(tag: &str, hosts: (&'static str, &str), cut: bool) {
        let (net, home) = (Net::new(tag), Home::new());
        if cut {
            home.write("/etc/harden-portsentry/policy.toml", "[block]\ncut_established = true\n");
        }
        let _daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
        of_family(&net, &home, || blocked(&net), hosts, cut);
    }

    #[test]
    fn ipv4() {
        with_a_daemon("runs4", (HOST, "0.0.0.0"), false);
    }

    #[test]
    fn but_where_somebody_wants_it_cut() {
        with_a_daemon("cut4", (HOST, "0.0.0.0"), true);
    }

    #[test]
    fn ipv6() {
        with_a_daemon("runs6", (HOST6, "::"), false);
    }
}

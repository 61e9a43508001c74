//! What goes wrong around the daemon: kills, full disks, links and tables that go, resolvers and commands that hang. After
//! each a new scan is seen and blocked, and nobody who was told as blocked is forgotten. In network namespaces, as root.

mod neighbourhood;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use neighbourhood::blocks::{BLOCK, TABLE, blocked, listed, run};
use neighbourhood::daemon::Daemon;
use neighbourhood::home::Home;
use neighbourhood::{CLIENT, HOST, Net, scanner, wait_until};
use regex::Regex;
use rustix::process::Signal;

const LEDGER: &str = "/var/lib/harden-portsentry/blocks/ledger";

/// Many may be blocked within a second, and for long.
const MANY: &str = "[block]\nfirst = \"1d\"\nper_second = 10000\n";

/// A host whose client is whatever 10.99.0.0/16 has in it.
fn net_with_a_crowd(tag: &str) -> Net {
    let net = Net::new(tag);
    net.run("client", "ip", &["route", "add", "local", "10.99.0.0/16", "dev", "lo"]);
    net.run("host", "ip", &["route", "add", "10.99.0.0/16", "via", CLIENT]);
    net
}

/// The address of so many in the crowd.
fn one_of_a_crowd(number: usize) -> String {
    format!("10.99.{}.{}", number / 256, number % 256)
}

/// One of the crowd asks for a port of UDP. To be called in the client's namespace.
fn probe(number: usize) {
    let socket = UdpSocket::bind((one_of_a_crowd(number), 0)).expect("an address of the client");
    // What ICMP said of another one is no failure.
    let _ = socket.send_to(b"x", (HOST, 7));
}

fn a_crowd_probes(net: &Net, numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    std::thread::scope(|scope| {
        let range = numbers.clone();
        net.inside(scope, "client", move || range.for_each(probe)).join().expect("sends");
    });
    numbers.map(one_of_a_crowd).collect()
}

/// Whom the program said to have blocked.
fn told_as_blocked(said: &str) -> BTreeSet<String> {
    let line = Regex::new(r"Host (\S+) has been blocked via nftables").expect("a pattern");
    line.captures_iter(said).map(|found| found[1].to_owned()).collect()
}

/// A scanner that was not heard of yet is blocked, and told.
fn a_scan_is_blocked(net: &Net, daemon: &Daemon, number: usize) {
    net.scan(&scanner(number), "1-20");
    is_blocked_and_told(net, daemon, number);
}

/// The same where probes may be lost on the way, or come faster than they can be read: then they come again.
fn a_scan_is_blocked_at_last(net: &Net, daemon: &Daemon, number: usize) {
    wait_until(&format!("a scan by {} that arrives", scanner(number)), || {
        net.scan(&scanner(number), "1-20");
        blocked(net).contains(&scanner(number))
    });
    is_blocked_and_told(net, daemon, number);
}

fn is_blocked_and_told(net: &Net, daemon: &Daemon, number: usize) {
    let source = scanner(number);
    wait_until(&format!("the scanner {source} in the kernel's set"), || blocked(net).contains(&source));
    wait_until("that it is told", || told_as_blocked(&daemon.said()).contains(&source));
}

fn times(text: &str, what: &str) -> usize {
    text.lines().filter(|line| line.contains(what)).count()
}

/// How often the ledger at `path` has a line about `address`.
fn lines_about(path: &std::path::Path, address: &str) -> usize {
    let about = format!(" {address} ");
    times(&fs::read_to_string(path).unwrap_or_default(), &about)
}

#[test]
fn killed_again_and_again_under_load_it_forgets_nobody_whom_it_told() {
    const KILLS: usize = 8;
    let (net, home) = (net_with_a_crowd("killed"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", MANY);
    let (ends, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut told = BTreeSet::new();
    std::thread::scope(|scope| {
        let load = net.inside(scope, "client", || {
            while !ends.load(Ordering::Relaxed) && sent.load(Ordering::Relaxed) < 30_000 {
                probe(sent.fetch_add(1, Ordering::Relaxed));
                // So that there are some left for each life.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for life in 0..KILLS {
            let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
            // In the middle of whatever it does just then.
            wait_until("some blocks", || told_as_blocked(&daemon.said()).len() > 40 + 37 * life);
            told.extend(told_as_blocked(&daemon.kill()));
        }
        ends.store(true, Ordering::Relaxed);
        load.join().expect("sends");
    });
    assert!(told.len() > 40 * KILLS, "{}", told.len());
    let forgotten = |who: BTreeSet<String>| told.difference(&who).cloned().collect::<Vec<_>>();
    assert_eq!(forgotten(blocked(&net)), [] as [String; 0], "by the kernel");
    assert_eq!(forgotten(listed(&net, &home)), [] as [String; 0], "by the ledger, without a daemon");
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    assert_eq!(forgotten(blocked(&net)), [] as [String; 0], "by the kernel, after a start");
    assert_eq!(forgotten(listed(&net, &home)), [] as [String; 0], "by the daemon");
    a_scan_is_blocked(&net, &daemon, 0);
}

/// The ledger and the history are on a disk without room. What is blocked is so in the kernel, it is said once, and when
/// there is room again it is written down, once.
#[test]
fn a_full_disk() {
    // Addresses, and so lines, of one length: where one finds no room another finds none.
    const CROWD: std::ops::Range<usize> = 100..256;
    let (net, home) = (net_with_a_crowd("full"), Home::with("mount -t tmpfs -o size=256k tmpfs /var/lib"));
    home.write("/etc/harden-portsentry/policy.toml", MANY);
    let daemon = Daemon::at_home(&net, &home, "1-1023", &format!("{BLOCK}HISTORY_FILE=\"/var/lib/history\"\n"));
    a_scan_is_blocked(&net, &daemon, 0);
    let filler = daemon.sees("/var/lib/filler");
    let mut file = File::create(&filler).expect("a file");
    while file.write_all(&[b'x'; 1_024]).is_ok() {}
    drop(file);
    let crowd = a_crowd_probes(&net, CROWD);
    wait_until("the blocks", || blocked(&net).is_superset(&crowd));
    wait_until("that all of them are told", || told_as_blocked(&daemon.said()).is_superset(&crowd));
    let failures = ["cannot write the ledger", "cannot write /var/lib/history"];
    for failure in failures {
        assert_eq!(times(&daemon.said(), failure), 1, "{failure}: {}", daemon.said());
    }
    let last = one_of_a_crowd(CROWD.end - 1);
    assert!(daemon.said().contains(&format!("the block of host {last} is not written down yet")), "{}", daemon.said());
    assert_eq!(listed(&net, &home).intersection(&crowd).count(), CROWD.len(), "the daemon knows them");

    fs::remove_file(&filler).expect("it is there");
    wait_until("the ledger", || daemon.said().contains("the ledger of blocks is written again"));
    let ledger = daemon.sees(LEDGER);
    for address in &crowd {
        assert_eq!(lines_about(&ledger, address), 1, "{address}");
    }
    a_scan_is_blocked(&net, &daemon, 1);
    let history = || fs::read_to_string(daemon.sees("/var/lib/history")).expect("a history");
    wait_until("the history", || history().contains(&scanner(1)));
    let whole = Regex::new(r"^\S+ Scan from: \[\S+\] .* blocked: \[\w+\]$").expect("a pattern");
    for line in history().lines() {
        assert!(whole.is_match(line) && line.matches("Scan from").count() == 1, "half a line: {line}");
    }
    for failure in failures {
        assert_eq!(times(&daemon.said(), failure), 1, "{failure}: {}", daemon.said());
    }
}

/// What mounts the ledger's place read-only for programs that start once there is a file /run/read-only.
fn read_only_where_asked() -> String {
    let lib = "/var/lib/harden-portsentry";
    format!("! test -e /run/read-only || {{ mount --bind {lib} {lib} && mount -o remount,bind,ro {lib}; }}")
}

/// A disk that was mounted read-only for its errors must not leave the host unwatched after a boot.
#[test]
fn a_start_with_a_ledger_that_cannot_be_written() {
    let (net, home) = (Net::new("rostart"), Home::with(&read_only_where_asked()));
    let first = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    a_scan_is_blocked(&net, &first, 0);
    drop(first);
    net.nft("host", "flush ruleset");
    home.write("/run/read-only", "");
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    assert!(daemon.said().contains("waits until it can be"), "{}", daemon.said());
    wait_until("whom the ledger says", || blocked(&net).contains(&scanner(0)));
    a_scan_is_blocked(&net, &daemon, 1);
    daemon.mount("mount -o remount,bind,rw /var/lib/harden-portsentry");
    a_scan_is_blocked(&net, &daemon, 2);
    wait_until("all are written down", || (0..3).all(|number| lines_about(&home.path(LEDGER), &scanner(number)) == 1));
}

/// The daemon was killed before it had written down whom it had blocked, and the disk cannot be written as it starts anew.
#[test]
fn whom_the_kernel_blocks_is_written_down_when_that_works() {
    let (net, home) = (Net::new("adopts"), Home::with(&read_only_where_asked()));
    run(&net, &home, &["block", "203.0.113.9", "--for", "1h"]);
    net.nft("host", &format!("add element inet {TABLE} blocked4 {{ 203.0.113.10 timeout 1h }}"));
    home.write("/run/read-only", "");
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    assert!(daemon.said().contains("whom the ledger does not know, as it does now: 1"), "{}", daemon.said());
    assert_eq!(times(&daemon.said(), "waits until it can be"), 1, "{}", daemon.said());
    assert_eq!(lines_about(&home.path(LEDGER), "203.0.113.10"), 0);
    daemon.mount("mount -o remount,bind,rw /var/lib/harden-portsentry");
    wait_until("it is written down", || lines_about(&home.path(LEDGER), "203.0.113.10") == 1);
}

/// The ledger has one line more for each block; the daemon writes a long one anew with what still matters.
#[test]
fn a_ledger_that_grew_is_written_anew() {
    const LINES: usize = 5_000;
    let (net, home) = (Net::new("grew"), Home::new());
    fs::create_dir_all(home.path(LEDGER).parent().expect("a directory")).expect("a directory");
    let line = |until: &str| {
        let rest = format!("2026-01-01T00:00:00Z block 203.0.113.9 {until} 1 hand by hand");
        format!("{:08x} {rest}\n", crc32fast::hash(rest.as_bytes()))
    };
    let over = line("2026-01-02T00:00:00Z").repeat(LINES);
    home.write(LEDGER, &format!("{over}{}", line("forever")));
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    a_scan_is_blocked(&net, &daemon, 0);
    let about = |address: &str| lines_about(&home.path(LEDGER), address);
    wait_until("a short ledger", || (about("203.0.113.9"), about(&scanner(0))) == (1, 1));
    assert!(blocked(&net).contains("203.0.113.9"));
}

/// Nothing new can be made where the ledger is. It is held open and goes on; the file that hosts.deny names is written when
/// that works again.
#[test]
fn a_directory_that_becomes_read_only() {
    let (net, home) = (Net::new("readonly"), Home::new());
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    a_scan_is_blocked(&net, &daemon, 0);
    let directory = LEDGER.trim_end_matches("/blocks/ledger");
    daemon.mount(&format!("mount --bind {directory} {directory} && mount -o remount,bind,ro {directory}"));
    for number in 1..4 {
        a_scan_is_blocked(&net, &daemon, number);
    }
    wait_until("that it says so", || daemon.said().contains("cannot write /var/lib/harden-portsentry/denied"));
    daemon.mount(&format!("umount {directory}"));
    wait_until("that it is over", || daemon.said().contains("TCP wrappers know again who is blocked"));
    for number in 0..4 {
        assert_eq!(lines_about(&home.path(LEDGER), &scanner(number)), 1, "{}", home.read(LEDGER));
        assert!(home.read(&format!("{directory}/denied")).contains(&format!("{}\n", scanner(number))));
    }
    assert_eq!(times(&daemon.said(), "cannot write"), 1, "{}", daemon.said());
    a_scan_is_blocked(&net, &daemon, 4);
}

#[test]
fn an_interface_that_goes_down_and_comes_back() {
    let (net, home) = (Net::new("link"), Home::new());
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    for number in 0..2 {
        a_scan_is_blocked_at_last(&net, &daemon, number);
        net.run("host", "ip", &["link", "set", "lan", "down"]);
        net.run("host", "ip", &["link", "set", "lan", "up"]);
    }
    a_scan_is_blocked_at_last(&net, &daemon, 2);
    assert!(listed(&net, &home).is_superset(&(0..3).map(scanner).collect()));
}

#[test]
fn tables_that_somebody_takes_away() {
    let (net, home) = (Net::new("tables"), Home::new());
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let losses = [
        "delete table inet harden_portsentry".to_owned(),
        format!("delete table inet {TABLE}"),
        "flush ruleset".to_owned(),
        format!("flush table inet {TABLE}; flush table inet harden_portsentry; delete table inet {TABLE}"),
    ];
    for (number, loss) in losses.iter().enumerate() {
        a_scan_is_blocked(&net, &daemon, number);
        net.nft("host", loss);
        let before: BTreeSet<String> = (0..=number).map(scanner).collect();
        wait_until(&format!("the blocks after {loss}"), || blocked(&net).is_superset(&before));
        wait_until("the other table", || {
            net.run("host", "nft", &["list", "tables"]).lines().any(|line| line == "table inet harden_portsentry")
        });
    }
}

/// A name server that never answers: a scanner is blocked before its line has come, and the line comes without a name.
#[test]
fn a_resolver_in_a_black_hole() {
    let (net, home) = (Net::new("hole"), Home::new());
    home.write("/etc/resolv.conf", &format!("nameserver {CLIENT}\n"));
    net.nft(
        "client",
        "table inet hole { counter questions { }; chain arrived { type filter hook input priority 0; udp dport 53 counter name questions drop; }; }",
    );
    let daemon = Daemon::at_home(&net, &home, "1-1023", &format!("{BLOCK}RESOLVE_HOST=\"1\"\n"));
    // Where this machine sleeps for the two seconds that the line waits, nothing is shown, and another scanner comes.
    let is_blocked_before_its_line = |number: usize| {
        let source = scanner(number);
        let mut is_first = false;
        net.scan_until(&source, "1-20", "the block", || {
            let is_blocked = blocked(&net).contains(&source);
            is_first = is_blocked && daemon.history().ports(&source, "TCP").is_empty();
            is_blocked
        });
        wait_until("its line", || !daemon.history().ports(&source, "TCP").is_empty());
        is_first
    };
    assert!((0..9).any(is_blocked_before_its_line), "no block came before its line: {}", daemon.said());
    assert!(net.counter("client", "hole", "questions") > 0, "it asked");
    let source = scanner(0);
    assert!(daemon.said().contains(&format!("Scan from: [{source}] ({source})")), "{}", daemon.said());
}

#[test]
fn a_configuration_that_is_half_written_is_not_taken() {
    let (net, home) = (Net::new("half"), Home::new());
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    for (number, half) in
        ["", "TCP_PORTS=\"1-10", "TCP_PORTS=\"1-1023\"\nBLOCK_T", "TCP_PORTS=\"1-\"\n"].iter().enumerate()
    {
        daemon.write_configuration(half);
        daemon.signal(Signal::HUP);
        wait_until("that it is not taken", || times(&daemon.said(), "the new configuration is not taken") > number);
        a_scan_is_blocked(&net, &daemon, number);
    }
    daemon.configure(BLOCK);
    daemon.signal(Signal::HUP);
    wait_until("that the whole one is", || daemon.said().contains("configuration read again"));
    a_scan_is_blocked(&net, &daemon, 4);
}

/// More than the socket holds, while nobody reads, and a scanner behind it.
#[test]
fn a_socket_that_was_full() {
    let (net, home) = (Net::new("socket"), Home::new());
    let daemon = Daemon::at_home(&net, &home, "1-65535", BLOCK);
    daemon.signal(Signal::STOP);
    std::thread::scope(|scope| {
        let sender = net.inside(scope, "client", || {
            for source in [scanner(7), scanner(8)] {
                let socket = UdpSocket::bind((source.as_str(), 0)).expect("an address of the client");
                (1..=u16::MAX).for_each(|port| drop(socket.send_to(b"x", (HOST, port))));
            }
        });
        sender.join().expect("sends");
    });
    net.scan(&scanner(0), "1-20");
    daemon.signal(Signal::CONT);
    wait_until("that it says so", || daemon.said().contains("more probes came than could be read"));
    for number in [0, 7, 1] {
        a_scan_is_blocked_at_last(&net, &daemon, number);
    }
}

/// A power cut leaves any part of the ledger. Whom its whole lines name is blocked again though the kernel has forgotten
/// all, and what comes after is written down.
#[test]
fn a_ledger_that_was_cut_between_two_lives() {
    let (net, home) = (net_with_a_crowd("cut"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", MANY);
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let crowd = a_crowd_probes(&net, 0..40);
    wait_until("the crowd", || told_as_blocked(&daemon.said()).is_superset(&crowd));
    daemon.kill();
    let whole = fs::read(home.path(LEDGER)).expect("a ledger");
    // Anywhere, and the same places each time that this runs.
    let places = [0, 1, whole.len() / 7, whole.len() / 2 + 13, whole.len() - 1];
    for (number, place) in places.into_iter().enumerate() {
        fs::write(home.path(LEDGER), &whole[..place]).expect("a file");
        net.nft("host", "flush ruleset");
        let left = String::from_utf8_lossy(&whole[..place]).into_owned();
        let lines = &left[..left.rfind('\n').map_or(0, |end| end + 1)];
        let kept: BTreeSet<String> =
            crowd.iter().filter(|address| lines.contains(&format!(" {address} "))).cloned().collect();
        let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
        assert_eq!(blocked(&net), kept, "{place} bytes");
        a_scan_is_blocked(&net, &daemon, number);
        daemon.kill();
        assert_eq!(lines_about(&home.path(LEDGER), &scanner(number)), 1, "{}", home.read(LEDGER));
        assert!(listed(&net, &home).is_superset(&kept), "{place} bytes");
    }
}

/// A command that does not end holds up no block, neither the next one nor that of a new life.
#[test]
fn a_command_that_hangs() {
    let (net, home) = (Net::new("hangs"), Home::new());
    let hangs = format!("{BLOCK}KILL_RUN_CMD=\"echo $TARGET$ >>/run/began; exec sleep 1000\"\n");
    let daemon = Daemon::at_home(&net, &home, "1-1023", &hangs);
    let blocks = |number: usize| {
        net.scan(&scanner(number), "1-20");
        wait_until("the block", || blocked(&net).contains(&scanner(number)));
    };
    blocks(0);
    wait_until("that it hangs", || home.read("/run/began").contains(&scanner(0)));
    blocks(1);
    let (said, ok) = run(&net, &home, &["block", "203.0.113.9"]);
    assert!(ok && listed(&net, &home).len() == 3, "{said}");
    daemon.configure(BLOCK);
    daemon.signal(Signal::HUP);
    wait_until("the reload", || daemon.said().contains("configuration read again"));
    wait_until("that the command is told as failed", || daemon.said().contains("External command failed for host"));
    a_scan_is_blocked(&net, &daemon, 2);
}

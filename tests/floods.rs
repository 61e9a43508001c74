//! More than the daemon or the kernel can hold: it says so, and a scanner does not hide in it. In network namespaces, as
//! root, like tests/no_false_alarms.rs.

mod neighbourhood;

use std::net::UdpSocket;

use neighbourhood::daemon::Daemon;
use neighbourhood::{CLIENT, HOST, Net, scanner, wait_until};
use rustix::process::Signal;

const SCANNED: usize = 100;

fn scan(net: &Net, source: &str) {
    net.scan(source, &format!("1-{SCANNED}"));
}

fn times(text: &str, what: &str) -> usize {
    text.lines().filter(|line| line.contains(what)).count()
}

/// A datagram to each port of the host, from each of these addresses of the client.
fn flood(net: &Net, sources: &[String]) {
    std::thread::scope(|scope| {
        let sender = net.inside(scope, "client", || {
            for source in sources {
                let socket = UdpSocket::bind((source.as_str(), 0)).expect("an address of the client");
                // What ICMP said of the one before is no failure.
                (1..=u16::MAX).for_each(|port| drop(socket.send_to(b"x", (HOST, port))));
            }
        });
        sender.join().expect("sends");
    });
}

/// The daemon is held up while more comes than its socket holds, and a scan behind that: nobody can tell it. It says so,
/// once, and the scanner's ports are told when he asks again, for all that the kernel had marked as handed up.
#[test]
fn what_was_lost_is_seen_when_it_comes_again() {
    let net = Net::new("lost");
    let daemon = Daemon::watch(&net, "1-65535");
    daemon.signal(Signal::STOP);
    flood(&net, &[scanner(1), scanner(2)]);
    scan(&net, &scanner(0));
    assert!(dropped(&net, &daemon) > 0, "the socket held it all");
    daemon.signal(Signal::CONT);
    let lost = "more probes came than could be read";
    wait_until("that it says so", || times(&daemon.said(), lost) == 1);
    // What comes before the socket has been read empty is lost as well, and is seen the next time.
    wait_until("a scan that is repeated", || {
        scan(&net, &scanner(3));
        daemon.history().ports(&scanner(3), "TCP").len() == SCANNED
    });
    assert!(daemon.history().ports(&scanner(0), "TCP").is_empty(), "it was to be lost");
    scan(&net, &scanner(0));
    wait_until("the scan that was lost", || daemon.history().ports(&scanner(0), "TCP").len() == SCANNED);
    assert_eq!(times(&daemon.said(), lost), 1, "{}", daemon.said());
}

/// Packets that the kernel could not hand to the daemon, as it counts them itself: of all its netlink sockets, which only
/// their inodes tell apart from others', for the first one alone is numbered like the process.
fn dropped(net: &Net, daemon: &Daemon) -> u64 {
    const DROPS: usize = 8;
    const INODE: usize = 9;
    // By what it holds open: the kernel chooses the numbers of sockets of netlink.
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid().as_raw_nonzero())).expect("it runs");
    let links = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let held: Vec<String> = links.map(|link| link.display().to_string()).collect();
    let sockets = net.run("host", "cat", &["/proc/net/netlink"]);
    let of = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of = of.filter(|words| held.contains(&format!("socket:[{}]", words[INODE])));
    of.map(|words| words[DROPS].parse::<u64>().expect("a number")).sum()
}

/// The sets in which the kernel keeps whom it handed up have no room left.
#[test]
fn with_full_sets_it_says_so_and_sees_a_scanner_all_the_same() {
    const SIZE: u32 = 131_072;
    let net = Net::new("full");
    let daemon = Daemon::watch(&net, "1-1023");
    let set = "inet harden_portsentry seen_tcp4";
    let list = || net.run("host", "nft", &["list", "set", "inet", "harden_portsentry", "seen_tcp4"]);
    assert!(list().contains(&format!("size {SIZE}")), "{}", list());
    let elements: Vec<String> = (0..SIZE)
        .map(|number| format!("198.18.{}.{} . {} . syn", number >> 16, (number >> 8) & 255, (number & 255) + 1))
        .collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("add element {set} {{ {} }}", elements.join(", "))).expect("a file");
    net.run("host", "nft", &["-f", &file.path().display().to_string()]);
    scan(&net, &scanner(0));
    wait_until("the scan", || daemon.history().ports(&scanner(0), "TCP").len() == SCANNED);
    let full = "the kernel's table of sources is full";
    wait_until("that it says so", || times(&daemon.said(), full) == 1);
    // And when there is room again, all is as before.
    net.nft("host", &format!("flush set {set}"));
    scan(&net, &scanner(1));
    wait_until("the next scan", || daemon.history().ports(&scanner(1), "TCP").len() == SCANNED);
    assert_eq!(times(&daemon.said(), full), 1, "{}", daemon.said());
}

/// More hosts than can wait to be blocked, while the first block does not come to its end. Whoever finds no room is told,
/// as not blocked, and tried again. Neither that nor a reload holds up the daemon.
#[test]
fn more_hosts_than_can_wait_to_be_blocked() {
    const WAITING: usize = 8_192;
    let net = Net::new("many");
    // The client is whatever 10.99.0.0/16 has in it.
    net.run("client", "ip", &["route", "add", "local", "10.99.0.0/16", "dev", "lo"]);
    net.run("host", "ip", &["route", "add", "10.99.0.0/16", "via", CLIENT]);
    let route = "BLOCK_TCP=\"1\"\nBLOCK_UDP=\"1\"\nKILL_ROUTE=\"sleep 25 # $TARGET$\"\n";
    let daemon = Daemon::configured(&net, "1-1023", route);
    std::thread::scope(|scope| {
        let sender = net.inside(scope, "client", || {
            for number in 0..WAITING + 64 {
                let source = format!("10.99.{}.{}:0", number / 256, number % 256);
                let socket = UdpSocket::bind(source).expect("an address of the client");
                socket.send_to(b"x", (HOST, 7)).expect("a route");
            }
        });
        sender.join().expect("sends");
    });
    let told_of = |source: &str| -> Vec<String> {
        let begin = format!("Scan from: [{source}]");
        daemon.said().lines().filter(|line| line.starts_with(&begin)).map(str::to_owned).collect()
    };
    wait_until("that there is no room", || times(&daemon.said(), "too many hosts wait to be blocked") > 0);
    for round in 1..=2 {
        let port = round.to_string();
        let words = ["-sS", "-Pn", "-n", "--max-retries", "0", "-p", &port, "-S", &scanner(0), "-e", "lan", HOST];
        net.run("client", "nmap", &words);
        wait_until("the scanner, who finds no room either", || told_of(&scanner(0)).len() == round);
        daemon.signal(Signal::HUP);
        wait_until("the reload", || times(&daemon.said(), "configuration read again") == round);
    }
    let lines = told_of(&scanner(0));
    assert!(lines.len() == 2 && lines.iter().all(|line| line.ends_with("blocked: [false]")), "{lines:?}");
}

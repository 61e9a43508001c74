//! Ordinary traffic raises no alarm, and a scan in the midst of it does: ten thousand connections and all that a LAN
//! chatters, with the daemon watching every port, so that nothing is excused by nobody looking.
//!
//! In network namespaces of its own, as root. The program under test is `HARDEN_PORTSENTRY`, or cargo's.

mod neighbourhood;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use neighbourhood::daemon::Daemon;
use neighbourhood::tcp::{ENDS, End};
use neighbourhood::{
    BOX, CLIENT, CLIENT6, FAR, HOST, HOST6, LEFT, LIMIT, Net, SCANS, programs, scanner, scanner6, tcp, udp, wait_until,
    waited,
};

/// Ports that a scan asks, one of them in use.
const SCANNED: &str = "1-100";

/// The kinds of traffic that are not connections.
const DATAGRAMS: [&str; 6] = ["DNS", "NTP", "DHCP", "broadcast", "ICMP", "UDP"];

#[test]
fn ordinary_traffic_raises_no_alarm_and_every_scan_does() {
    let mut net = Net::new("all");
    net.nft(
        "host",
        "table ip containers { chain to { type nat hook prerouting priority dstnat;
            iifname lan ip daddr 192.0.2.1 tcp dport { 181, 8081 } dnat to 10.1.0.2:80;
            iifname lan ip daddr 192.0.2.1 tcp dport 183 dnat to 10.1.0.2:9;
            iifname lan ip daddr 192.0.2.1 udp dport 154 dnat to 10.1.0.2:53; }; }",
    );
    let older = tcp::Older::open(&net, 100);
    let daemon = Daemon::watch(&net, "1-65535");
    let over = AtomicBool::new(false);
    let mut wrong = Vec::new();
    let counts = std::thread::scope(|scope| {
        let _over = Over(&over); // whatever happens: the servers end, and the scope with them
        tcp::server(&net, scope, "host", &[&format!("{HOST}:80"), &format!("[{HOST6}]:80")], &over);
        tcp::server(&net, scope, "client", &[&format!("{CLIENT}:80"), &format!("[{CLIENT6}]:80")], &over);
        tcp::server(&net, scope, "box", &[&format!("{BOX}:80")], &over);
        tcp::server(&net, scope, "far", &[&format!("{FAR}:80")], &over);
        tcp::server(&net, scope, "left", &[&format!("{LEFT}:80")], &over);
        let counts = traffic(&mut net, older);
        // the scans, while the services are there
        for (number, (words, protocol)) in SCANS.iter().enumerate() {
            let six = words.contains(&"-6");
            let (source, target) = if six { (scanner6(number), HOST6) } else { (scanner(number), HOST) };
            scan(&net, words, SCANNED, &source, target);
            let wanted: Vec<u16> =
                (1..=100).filter(|port| !used(*port, protocol) && !used_lately(*port, protocol)).collect();
            let seen = waited(LIMIT / 3, || {
                let seen = daemon.history().ports(&source, protocol);
                let missing: Vec<&u16> = wanted.iter().filter(|port| !seen.contains(port)).collect();
                if missing.is_empty() {
                    Ok(())
                } else {
                    Err(format!("nmap {words:?} seen, the history lacks ports {missing:?}"))
                }
            });
            match seen {
                Ok(()) => println!("{:6}  ports that the history has of nmap {words:?}", wanted.len()),
                Err(unseen) => wrong.push(unseen),
            }
        }
        counts
    });
    let connections: usize =
        counts.iter().filter(|(kind, _)| !DATAGRAMS.iter().any(|word| kind.starts_with(word))).map(|(_, n)| n).sum();
    println!("{connections:6}  connections in all; loss and disorder by {}", net.weather);
    assert!(connections >= 10_000, "{counts:?}");
    let scanners: Vec<String> = (0..SCANS.len()).flat_map(|number| [scanner(number), scanner6(number)]).collect();
    let history = daemon.history();
    let others = history.about_others(&scanners);
    if !others.is_empty() {
        let mut others: Vec<(&String, &usize)> = others.iter().collect();
        others.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        let lines: Vec<String> = others.iter().take(40).map(|(what, times)| format!("{times:6}  {what}")).collect();
        let all: usize = others.iter().map(|(_, times)| **times).sum();
        wrong.push(format!(
            "{all} false alarms about {} things, the most frequent:\n{}",
            others.len(),
            lines.join("\n")
        ));
    }
    for source in &scanners {
        for protocol in ["TCP", "UDP"] {
            let alarms = history.ports(source, protocol);
            let alarms: Vec<u16> = alarms.into_iter().filter(|port| used(*port, protocol)).collect();
            if !alarms.is_empty() {
                wrong.push(format!("{source}: ports in use are no alarm: {alarms:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The net must not be a net with holes: with one watched port, which ordinary traffic hits, and a scan of others.
#[test]
fn this_test_can_fail() {
    let net = Net::new("blind");
    let daemon = Daemon::watch(&net, "2000");
    scan(&net, &["-sS"], "1-20", &scanner(0), HOST);
    let connects = std::thread::scope(|scope| {
        net.inside(scope, "client", || TcpStream::connect((HOST, 2000)).is_err()).join().expect("connects")
    });
    assert!(connects, "nobody listens on port 2000");
    wait_until("the client in the history", || !daemon.history().about_others(&[scanner(0)]).is_empty());
    assert!(daemon.history().ports(&scanner(0), "TCP").is_empty(), "ports 1 to 20 are not watched");
}

/// A connection that lasts longer than any memory of it: a download, cut off with the rest on its way.
#[test]
fn a_long_download_that_the_host_cuts_off_raises_no_alarm() {
    let net = Net::new("cut");
    let downloads = tcp::Downloads::open(&net, 30);
    let daemon = Daemon::watch(&net, "1-65535");
    downloads.cut_off(&net);
    scan(&net, &["-sS"], "1-20", &scanner(0), HOST); // behind the rest of the downloads, on the same link
    wait_until("the scan in the history", || daemon.history().ports(&scanner(0), "TCP").len() == 20);
    let others = daemon.history().about_others(&[scanner(0)]);
    assert!(others.is_empty(), "{others:?}");
}

/// Everything that is no scan; how many of each kind.
fn traffic(net: &mut Net, older: tcp::Older) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    let mut count = |kind, number| {
        println!("{number:6}  {kind}");
        *counts.entry(kind).or_insert(0) += number;
    };
    let without_idle: Vec<End> = ENDS.into_iter().filter(|end| *end != End::Idle).collect();
    let host = format!("{HOST}:80");
    let client = format!("{CLIENT}:80");
    count("clients of the host, by each end", tcp::connections(net, "client", &host, &without_idle, 600));
    count(
        "clients of the host, over IPv6",
        tcp::connections(net, "client", &format!("[{HOST6}]:80"), &without_idle, 100),
    );
    count("the host as a client, by each end", tcp::connections(net, "host", &client, &without_idle, 400));
    count(
        "the host as a client, over IPv6",
        tcp::connections(net, "host", &format!("[{CLIENT6}]:80"), &without_idle, 100),
    );
    count("idle until the server has enough", tcp::connections(net, "client", &host, &[End::Idle], 100));
    count("idle until the server has enough", tcp::connections(net, "host", &client, &[End::Idle], 100));
    count("the host as a client, refused", tcp::refused(net, "host", CLIENT, 1000..1500));
    count("answers after the host gave up", tcp::late_answers(net, 50));
    count("over a restart of the service", tcp::restarts(net, 200));
    count("over a reboot of the host", tcp::reboots(net, 100));
    count("to a container behind DNAT", tcp::connections(net, "client", &format!("{HOST}:181"), &without_idle, 50));
    count("to a container behind DNAT", tcp::connections(net, "client", &format!("{HOST}:8081"), &without_idle, 50));
    count("to a container behind DNAT, refused", tcp::refused(net, "client", HOST, 183..184));
    count("routed through the host", tcp::connections(net, "client", &format!("{FAR}:80"), &without_idle, 50));
    count("routed through the host, refused", tcp::refused(net, "client", FAR, 1000..1200));
    count("bridged through the host", tcp::connections(net, "right", &format!("{LEFT}:80"), &without_idle, 50));
    count("bridged through the host, refused", tcp::refused(net, "right", LEFT, 1000..1200));
    count("older than the daemon", older.close());
    let ssh = [programs::ssh_server(net, "host", HOST), programs::ssh_server(net, "client", CLIENT)];
    count("SSH to the host", programs::ssh_sessions(net, "client", HOST, 20));
    count("SSH from the host", programs::ssh_sessions(net, "host", CLIENT, 20));
    drop(ssh);
    let web = [programs::web_server(net, "host", HOST, 81), programs::web_server(net, "client", CLIENT, 81)];
    count("HTTP to the host", programs::pages(net, "client", HOST, 81, 100));
    count("HTTP from the host", programs::pages(net, "host", CLIENT, 81, 100));
    drop(web);
    net.bad_weather();
    count("with loss and disorder", tcp::connections(net, "client", &host, &[End::ClientFirst, End::ServerFirst], 100));
    count("with loss and disorder, uploads", tcp::uploads(net, 100, 20_000));
    count(
        "with loss and disorder, aborted",
        tcp::connections(net, "client", &host, &[End::ClientAborts, End::ServerAborts], 50),
    );
    net.fair_weather();
    count("DNS, nobody there for the answer", udp::answers_to_nobody(net, 1500, false));
    count("DNS, nobody there, over IPv6", udp::answers_to_nobody(net, 500, true));
    count("DNS, asked of the host", udp::name_server(net, 400));
    count("NTP, both ways", programs::time(net, 100) / 2);
    count("DHCP leases", udp::leases(net));
    count("broadcast and multicast", udp::chatter(net, 30));
    count("ICMP", udp::icmp(net, 2000));
    count("UDP passed on", udp::passed_on(net, 200));
    counts
}

/// What of the scanned ports is in use.
fn used(port: u16, protocol: &str) -> bool {
    protocol == "TCP" && port == 80
}

/// Where a service of the test was minutes ago. Silence there is right, for its clients may not know that it is gone;
/// so is an alarm.
fn used_lately(port: u16, protocol: &str) -> bool {
    match protocol {
        "UDP" => [53, 67, 68].contains(&port),
        _ => [22, 81].contains(&port),
    }
}

fn scan(net: &Net, words: &[&str], ports: &str, source: &str, target: &str) {
    let common = ["-Pn", "-n", "-r", "-T4", "--max-retries", "2", "-p", ports, "-S", source, "-e", "lan", target];
    net.run("client", "nmap", &[words, &common[..]].concat());
}

/// Ends the servers when it goes out of scope.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

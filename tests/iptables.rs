//! FIREWALL="iptables": who is blocked on a host that has only iptables, by a chain and sets of ipset. In network
//! namespaces, as root, with iptables-nft and iptables-legacy; what is so is asked of the kernel, through `iptables` and
//! `ipset`, and of connections and datagrams.

mod neighbourhood;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Lines, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harden_portsentry::blocks::control::{Request, Wanted};
use harden_portsentry::blocks::{self, Answer, Blocks, By, Guard, IgnoreList, Now, PacketFilter};
use harden_portsentry::settings::Policy;
use neighbourhood::blocks::{listed, run};
use neighbourhood::home::Home;
use neighbourhood::what_goes_on::of_family;
use neighbourhood::{CLIENT, CLIENT6, FAR, HOST, HOST6, Net, scanner, scanner6, wait_until, waited};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

const CONF: &str = "/etc/harden-portsentry/blocks.conf";
const POLICY: &str = "/etc/harden-portsentry/policy.toml";
const VARIANTS: [&str; 2] = ["nft", "legacy"];
const CHAIN: &str = "harden-portsentry";
/// In the environment of this test's own program, where it is one that stays; and what its answers begin with.
const STAYS: &str = "HARDEN_PORTSENTRY_STAYS";
const ANSWER: &str = "answer: ";

/// A host whose `iptables` is one of the two.
struct Place {
    net: Net,
    home: Home,
    variant: &'static str,
}

impl Place {
    fn new(tag: &str, variant: &'static str) -> Place {
        let place = Place { net: Net::new(&format!("{tag}-{variant}")), home: Home::new(), variant };
        place.make_it(variant);
        place.configure("");
        place
    }

    /// Makes `iptables` this one, as update-alternatives does.
    fn make_it(&self, variant: &str) {
        let alternatives = self.home.path("/etc/alternatives");
        fs::create_dir_all(&alternatives).expect("a directory");
        for program in ["iptables", "ip6tables", "iptables-restore", "ip6tables-restore"] {
            let link = alternatives.join(program);
            let _ = fs::remove_file(&link);
            let target = format!("/usr/sbin/{}", program.replace("tables", &format!("tables-{variant}")));
            assert!(Path::new(&target).exists(), "iptables is not installed: tests/run installs it");
            symlink(target, &link).expect("a link");
        }
    }

    /// With these lines more.
    fn configure(&self, more: &str) {
        self.home.write(CONF, &format!("TCP_PORTS=\"1-1023\"\nFIREWALL=\"iptables\"\n{more}"));
    }

    /// What it says; it has to be content.
    #[track_caller]
    fn does(&self, words: &[&str]) -> String {
        let (said, ok) = run(&self.net, &self.home, words);
        assert!(ok, "{words:?}: {said}");
        said
    }

    #[track_caller]
    fn refuses(&self, words: &[&str]) -> String {
        let (said, ok) = run(&self.net, &self.home, words);
        assert!(!ok, "{words:?}: {said}");
        said
    }

    fn iptables(&self, words: &[&str]) -> String {
        self.net.run("host", &format!("iptables-{}", self.variant), words)
    }

    /// The rules of the filter table, of both families.
    fn rules(&self) -> Vec<String> {
        let all = ["iptables", "ip6tables"].map(|program| self.rules_of(program, self.variant));
        all.concat()
    }

    fn rules_of(&self, family: &str, variant: &str) -> Vec<String> {
        let text = self.net.run("host", &format!("{family}-{variant}"), &["-S"]);
        text.lines().map(str::to_owned).collect()
    }

    /// Where the rules of INPUT lead, in their order.
    fn input(&self) -> Vec<String> {
        let rules = self.rules_of("iptables", self.variant);
        let rules = rules.iter().filter(|rule| rule.starts_with("-A INPUT "));
        rules.map(|rule| rule.rsplit_once("-j ").expect("a target").1.to_owned()).collect()
    }

    /// Whom the kernel's sets have, and for how many seconds.
    fn times(&self) -> BTreeMap<String, u64> {
        let saved = self.net.run("host", "ipset", &["save"]);
        let words = saved.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let elements = words.filter_map(|words| match words[..] {
            ["add", _, address, "timeout", time] => Some((address.to_owned(), time.parse().expect("seconds"))),
            _ => None,
        });
        elements.collect()
    }

    fn blocked(&self) -> BTreeSet<String> {
        self.times().into_keys().collect()
    }

    /// That nothing of it is in the kernel, by whichever iptables.
    #[track_caller]
    fn has_no_trace(&self) {
        assert_eq!(self.net.run("host", "ipset", &["list", "-n"]), "");
        for family in ["iptables", "ip6tables"] {
            for variant in VARIANTS {
                let rules = self.rules_of(family, variant);
                assert!(!rules.iter().any(|rule| rule.contains(CHAIN)), "{family}-{variant}: {rules:?}");
            }
        }
    }

    /// Serves TCP at these ports of the host until the test ends: says a word to whoever connects.
    fn serve(&self, ports: &'static [u16]) {
        std::thread::scope(|scope| {
            let bound = self.net.inside(scope, "host", || {
                for port in ports {
                    let listener = TcpListener::bind(("::", *port)).expect("a port");
                    std::thread::spawn(move || {
                        listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(b"hello")))
                    });
                }
            });
            bound.join().expect("it listens");
        });
    }

    /// Whether `source`, an address of the client's, is served at that address.
    fn is_served(&self, source: &str, to: &str, patience: Duration) -> bool {
        self.knocks(source, to, patience).is_ok()
    }

    fn knocks(&self, source: &str, to: &str, patience: Duration) -> Result<(), Errno> {
        let (source, to): (IpAddr, SocketAddr) = (source.parse().expect("an address"), to.parse().expect("one"));
        std::thread::scope(|scope| {
            let tried = self.net.inside(scope, "client", || connect(source, to, patience));
            tried.join().expect("it tries").map(drop)
        })
    }
}

/// Long, because a busy machine is no failure.
const LONG: Duration = Duration::from_secs(20);
/// For what is not to come.
const SHORT: Duration = Duration::from_millis(300);

fn connect(source: IpAddr, to: SocketAddr, patience: Duration) -> Result<TcpStream, Errno> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let family = if source.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket(family, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddr::new(source, 0)).expect("an address of the client");
    set_socket_timeout(&socket, Timeout::Send, Some(patience)).expect("a time");
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

fn set<const N: usize>(addresses: [&str; N]) -> BTreeSet<String> {
    addresses.map(str::to_owned).into()
}

/// Both families, with terms and without; `ipset` and `iptables` show it.
#[test]
fn whom_somebody_blocks_and_frees() {
    for variant in VARIANTS {
        let place = Place::new("hand", variant);
        place.does(&["block", "203.0.113.9", "--for", "1h"]);
        place.does(&["block", "2001:db8::9", "--for", "forever"]);
        let times = place.times();
        assert_eq!(place.blocked(), set(["203.0.113.9", "2001:db8::9"]));
        assert!((3_500..=3_600).contains(&times["203.0.113.9"]) && times["2001:db8::9"] == 0, "{times:?}");
        let rules = place.rules();
        for number in ["4", "6"] {
            let jump = format!("-A INPUT -m set --match-set {CHAIN}{number} src -j {CHAIN}");
            assert_eq!(rules.iter().filter(|rule| **rule == jump).count(), 1, "{rules:?}");
        }
        assert_eq!(listed(&place.net, &place.home), place.blocked());
        assert!(!place.does(&["blocked"]).contains("not in the kernel's sets"));
        // A repeated one gets the new time.
        place.does(&["block", "203.0.113.9", "--for", "2h"]);
        assert!(place.times()["203.0.113.9"] > 7_000, "{:?}", place.times());
        assert_eq!(place.rules(), rules, "no rule for each host, and none twice");
        assert_eq!(place.does(&["unblock", "203.0.113.9"]), "203.0.113.9 is free.\n");
        assert_eq!(place.blocked(), set(["2001:db8::9"]));
        assert_eq!(place.does(&["unblock", "--all"]), "One host is free.\n");
        assert_eq!(place.blocked(), set([]));
        place.does(&["block", "203.0.113.10", "--for", "1s"]);
        wait_until("that the kernel frees by itself", || place.blocked().is_empty());
    }
}

/// What is open stays open, either way, and nothing new opens. The rules are there before, as they are from the boot on: by
/// them the kernel tracks connections.
mod what_goes_on {
    use super::*;

    fn of(tag: &str, hosts: (&'static str, &str), cut: bool) {
        for variant in VARIANTS {
            let place = Place::new(tag, variant);
            if cut {
                place.home.write(POLICY, "[block]\ncut_established = true\n");
            }
            place.does(&["block", "203.0.113.9"]);
            place.does(&["unblock", "203.0.113.9"]);
            of_family(&place.net, &place.home, || place.blocked(), hosts, cut);
        }
    }

    #[test]
    fn ipv4() {
        of("runs4", (HOST, "0.0.0.0"), false);
    }

    #[test]
    fn but_where_somebody_wants_it_cut() {
        of("cut4", (HOST, "0.0.0.0"), true);
    }

    #[test]
    fn ipv6() {
        of("runs6", (HOST6, "::"), false);
    }
}

/// A blocked neighbour is one still: who asks for it by IPv6 gets its answer, and it gets ours.
#[test]
fn neighbours_find_each_other() {
    for variant in VARIANTS {
        let place = Place::new("nd", variant);
        place.home.write(POLICY, "[block]\ncut_established = true\n");
        for address in [CLIENT6, &scanner6(0)] {
            place.does(&["block", address]);
        }
        for side in ["host", "client"] {
            place.net.run(side, "ip", &["-6", "neigh", "flush", "dev", "lan"]);
        }
        for (side, own, other) in [("host", HOST6, CLIENT6), ("client", scanner6(0).as_str(), HOST6)] {
            std::thread::scope(|scope| {
                let sends = place.net.inside(scope, side, || {
                    UdpSocket::bind((own, 0)).expect("a port").send_to(b"?", (other, 9)).expect("sent")
                });
                sends.join().expect("it sends");
            });
            let known = || place.net.run(side, "ip", &["-6", "neigh", "show", other, "dev", "lan"]);
            wait_until(&format!("that {side} knows {other}"), || known().contains("lladdr"));
        }
    }
}

/// The jump stands behind the administrator's whitelist, in which whoever is blocked is let in all the same, and before
/// what lets everybody in; first of all where nobody named a chain, or nothing leads to it.
#[test]
fn behind_the_whitelist_and_before_what_is_accepted() {
    for variant in VARIANTS {
        let place = Place::new("white", variant);
        place.serve(&[1022]);
        let at = &format!("{HOST}:1022");
        place.iptables(&["-N", "friends"]);
        place.iptables(&["-A", "friends", "-s", CLIENT, "-j", "ACCEPT"]);
        for rule in ["-i lo -j ACCEPT", "-m comment --comment \"x -j y\" -j friends", "-p tcp -j ACCEPT", "-j ACCEPT"] {
            let words = format!("iptables-{variant} -A INPUT {rule}");
            place.net.run("host", "sh", &["-c", &words]);
        }
        place.configure("WHITELIST_CHAIN=\"friends\"\n");
        let restore = || place.does(&["restore"]);
        for address in [CLIENT, &scanner(0)] {
            place.does(&["block", address]);
        }
        assert_eq!(place.input(), ["ACCEPT", "friends", CHAIN, "ACCEPT", "ACCEPT"]);
        assert!(place.is_served(CLIENT, at, LONG), "whom the whitelist lets in");
        assert!(!place.is_served(&scanner(0), at, SHORT) && place.is_served(&scanner(1), at, LONG));
        // Somebody puts a rule before it, and a second one that leads to the whitelist.
        place.iptables(&["-I", "INPUT", "3", "-p", "tcp", "-j", "ACCEPT"]);
        assert!(place.is_served(&scanner(0), at, LONG));
        restore();
        assert_eq!(place.input(), ["ACCEPT", "friends", CHAIN, "ACCEPT", "ACCEPT", "ACCEPT"]);
        assert!(!place.is_served(&scanner(0), at, SHORT));
        place.iptables(&["-I", "INPUT", "5", "-j", "friends"]);
        restore();
        assert_eq!(place.input(), ["ACCEPT", "friends", "ACCEPT", "friends", CHAIN, "ACCEPT", "ACCEPT"]);
        for more in ["", "WHITELIST_CHAIN=\"nowhere\"\n"] {
            place.iptables(&["-D", "INPUT", "-i", "lo", "-j", "ACCEPT"]);
            place.iptables(&["-I", "INPUT", "-i", "lo", "-j", "ACCEPT"]);
            place.configure(more);
            restore();
            assert_eq!(place.input(), [CHAIN, "ACCEPT", "friends", "ACCEPT", "friends", "ACCEPT", "ACCEPT"]);
            assert!(!place.is_served(CLIENT, at, SHORT));
        }
        // What is in place is not touched: its counters go on.
        let counted = || place.iptables(&["-L", CHAIN, "-v", "-x", "-n"]);
        let before = counted();
        let last = before.lines().last().unwrap_or_default();
        assert!(last.contains("DROP") && !last.contains("0        0 DROP"), "{before}");
        restore();
        assert_eq!(counted(), before);
    }
}

/// Somebody loads a firewall anew, or takes hosts out of the sets: all are in again, for their times.
#[test]
fn flushed_and_restored() {
    for variant in VARIANTS {
        let place = Place::new("flush", variant);
        place.serve(&[1022]);
        let (source, at) = (scanner(0), format!("{HOST}:1022"));
        place.does(&["block", &source, "--for", "1h"]);
        place.does(&["block", "2001:db8::9", "--for", "forever"]);
        let rules = place.rules();
        let losses: [&[&str]; 5] = [
            &["iptables", "-F"],
            &["ip6tables", "-F", "INPUT"],
            &["iptables", "-D", "FORWARD", "1"],
            &["ipset", "flush"],
            &["ipset", "del", "harden-portsentry4", &source],
        ];
        for loss in losses {
            let program = loss[0].replace("tables", &format!("tables-{variant}"));
            place.net.run("host", &program, &loss[1..]);
            if !["FORWARD", "1"].contains(&loss[loss.len() - 2]) {
                assert!(place.does(&["blocked"]).contains("not in the kernel's sets"), "{loss:?}");
            }
            assert_eq!(place.does(&["restore"]), "2 hosts are blocked.\n");
            assert_eq!(place.rules(), rules, "{loss:?}");
            let times = place.times();
            assert!(times.len() == 2 && times["2001:db8::9"] == 0 && times[&source] > 3_000, "{loss:?}: {times:?}");
            assert!(!place.is_served(&source, &at, SHORT), "{loss:?}");
        }
        // The boot: nothing is there. And without its ledger nobody knows who was blocked, nor need they be free.
        place.iptables(&["-F"]);
        place.net.run("host", &format!("ip6tables-{variant}"), &["-F"]);
        wait_until("that the kernel has forgotten the rules", || {
            place.net.output("host", "ipset", &["destroy"]).status.success()
        });
        assert_eq!(place.does(&["restore"]), "2 hosts are blocked.\n");
        assert_eq!((place.rules(), place.blocked()), (rules, set([&source, "2001:db8::9"])));
        place.net.run("host", "ipset", &["add", "harden-portsentry4", "203.0.113.7", "timeout", "0"]);
        assert!(place.does(&["restore"]).contains("whom the ledger does not know, as it does now: 1"));
        assert!(listed(&place.net, &place.home).contains("203.0.113.7"));
    }
}

/// Rules that somebody saved with ours among them are refused as a whole where the sets are not there yet, and fit when
/// they are: so these come first at boot.
#[test]
fn saved_rules_are_loaded_once_the_sets_are_there() {
    for variant in VARIANTS {
        let place = Place::new("saved", variant);
        place.does(&["block", "203.0.113.9", "--for", "1h"]);
        let rules = place.rules();
        let load = "if iptables-\"$1\"-restore <\"$2\"; then echo loaded; fi 2>&1";
        let saved = place.home.path("/run/rules.v4").display().to_string();
        let saves = "iptables-\"$1\"-save >\"$2\"; iptables-\"$1\" -F; ip6tables-\"$1\" -F";
        place.net.run("host", "sh", &["-c", saves, "sh", variant, &saved]);
        wait_until("that the kernel has forgotten the rules", || {
            place.net.output("host", "ipset", &["destroy"]).status.success()
        });
        let loads = || place.net.run("host", "sh", &["-c", load, "sh", variant, &saved]);
        assert!(loads().contains("doesn't exist"), "{variant}");
        place.does(&["restore"]);
        assert_eq!(place.rules(), rules);
        assert_eq!(loads(), "loaded\n");
        place.does(&["restore"]);
        assert_eq!((place.rules(), place.blocked()), (rules, set(["203.0.113.9"])));
    }
}

/// ipset has no time that is longer than 24.8 days: such a block is put in for so long, not renewed at every look, and long
/// before it is over.
#[test]
fn a_block_that_is_longer_than_ipset_can_have_it() {
    const LONGEST: u64 = 2_147_483;
    let place = Place::new("long", "nft");
    place.does(&["block", "203.0.113.9", "--for", "60d"]);
    assert!((LONGEST - 60..=LONGEST).contains(&place.times()["203.0.113.9"]), "{:?}", place.times());
    let at = |time: u64| {
        let time = time.to_string();
        place.net.run("host", "ipset", &["-exist", "add", "harden-portsentry4", "203.0.113.9", "timeout", &time]);
        place.does(&["restore"]);
        place.times()["203.0.113.9"]
    };
    assert!(at(1_100_000) <= 1_100_000, "half of it is not over");
    assert!(at(1_000_000) > LONGEST - 60);
    assert!(at(0) > LONGEST - 60, "it has an end");
    // As it comes to its end it has its own.
    place.does(&["block", "203.0.113.9", "--for", "20d"]);
    assert!(at(LONGEST) <= 20 * 86_400);
}

/// Silence, or an answer that says no.
#[test]
fn drop_and_reject() {
    for variant in VARIANTS {
        let place = Place::new("answer", variant);
        place.serve(&[1022]);
        for source in [scanner(0), scanner6(0)] {
            place.does(&["block", &source]);
        }
        let of = |source: String, to: &str| place.knocks(&source, &format!("{to}:1022"), Duration::from_secs(1));
        let both = || (of(scanner(0), HOST), of(scanner6(0), &format!("[{HOST6}]")));
        // What a socket says whose time to connect is over.
        assert_eq!(both(), (Err(Errno::INPROGRESS), Err(Errno::INPROGRESS)));
        place.configure("KILL_NFT=\"reject\"\n");
        place.does(&["restore"]);
        assert_eq!(both(), (Err(Errno::CONNREFUSED), Err(Errno::CONNREFUSED)));
        for (source, to) in [(scanner(0), HOST), (scanner6(0), HOST6)] {
            std::thread::scope(|scope| {
                let asked = place.net.inside(scope, "client", || {
                    let socket = UdpSocket::bind((source.as_str(), 0)).expect("a port");
                    socket.connect((to, 1053)).expect("a route");
                    socket.set_read_timeout(Some(LONG)).expect("a time");
                    socket.send(b"?").expect("sent");
                    socket.recv(&mut [0; 8]).expect_err("nobody is there").kind()
                });
                assert_eq!(asked.join().expect("it asks"), ErrorKind::ConnectionRefused, "{source}");
            });
        }
    }
}

/// The rules change, and so does the size of the sets, while a blocked host sends and sends: nothing of it comes in.
#[test]
fn nobody_is_free_for_a_moment_as_the_rules_change() {
    for variant in VARIANTS {
        let place = Place::new("change", variant);
        place.does(&["block", &scanner(0), "--for", "1h"]);
        let over = AtomicBool::new(false);
        let heard = std::thread::scope(|scope| {
            let service = place.net.inside(scope, "host", || UdpSocket::bind((HOST, 1053)).expect("a port"));
            let service = service.join().expect("bound");
            let sends = place.net.inside(scope, "client", || {
                let [blocked, free] =
                    [scanner(0), scanner(1)].map(|source| UdpSocket::bind((source.as_str(), 0)).expect("a port"));
                let mut sent = 0;
                while !over.load(Ordering::Relaxed) {
                    let _ = blocked.send_to(b"blocked", (HOST, 1053));
                    sent += 1;
                }
                free.send_to(b"free", (HOST, 1053)).expect("sent");
                sent
            });
            for round in 0..12 {
                place.configure(if round % 2 == 0 { "KILL_NFT=\"reject\"\n" } else { "" });
                place.home.write(POLICY, &format!("[block]\nin_all = {}\n", 1_000 + round / 3));
                place.does(&["restore"]);
            }
            let saved = place.net.run("host", "ipset", &["save"]);
            assert!(saved.contains("maxelem 1003") && !saved.contains(".new"), "{saved}");
            over.store(true, Ordering::Relaxed);
            assert!(sends.join().expect("it sends") > 1_000);
            service.set_read_timeout(Some(LONG)).expect("a time");
            let mut bytes = [0; 8];
            let (count, _) = service.recv_from(&mut bytes).expect("who is free");
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        });
        assert_eq!(heard, "free");
    }
}

/// What is behind this host is closed to whoever is blocked, too; what was open there goes on, but where it is to be cut.
#[test]
fn what_is_behind_this_host() {
    for is_cut in [false, true] {
        behind_this_host(is_cut);
    }
}

fn behind_this_host(is_cut: bool) {
    let place = Place::new(&format!("behind-{is_cut}"), "nft");
    place.home.write(POLICY, &format!("[block]\ncut_established = {is_cut}\n"));
    place.does(&["block", "203.0.113.9"]);
    std::thread::scope(|scope| {
        let listener = place.net.inside(scope, "far", || TcpListener::bind((FAR, 1022)).expect("a port"));
        let listener = listener.join().expect("it listens");
        let open = |source: String, patience| {
            let to = format!("{FAR}:1022").parse().expect("an address");
            let source = source.parse().expect("an address");
            place.net.inside(scope, "client", move || connect(source, to, patience)).join().expect("it tries")
        };
        let mut before = open(scanner(0), LONG).expect("nobody is blocked");
        let (mut there, _) = listener.accept().expect("a connection");
        place.does(&["block", &scanner(0)]);
        assert!(open(scanner(0), SHORT).is_err() && open(scanner(1), LONG).is_ok());
        before.write_all(b"on").expect("it is sent");
        there.set_read_timeout(Some(if is_cut { SHORT } else { LONG })).expect("a time");
        let heard = std::io::Read::read_exact(&mut there, &mut [0; 2]);
        assert_eq!(heard.is_err(), is_cut, "{heard:?}");
    });
}

/// Whoever is blocked stays so when hosts are blocked by another packet filter from now on, and nothing of the one before
/// is left.
#[test]
fn another_packet_filter() {
    for variant in VARIANTS {
        let place = Place::new("kind", variant);
        place.does(&["block", "203.0.113.9", "--for", "1h"]);
        place.does(&["block", "2001:db8::9", "--for", "1h"]);
        let both = set(["203.0.113.9", "2001:db8::9"]);
        place.home.write(CONF, "TCP_PORTS=\"1-1023\"\nFIREWALL=\"nftables\"\n");
        place.does(&["restore"]);
        assert_eq!(neighbourhood::blocks::blocked(&place.net), both);
        place.has_no_trace();
        place.configure("");
        place.does(&["restore"]);
        assert_eq!(place.blocked(), both);
        let tables = place.net.run("host", "nft", &["list", "tables"]);
        assert!(!tables.contains("harden_portsentry"), "{tables}");
        // Until the configuration can be read again it stays as it is.
        place.configure("no line\n");
        place.iptables(&["-F", CHAIN]);
        assert!(place.does(&["restore"]).contains("2 hosts are blocked."));
        assert!(place.rules().contains(&format!("-A {CHAIN} -j DROP")), "{:?}", place.rules());
        assert!(!place.net.run("host", "nft", &["list", "tables"]).contains("harden_portsentry"));
    }
}

/// Names that could be another word or line for iptables-restore, and what iptables cannot do.
#[test]
fn what_is_refused() {
    let place = Place::new("refused", "nft");
    for name in ["a b", "-F", "!x", "ACCEPT", "x;y", "12345678901234567890123456789"] {
        place.configure(&format!("WHITELIST_CHAIN=\"{name}\"\n"));
        let said = place.refuses(&["block", "203.0.113.9"]);
        assert!(said.contains(&format!("{CONF}, line 3")) && said.contains("WHITELIST_CHAIN"), "{name}: {said}");
    }
    place.has_no_trace();
    place.configure("KILL_NFT=\"noise\"\n");
    let said = place.refuses(&["block", "203.0.113.9"]);
    assert!(said.contains("noise is made by nftables alone") && said.contains("drop, reject or chaos"), "{said}");
    place.has_no_trace();
    place.configure("UDP_PORTS=\"1-1023\"\n");
    let program = neighbourhood::daemon::program().display().to_string();
    let output = place.home.output(&place.net, Path::new("timeout"), &["20", &program, "daemon", "-c", CONF]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("FIREWALL=\"iptables\" is for Debian's portsentry"), "{said}");
    place.has_no_trace();
    let without =
        Place { net: Net::new("refused-without"), home: Home::with("mount -t tmpfs tmpfs /usr/sbin"), variant: "nft" };
    without.configure("");
    let said = without.refuses(&["block", "203.0.113.9"]);
    assert!(said.contains("/usr/sbin/iptables is not installed") && said.contains("package"), "{said}");
}

/// A set of `in_all` addresses that is full of others refuses, and what was so stays so.
#[test]
fn what_the_kernel_refuses_changes_nothing() {
    let place = Place::new("full", "nft");
    place.home.write(POLICY, "[block]\nin_all = 2\n");
    place.does(&["block", "203.0.113.9", "--for", "1h"]);
    let mut inner = Inner::start(&place);
    assert_eq!(inner.asks("check"), "Ok(false)");
    let mut number = 0;
    wait_until("that the set is full", || {
        number += 1;
        let other = format!("198.51.100.{number}");
        !place.net.output("host", "ipset", &["add", "harden-portsentry4", &other]).status.success()
    });
    let said = inner.asks("block 203.0.113.10");
    assert!(said.contains("no room") && said.contains("in_all of [block] in policy.toml"), "{said}");
}

/// Somebody stays, and looks once in a while, for iptables tells nobody what is taken away.
#[test]
fn who_stays_and_looks() {
    if std::env::var_os(STAYS).is_some() {
        return stay();
    }
    for variant in VARIANTS {
        let place = Place::new("stays", variant);
        place.does(&["block", "203.0.113.9", "--for", "1h"]);
        let mut inner = Inner::start(&place);
        let rules = place.rules();
        assert_eq!(inner.asks("check"), "Ok(false)");
        place.iptables(&["-F"]);
        place.iptables(&["-I", "INPUT", "-j", "ACCEPT"]);
        assert_eq!(inner.asks("check"), "Ok(true)");
        assert_eq!(place.input(), [CHAIN, "ACCEPT"]);
        place.iptables(&["-D", "INPUT", "-j", "ACCEPT"]);
        assert_eq!(place.rules(), rules);
        // A stranger in it, and one of those who are to be in it out.
        place.net.run("host", "ipset", &["add", "harden-portsentry4", "203.0.113.7"]);
        place.net.run("host", "ipset", &["del", "harden-portsentry4", "203.0.113.9"]);
        assert_eq!(inner.asks("check"), "Ok(false)");
        assert_eq!(place.blocked(), set(["203.0.113.9"]));
        // Debian's portsentry sees him again.
        place.net.run("host", "ipset", &["del", "harden-portsentry4", "203.0.113.9"]);
        assert!(inner.asks("seen 203.0.113.9").contains("already: true"));
        assert_eq!(place.blocked(), set(["203.0.113.9"]));
        assert_eq!(inner.asks("end"), "Ok(())");
        place.has_no_trace();
    }
}

/// The keeper of what Debian's portsentry blocks looks once a minute, and when it is told to read its configuration again.
#[test]
fn the_keeper_puts_back_what_was_flushed() {
    let place = Place::new("keeper", "nft");
    place.configure("KILL_NFT=\"drop\"\n");
    let said = place.home.path("/run/said");
    let out = fs::File::create(&said).expect("a file");
    let mut command = place.home.prepared(&place.net, &neighbourhood::daemon::program(), &["keep"]);
    let command = command.stdin(Stdio::null()).stdout(out.try_clone().expect("a file")).stderr(out);
    let keeper = Ends(command.spawn().expect("it starts"));
    let words = || fs::read_to_string(&said).unwrap_or_default();
    wait_until("the keeper", || words().contains("0 hosts are blocked"));
    place.does(&["block", "203.0.113.9", "--for", "1h"]);
    let rules = place.rules();
    let is_back = || if place.rules() == rules { Ok(()) } else { Err(words()) };
    place.iptables(&["-F"]);
    rustix::process::kill_process(Pid::from_child(&keeper.0), Signal::HUP).expect("it runs");
    waited(LONG, is_back).expect("the rules, as it is reloaded");
    place.iptables(&["-F"]);
    waited(Duration::from_secs(120), is_back).expect("the rules, once a minute is over");
    wait_until("that it says so", || words().contains("somebody took away rules of blocked hosts"));
    assert_eq!(place.blocked(), set(["203.0.113.9"]));
}

/// A process that ends with the test, however that ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Rules of the other iptables, that somebody has made another program of since, go as well.
#[test]
fn nothing_is_left_of_the_other_iptables() {
    for [before, after] in [["nft", "legacy"], ["legacy", "nft"]] {
        let place = Place::new("other", before);
        place.does(&["block", "203.0.113.9"]);
        place.make_it(after);
        let mut inner = Inner::start(&place);
        assert_eq!(inner.asks("end"), "Ok(())");
        place.has_no_trace();
    }
}

/// This test's own program in the home of a place, as one that stays: does a word a line.
struct Inner {
    process: Ends,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Inner {
    fn start(place: &Place) -> Inner {
        let program = std::env::current_exe().expect("a program");
        let mut command = place.home.prepared(&place.net, &program, &["--exact", "who_stays_and_looks", "--nocapture"]);
        let command = command.env(STAYS, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Ends(command.spawn().expect("it starts"));
        let answers = BufReader::new(process.0.stdout.take().expect("a pipe")).lines();
        Inner { process, answers }
    }

    fn asks(&mut self, words: &str) -> String {
        writeln!(self.process.0.stdin.as_ref().expect("a pipe"), "{words}").expect("it listens");
        let mut lines = self.answers.by_ref().map(|line| line.expect("a line"));
        let answer = lines.find_map(|line| line.split_once(ANSWER).map(|(_, answer)| answer.to_owned()));
        answer.unwrap_or_else(|| panic!("{words}: it ended"))
    }
}

fn stay() {
    let policy = Policy::read(Path::new(POLICY)).expect("a policy");
    let guard = Guard::read(&policy, IgnoreList::default(), Path::new("")).expect("a network");
    let filter = PacketFilter::Iptables { after: None };
    let open = || Blocks::open(policy.block, Answer::Drop, &filter, guard.clone()).expect("nobody else has them").0;
    let mut blocks = Some(open());
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let answer = match line.split_once(' ') {
            Some((verb @ ("block" | "seen"), address)) => {
                let by = if verb == "seen" { By::Portsentry } else { By::Hand };
                let request = asking_for(address.parse().expect("an address"), by);
                format!("{:?}", blocks.get_or_insert_with(open).serve(request, Now::read()).0)
            }
            Some(("cost", rules)) => {
                blocks = None;
                cost(rules.parse().expect("a number"), &open)
            }
            _ if line == "check" => format!("{:?}", blocks.get_or_insert_with(open).check(Now::read())),
            _ => {
                blocks = None;
                format!("{:?}", blocks::end())
            }
        };
        println!("{ANSWER}{answer}");
    }
}

fn asking_for(address: IpAddr, by: By) -> Request {
    Request::Block { address, length: Wanted::Earned, by, why: String::new() }
}

/// Prints what a block costs, beside the rule of iptables that it stands for.
#[test]
#[ignore = "measures: cargo test --release --test iptables -- --ignored --nocapture what_a_block_costs"]
fn what_a_block_costs() {
    for variant in VARIANTS {
        for many in [0, 10_000] {
            let place = Place::new(&format!("cost{many}"), variant);
            let lines = (0..many).map(|number| {
                let rest =
                    format!("2026-01-01T00:00:00Z block {} 2090-01-01T00:00:00Z 1 daemon probed tcp/7", other(number));
                format!("{:08x} {rest}\n", crc32fast::hash(rest.as_bytes()))
            });
            fs::create_dir_all(place.home.path("/var/lib/harden-portsentry/blocks")).expect("a directory");
            place.home.write("/var/lib/harden-portsentry/blocks/ledger", &lines.collect::<String>());
            place.does(&["restore"]);
            println!("iptables-{variant}, {many} blocked: {}", Inner::start(&place).asks(&format!("cost {many}")));
        }
    }
}

fn other(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a00_0001 + number).into()
}

/// Medians: of whoever stays, of the command, of a look at all of it, and of iptables, with so many rules.
fn cost(many: u32, open: &dyn Fn() -> Blocks) -> String {
    const TIMES: u32 = 41;
    let median = |what: &str, work: &mut dyn FnMut(IpAddr)| {
        let mut times: Vec<f64> = (0..TIMES)
            .map(|number| {
                let start = std::time::Instant::now();
                work(other(many + number));
                start.elapsed().as_secs_f64() * 1_000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        format!("{what} {:.3} ms", times[times.len() / 2])
    };
    let runs = |program: &Path, words: &[&str]| {
        let output = std::process::Command::new(program).args(words).stdin(Stdio::null()).output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
    };
    let program = neighbourhood::daemon::program();
    let command = median("the command", &mut |address| runs(&program, &["block", &address.to_string()]));
    let mut blocks = open();
    let stays = median("who stays", &mut |address| {
        let is_blocked = |answer| matches!(answer, blocks::control::Answer::Blocked { already: false, .. });
        let IpAddr::V4(address) = address else { return };
        let address = std::net::Ipv4Addr::from_bits(address.to_bits() + TIMES).into();
        assert!(is_blocked(blocks.serve(asking_for(address, By::Hand), Now::read()).0));
    });
    let look = median("a look at all", &mut |_| assert!(!blocks.check(Now::read()).expect("it can look")));
    let rules: String = (0..many).map(|number| format!("-A INPUT -s {}/32 -j DROP\n", other(number))).collect();
    fs::write("/run/rules", format!("*filter\n{rules}COMMIT\n")).expect("a file");
    runs(Path::new("sh"), &["-c", "iptables-restore --noflush </run/rules"]);
    let words = |address: IpAddr| {
        runs(Path::new("/usr/sbin/iptables"), &["-w", "-I", "INPUT", "-s", &address.to_string(), "-j", "DROP"])
    };
    let rule = median("iptables -I", &mut |address| words(address));
    [stays, command, look, rule].join(", ")
}

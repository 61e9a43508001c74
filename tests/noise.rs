//! KILL_NFT="noise": what a blocked host sees, that nothing of it is real, and that nobody else notices. In network
//! namespaces, as root; seen by nmap and by connections.

mod neighbourhood;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use neighbourhood::blocks::{BLOCK, TABLE, blocked, run};
use neighbourhood::daemon::Daemon;
use neighbourhood::home::Home;
use neighbourhood::tcp::abort;
use neighbourhood::{CLIENT, HOST, HOST6, Net, scanner, scanner6, wait_until, waited};
use regex::Regex;

const RESOLVER: &str = "192.0.2.98";
const GATEWAY: &str = "192.0.2.99";
/// A port on which somebody listens, and one more.
const OPEN: [u16; 2] = [1022, 1080];
/// What has a service end without a word.
const LOSE_IT: &[u8] = b"lose it\n";

/// A host that blocks `addresses`, with a service on each of [`OPEN`] that counts whom it accepts, and what it reads.
struct Noisy {
    net: Net,
    home: Home,
    daemon: Daemon,
    accepted: Arc<AtomicUsize>,
    read: Arc<AtomicUsize>,
}

impl Noisy {
    fn new(tag: &str, policy: &str, addresses: &[&str]) -> Noisy {
        Noisy::answering(tag, "noise", policy, addresses)
    }

    fn answering(tag: &str, answer: &str, policy: &str, addresses: &[&str]) -> Noisy {
        let (net, home) = (Net::new(tag), Home::new());
        home.write("/etc/harden-portsentry/policy.toml", policy);
        home.write("/etc/resolv.conf", &format!("nameserver {RESOLVER}\n"));
        net.run("host", "ip", &["route", "add", "default", "via", GATEWAY]);
        let daemon = Daemon::at_home(&net, &home, "1-1023", &BLOCK.replace("drop", answer));
        let (accepted, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        std::thread::scope(|scope| {
            let (accepted, read) = (Arc::clone(&accepted), Arc::clone(&read));
            let listening = net.inside(scope, "host", move || {
                for port in OPEN {
                    let listener = TcpListener::bind(("::", port)).expect("a port");
                    let (accepted, read) = (Arc::clone(&accepted), Arc::clone(&read));
                    std::thread::spawn(move || {
                        for stream in listener.incoming().flatten() {
                            accepted.fetch_add(1, Ordering::Relaxed);
                            let read = Arc::clone(&read);
                            std::thread::spawn(move || echo(stream, &read));
                        }
                    });
                }
            });
            listening.join().expect("it listens");
        });
        for address in addresses {
            let (said, ok) = run(&net, &home, &["block", address]);
            assert!(ok, "{said}");
        }
        assert_eq!(blocked(&net).len(), addresses.len());
        Noisy { net, home, daemon, accepted, read }
    }

    /// What nmap makes of the ports, from `source`: of each, or, where many are alike, of how many.
    fn picture(&self, source: &str, kind: &str, ports: &str) -> BTreeMap<String, String> {
        let to = if source.contains(':') { HOST6 } else { HOST };
        let mut words =
            vec![kind, "-Pn", "-n", "-T4", "--max-retries", "1", "-oX", "-", "-p", ports, "-S", source, "-e", "lan"];
        words.extend(if source.contains(':') { vec!["-6", to] } else { vec![to] });
        let output = self.net.run("client", "nmap", &words);
        let port = Regex::new("portid=\"(\\d+)\"><state state=\"([^\"]+)\"").expect("a pattern");
        let many = Regex::new("<extraports state=\"([^\"]+)\" count=\"(\\d+)\"").expect("a pattern");
        let each = port.captures_iter(&output).map(|found| (found[1].to_owned(), found[2].to_owned()));
        let rest = many.captures_iter(&output).map(|found| (format!("{} others", &found[2]), found[1].to_owned()));
        each.chain(rest).collect()
    }

    /// Connects from `source` to `to`, says something, and waits for an answer: whether it was connected, and what came.
    fn knock(&self, source: &str, to: &str, port: u16, patience: Duration) -> (bool, usize) {
        let address = SocketAddr::new(to.parse().expect("an address"), port);
        let source = SocketAddr::new(source.parse().expect("an address"), 0);
        std::thread::scope(|scope| {
            self.net.inside(scope, "client", move || connect(source, address, patience)).join().expect("it tries")
        })
    }
}

fn echo(mut stream: TcpStream, read: &AtomicUsize) {
    let _ = stream.write_all(b"welcome\n");
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        read.fetch_add(count, Ordering::Relaxed);
        if bytes.starts_with(LOSE_IT) {
            return abort(stream);
        }
        let _ = stream.write_all(&bytes[..count]);
    }
}

/// A connection from `source`, from any port where that is 0, whose every step may take `patience`.
fn open(source: SocketAddr, to: SocketAddr, patience: Duration) -> Option<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let family = if source.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket(family, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &source).expect("an address of the client");
    let seconds = rustix::net::sockopt::Timeout::Send;
    rustix::net::sockopt::set_socket_timeout(&socket, seconds, Some(patience)).expect("a time");
    rustix::net::connect(&socket, &to).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience)).expect("a time");
    stream.set_write_timeout(Some(patience)).expect("a time");
    Some(stream)
}

fn connect(source: SocketAddr, to: SocketAddr, patience: Duration) -> (bool, usize) {
    let Some(mut stream) = open(source, to, patience) else { return (false, 0) };
    let _ = stream.write_all(b"anybody there?\n");
    (true, stream.read(&mut [0; 64]).unwrap_or(0))
}

/// Connection tracking remembers a connection that neither end knows any more. From its port a blocked host gets no other one.
#[test]
fn what_is_remembered_of_a_connection_opens_no_new_one() {
    const PORT: u16 = 40_000;
    let noisy = Noisy::new("reuse", "", &[&scanner(0)]);
    let (source, to) = (format!("{}:{PORT}", scanner(1)), format!("{HOST}:{}", OPEN[0]));
    let (source, to) = (source.parse::<SocketAddr>().unwrap(), to.parse::<SocketAddr>().unwrap());
    let patience = Duration::from_secs(4);
    let inside = |what: fn(SocketAddr, SocketAddr, Duration) -> Option<TcpStream>| {
        std::thread::scope(|scope| {
            noisy.net.inside(scope, "client", move || what(source, to, patience)).join().expect("it tries")
        })
    };
    let mut stream = inside(open).expect("nobody minds");
    stream.read_exact(&mut [0; 8]).expect("a welcome");
    // Ahead of connection tracking, which hears nothing of an end either.
    let silence = "table inet silence { chain sent { type filter hook output priority -400; tcp flags & (fin | rst) != 0x0 drop; }; }";
    ["host", "client"].into_iter().for_each(|place| noisy.net.nft(place, silence));
    stream.write_all(LOSE_IT).expect("it is heard");
    let sockets = || noisy.net.run("host", "cat", &["/proc/net/tcp6"]);
    wait_until("the host to forget it", || !sockets().contains(&format!(":{PORT:04X} ")));
    abort(stream);
    ["host", "client"].into_iter().for_each(|place| noisy.net.nft(place, "delete table inet silence"));

    let (said, ok) = run(&noisy.net, &noisy.home, &["block", &scanner(1)]);
    assert!(ok, "{said}");
    let before = noisy.accepted.load(Ordering::Relaxed);
    let heard = inside(open).map(|mut stream| stream.read(&mut [0; 64]).unwrap_or(0));
    assert_eq!((heard.unwrap_or(0), noisy.accepted.load(Ordering::Relaxed)), (0, before));
}

/// Two looks show two hosts, and a third one another; with `stable` it is always the same, and not this one.
#[test]
fn what_a_scanner_sees() {
    for (flavour, tag) in [("random", "see-r"), ("stable", "see-s")] {
        let noisy = Noisy::new(tag, &format!("[block]\nnoise = \"{flavour}\"\n"), &[&scanner(0), &scanner6(0)]);
        let ports = "1000-1099";
        let looks: Vec<_> = (0..3).map(|_| noisy.picture(&scanner(0), "-sS", ports)).collect();
        let has = |picture: &BTreeMap<String, String>, state: &str| picture.values().any(|one| one == state);
        for look in &looks {
            assert!(has(look, "open") && has(look, "closed") && has(look, "filtered"), "{flavour}: {look:?}");
        }
        let open = |look: &BTreeMap<String, String>| look.values().filter(|state| *state == "open").count();
        assert!(looks.iter().all(|look| open(look) > 10), "{flavour}: {looks:?}");
        if flavour == "stable" {
            assert!(looks[0] == looks[1] && looks[1] == looks[2], "{looks:?}");
        } else {
            assert!(looks[0] != looks[1] && looks[1] != looks[2], "{looks:?}");
        }
        // As connections, with fragments of TCP that are no SYN, by UDP, and by IPv6, where nothing is promised to be open.
        assert!(open(&noisy.picture(&scanner(0), "-sT", ports)) > 5, "{flavour}");
        let unanswered = noisy.picture(&scanner(0), "-sA", ports);
        assert!(has(&unanswered, "filtered") && !has(&unanswered, "unfiltered"), "{unanswered:?}");
        let six = noisy.picture(&scanner6(0), "-sT", ports);
        assert!(has(&six, "closed"), "{six:?}");
        let udp = noisy.picture(&scanner(0), "-sU", "100-119");
        assert!(has(&udp, "open|filtered"), "{udp:?}");
        assert_eq!(noisy.accepted.load(Ordering::Relaxed), 0, "{flavour}: nobody was let in");
    }
}

/// What looks open is not: of some hundred connections to ports on which somebody listens not one is accepted, and not one
/// byte comes in or goes out, over reloads of the configuration and of the table. Who is not blocked is served.
#[test]
fn nobody_who_is_blocked_gets_in() {
    let noisy = Noisy::new("in", "", &[&scanner(0), &scanner6(0)]);
    let patience = Duration::from_millis(300);
    let mut connected = 0;
    for round in 0..4 {
        for _ in 0..15 {
            for (source, to) in [(scanner(0), HOST), (scanner6(0), HOST6)] {
                for port in OPEN {
                    let (is_connected, bytes) = noisy.knock(&source, to, port, patience);
                    assert_eq!(bytes, 0, "{source} was served");
                    connected += usize::from(is_connected);
                }
            }
        }
        match round {
            0 => noisy.daemon.signal(rustix::process::Signal::HUP),
            1 => noisy.net.nft("host", "flush ruleset"),
            2 => noisy.net.nft("host", &format!("flush table inet {TABLE}")),
            _ => {}
        }
        wait_until("the table", || {
            blocked(&noisy.net).len() == 2
                && noisy.net.run("host", "nft", &["list", "table", "inet", TABLE]).contains("synproxy")
        });
    }
    assert!(connected > 10, "some looked open: {connected}");
    assert_eq!((noisy.accepted.load(Ordering::Relaxed), noisy.read.load(Ordering::Relaxed)), (0, 0));
    let long = Duration::from_secs(20);
    for (source, to) in [(scanner(1), HOST), (scanner6(1), HOST6)] {
        for _ in 0..10 {
            let (is_connected, bytes) = noisy.knock(&source, to, OPEN[0], long);
            assert_eq!((is_connected, bytes > 0), (true, true), "{source} is not blocked");
        }
    }
    assert_eq!(noisy.accepted.load(Ordering::Relaxed), 20);
}

/// A listener that answers SYNs by cookies takes an ACK for a connection: with the kernel's own noise in the way, too, for
/// both make their cookies alike.
#[test]
fn a_cookie_of_our_noise_opens_nothing() {
    let noisy = Noisy::new("cookie", "", &[&scanner(0)]);
    noisy.net.run("host", "sysctl", &["-qw", "net.ipv4.tcp_syncookies=2"]);
    for loose in ["1", "0"] {
        let set = format!("net.netfilter.nf_conntrack_tcp_loose={loose}");
        noisy.net.run("host", "sysctl", &["-qw", &set]);
        let tries = (0..40).map(|_| noisy.knock(&scanner(0), HOST, OPEN[0], Duration::from_millis(200)));
        let tries: Vec<_> = tries.collect();
        assert!(tries.iter().any(|(is_connected, _)| *is_connected), "none looked open");
        assert!(tries.iter().all(|(_, bytes)| *bytes == 0));
    }
    assert_eq!(noisy.accepted.load(Ordering::Relaxed), 0);
}

/// What looks open to one is no service that answers: others who ask for it are scanners still.
#[test]
fn noise_hides_no_port_from_the_daemon() {
    let noisy = Noisy::new("hides", "", &[&scanner(0)]);
    for _ in 0..5 {
        noisy.picture(&scanner(0), "-sS", "100-130");
    }
    // A scanner for each port, for the first packet blocks him.
    for port in 100..=130_u16 {
        let source = format!("192.0.2.{}", port);
        noisy.net.run("client", "ip", &["addr", "add", &format!("{source}/24"), "dev", "lan"]);
        noisy.net.scan(&source, &port.to_string());
        let is_seen = || match noisy.daemon.history().ports(&source, "TCP").contains(&port) {
            true => Ok(()),
            false => Err(format!(
                "port {port}: {}",
                noisy.net.run("host", "nft", &["list", "set", "inet", "harden_portsentry", "used_tcp"])
                    + &noisy.daemon.said()
            )),
        };
        waited(Duration::from_secs(10), is_seen).unwrap_or_else(|missing| panic!("{missing}"));
    }
}

/// CHAOS answers whom our sets mark, and here a rule that resets does in its place. Whom no such rule takes, because it was
/// flushed or somebody lets all in before it, meets silence; IPv6 in any case. Nobody gets in.
#[test]
fn whom_chaos_does_not_take_meets_silence() {
    let noisy = Noisy::answering("chaos", "chaos", "", &[&scanner(0), &scanner6(0)]);
    let states = |source: &str| {
        let ports = noisy.picture(source, "-sS", "1018-1027");
        let mut states: Vec<String> = ports.into_values().collect();
        states.dedup();
        states
    };
    let beside = |rule: &str| {
        let chain = "type filter hook input priority 0; policy accept;";
        noisy.net.nft(
            "host",
            &format!("table ip beside\ndelete table ip beside\ntable ip beside {{ chain c {{ {chain} {rule}; }}; }}"),
        );
    };
    beside("meta mark 0x504f5254 reject with tcp reset");
    assert_eq!(states(&scanner(0)), ["closed"], "the rule answers");
    assert_eq!(states(&scanner6(0)), ["filtered"], "there is none for IPv6");
    assert!(noisy.picture(&scanner(1), "-sS", "1022").values().any(|state| state == "open"), "who is not blocked");
    for rule in ["accept", "meta mark 0x504f5254 accept", "meta mark set 0", "meta mark set ct mark accept"] {
        beside(rule);
        assert_eq!(states(&scanner(0)), ["filtered"], "{rule}");
        for port in OPEN {
            assert_eq!(noisy.knock(&scanner(0), HOST, port, Duration::from_millis(300)), (false, 0), "{rule}");
        }
    }
    let accepted = || noisy.accepted.load(Ordering::Relaxed);
    let before = accepted();
    assert!(noisy.knock(CLIENT, HOST, OPEN[0], Duration::from_secs(20)).1 > 0 && accepted() == before + 1);
}

/// Connections of before, and what this host opens, go on.
#[test]
fn what_was_open_and_what_this_host_opens_goes_on() {
    for answer in ["noise", "chaos"] {
        goes_on(&Noisy::answering(&format!("on-{answer}"), answer, "", &[]));
    }
}

fn goes_on(noisy: &Noisy) {
    let to = SocketAddr::new(HOST.parse().expect("an address"), OPEN[0]);
    let mut inbound = std::thread::scope(|scope| {
        noisy.net.inside(scope, "client", move || TcpStream::connect(to).expect("a service")).join().expect("connected")
    });
    inbound.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    let mut bytes = [0; 8];
    inbound.read_exact(&mut bytes).expect("a welcome");
    let source = inbound.local_addr().expect("an address").ip().to_string();
    let (said, ok) = run(&noisy.net, &noisy.home, &["block", &source]);
    assert!(ok, "{said}");
    inbound.write_all(b"still!\n\n").expect("it goes on");
    inbound.read_exact(&mut bytes).expect("an answer");
    assert_eq!(&bytes, b"still!\n\n");

    let (said, ok) = run(&noisy.net, &noisy.home, &["block", CLIENT]);
    assert!(ok, "{said}");
    std::thread::scope(|scope| {
        let serves = noisy.net.inside(scope, "client", || {
            let tcp = TcpListener::bind((CLIENT, 8023)).expect("a port");
            let udp = UdpSocket::bind((CLIENT, 53)).expect("a port");
            std::thread::spawn(move || {
                let mut bytes = [0; 16];
                while let Ok((count, from)) = udp.recv_from(&mut bytes) {
                    let _ = udp.send_to(&bytes[..count], from);
                }
            });
            std::thread::spawn(move || tcp.incoming().flatten().for_each(|stream| echo(stream, &AtomicUsize::new(0))));
        });
        serves.join().expect("it listens");
        let asks = noisy.net.inside(scope, "host", || {
            let long = Some(Duration::from_secs(20));
            let mut tcp = TcpStream::connect((CLIENT, 8023)).expect("it is let out");
            tcp.set_read_timeout(long).expect("a time");
            tcp.read_exact(&mut [0; 8]).expect("a welcome");
            let udp = UdpSocket::bind((HOST, 0)).expect("a port");
            udp.set_read_timeout(long).expect("a time");
            udp.send_to(b"who?", (CLIENT, 53)).expect("it is let out");
            udp.recv(&mut [0; 16]).expect("an answer")
        });
        assert_eq!(asks.join().expect("it asks"), 4);
    });
}

/// An attacker who forges everybody this host needs, and scans in its own name with a connection of its own open: gateway
/// and resolver are never blocked, connections that live go on, and the scanner gets no new one.
#[test]
fn whom_an_attacker_forges_goes_on() {
    for answer in ["drop", "noise", "chaos"] {
        let noisy = Noisy::answering(&format!("forge-{answer}"), answer, "", &[]);
        let to = SocketAddr::new(HOST.parse().expect("an address"), OPEN[0]);
        let [attacker, admin, client] = [0, 2, 3].map(scanner);
        let [mut idle, mut session, mut busy] = std::thread::scope(|scope| {
            let addresses = [&attacker, &admin, &client];
            let addresses = addresses.map(|address| SocketAddr::new(address.parse().expect("an address"), 0));
            let opens = noisy.net.inside(scope, "client", move || {
                addresses.map(|source| open(source, to, Duration::from_secs(20)).expect("a service"))
            });
            opens.join().expect("connected")
        });
        let talk = |stream: &mut TcpStream| {
            let mut bytes = [0; 8];
            stream.write_all(b"question").expect("it goes on");
            stream.read_exact(&mut bytes).expect("an answer");
            assert_eq!(&bytes, b"question", "{answer}");
        };
        [&mut idle, &mut session, &mut busy]
            .into_iter()
            .for_each(|stream| stream.read_exact(&mut [0; 8]).expect("a welcome"));
        let (over, until) = std::sync::mpsc::channel::<()>();
        let talks = std::thread::scope(|scope| {
            let busy = scope.spawn(move || {
                let mut talks = 0;
                // Until the other end is dropped, by a test that fails, too.
                while until.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    talk(&mut busy);
                    talks += 1;
                }
                talks
            });
            let over = over;
            for forged in [GATEWAY, RESOLVER, &admin, &client, &attacker] {
                noisy.net.scan(forged, "1-20");
            }
            for address in [&admin, &client, &attacker] {
                wait_until(address, || blocked(&noisy.net).contains(address));
            }
            talk(&mut session);
            drop(over);
            busy.join().expect("the busy client was not cut off")
        });
        assert!(talks > 10, "{answer}: {talks}");
        let blocked = blocked(&noisy.net);
        assert!(!blocked.contains(GATEWAY) && !blocked.contains(RESOLVER), "{answer}: {blocked:?}");
        let accepted = noisy.accepted.load(Ordering::Relaxed);
        for _ in 0..20 {
            let (_, bytes) = noisy.knock(&attacker, HOST, OPEN[1], Duration::from_millis(200));
            assert_eq!(bytes, 0, "{answer}: the scanner was served");
        }
        talk(&mut session);
        assert_eq!(noisy.accepted.load(Ordering::Relaxed), accepted, "{answer}: the scanner was let in");
        drop(idle);
    }
}

/// No amplifier: of a flood in one's name not many packets come back, none longer than what came, and little of it is ICMP.
#[test]
fn a_flood_in_anothers_name_is_not_sent_back() {
    let noisy = Noisy::new("flood", "", &[&scanner(0)]);
    noisy.net.nft("host", "table inet counts { counter answers { }; counter refusals { }; chain c { type filter hook postrouting priority 300; ip daddr 192.0.2.0/24 counter name answers; ip daddr 192.0.2.0/24 meta l4proto icmp counter name refusals; }; }");
    let begin = std::time::Instant::now();
    let words = [
        "-sS",
        "-Pn",
        "-n",
        "-T5",
        "--min-rate",
        "20000",
        "--max-retries",
        "0",
        "-p",
        "1-20000",
        "-S",
        &scanner(0),
        "-e",
        "lan",
        HOST,
    ];
    noisy.net.run("client", "nmap", &words);
    let seconds = begin.elapsed().as_secs() + 1;
    let count = |name: &str| noisy.net.counter("host", "counts", name);
    let (packets, icmps) = (count("answers"), count("refusals"));
    assert!(packets > 50, "there is noise");
    // As the table bounds it: 400 at once and 200 a second; SYN and ACKs that hang are sent once.
    assert!(packets <= 400 + 200 * seconds, "{packets} packets in {seconds} s");
    assert!(icmps <= 20 + 20 * seconds, "{icmps} ICMP in {seconds} s");
}

#[test]
fn an_unknown_answer_is_named() {
    let (net, home) = (Net::new("answer"), Home::new());
    fs::create_dir_all(home.path("/etc/harden-portsentry")).expect("a directory");
    home.write("/etc/portsentry.conf", "BLOCK_TCP=\"1\"\nKILL_NFT=\"noisy\"\n");
    let (said, ok) = run(&net, &home, &["daemon", "-c", "/etc/portsentry.conf"]);
    assert!(!ok && said.contains("write \"drop\", \"reject\", \"noise\" or \"chaos\""), "{said}");
}

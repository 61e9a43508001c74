//! A host that a daemon watches, and whom it has to do with, as network namespaces:
//!
//! ```text
//!  client ──── lan ──┐            ┌── box    a container behind DNAT
//!         ──── slow ─┤            ├── far    beyond the host, routed
//!                    └── host ────┤
//!                                 └── br0 ── left, right   bridged through the host
//! ```

#![allow(dead_code)] // every test target takes what it needs

pub mod blocks;
pub mod daemon;
pub mod home;
pub mod programs;
pub mod tcp;
pub mod udp;
pub mod what_goes_on;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub const HOST: &str = "192.0.2.1";
pub const HOST6: &str = "2001:db8:1::1";
pub const CLIENT: &str = "192.0.2.2";
pub const CLIENT6: &str = "2001:db8:1::2";
pub const BOX: &str = "10.1.0.2";
pub const FAR: &str = "10.2.0.2";
pub const LEFT: &str = "10.3.0.2";
pub const RIGHT: &str = "10.3.0.3";

const PLACES: [&str; 6] = ["host", "client", "box", "far", "left", "right"];

/// The namespaces; gone when dropped.
pub struct Net {
    prefix: String,
    /// What brings loss and disorder to the lan.
    pub weather: &'static str,
}

impl Net {
    /// `tag` keeps the tests of one process apart.
    pub fn new(tag: &str) -> Net {
        assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        sweep();
        let net = Net { prefix: format!("nfa{}-{tag}-", std::process::id()), weather: "" };
        net.lay();
        net
    }

    /// The namespace's name for `ip`.
    pub fn name(&self, place: &str) -> String {
        format!("{}{place}", self.prefix)
    }

    fn lay(&self) {
        let mut steps = String::new();
        let mut step = |text: String| {
            steps.push_str(&text);
            steps.push('\n');
        };
        for place in PLACES {
            step(format!("netns add {}", self.name(place)));
            step(format!("-n {} link set lo up", self.name(place)));
        }
        let n = |place| self.name(place);
        let host = n("host");
        for (near, place, far) in [
            ("lan", "client", "lan"),
            ("slow", "client", "slow"),
            ("boxes", "box", "eth0"),
            ("beyond", "far", "eth0"),
            ("port1", "left", "eth0"),
            ("port2", "right", "eth0"),
        ] {
            step(format!("-n {host} link add {near} type veth peer name {far} netns {}", n(place)));
            step(format!("-n {host} link set {near} up"));
            step(format!("-n {} link set {far} up", n(place)));
        }
        step(format!("-n {host} link add br0 type bridge"));
        for port in ["port1", "port2"] {
            step(format!("-n {host} link set {port} master br0"));
        }
        step(format!("-n {host} link set br0 up"));
        for (place, interface, address) in [
            ("host", "lan", format!("{HOST}/24")),
            ("host", "lan", format!("{HOST6}/64 nodad")),
            ("client", "lan", format!("{CLIENT}/24 brd +")),
            ("client", "lan", format!("{CLIENT6}/64 nodad")),
            ("host", "slow", "192.0.3.1/24".to_owned()),
            ("client", "slow", "192.0.3.2/24".to_owned()),
            ("host", "boxes", "10.1.0.1/24".to_owned()),
            ("box", "eth0", format!("{BOX}/24")),
            ("host", "beyond", "10.2.0.1/24".to_owned()),
            ("far", "eth0", format!("{FAR}/24")),
            ("host", "br0", "10.3.0.1/24 brd +".to_owned()),
            ("left", "eth0", format!("{LEFT}/24 brd +")),
            ("right", "eth0", format!("{RIGHT}/24 brd +")),
        ] {
            step(format!("-n {} addr add {address} dev {interface}", n(place)));
        }
        for (number, _) in SCANS.iter().enumerate() {
            step(format!("-n {} addr add {}/24 dev lan", n("client"), scanner(number)));
            step(format!("-n {} addr add {}/64 nodad dev lan", n("client"), scanner6(number)));
        }
        step(format!("-n {} route add default via {HOST}", n("client")));
        for (place, gateway) in [("box", "10.1.0.1"), ("far", "10.2.0.1"), ("left", "10.3.0.1"), ("right", "10.3.0.1")]
        {
            step(format!("-n {} route add default via {gateway}", n(place)));
        }
        for line in steps.lines() {
            command("ip", &line.split_whitespace().collect::<Vec<_>>());
        }
        // no answer is held back, so that a scan takes seconds; packets for the host may come in on either link
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv6.icmp.ratelimit=0",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.lan.rp_filter=0",
            "net.ipv4.conf.slow.rp_filter=0",
        ] {
            self.run("host", "sysctl", &["-qw", setting]);
        }
        // of the whole machine, and not to be written from a namespace, before Linux 6.10 or so
        let _ = self.output("host", "sysctl", &["-qw", "net.ipv4.icmp_msgs_per_sec=1000000"]);
    }

    /// Loss and disorder for TCP between client and host: netem where the kernel has it. Where not, nftables loses
    /// packets at random and sends every third of the client's around over a slow link, which is late.
    pub fn bad_weather(&mut self) {
        let netem = |interface: &str, place: &str| {
            let words = [
                "qdisc", "add", "dev", interface, "root", "netem", "delay", "3ms", "2ms", "loss", "3%", "reorder",
                "25%",
            ];
            self.output(place, "tc", &words).status.success()
        };
        if netem("lan", "client") && netem("lan", "host") {
            self.weather = "netem";
            return;
        }
        self.nft(
            "client",
            "table ip weather {
                chain out {
                    type route hook output priority mangle; policy accept;
                    ip daddr 192.0.2.1 tcp sport != 0 numgen random mod 33 0 drop
                    ip daddr 192.0.2.1 tcp sport != 0 numgen random mod 3 0 meta mark set 7
                }
                chain arrived {
                    type filter hook prerouting priority raw; policy accept;
                    ip saddr 192.0.2.1 tcp sport != 0 numgen random mod 33 0 drop
                }
            }",
        );
        for words in [
            &["rule", "add", "fwmark", "7", "lookup", "100"][..],
            &["route", "add", "default", "via", "192.0.3.1", "dev", "slow", "table", "100"],
        ] {
            self.run("client", "ip", words);
        }
        self.run(
            "client",
            "tc",
            &["qdisc", "add", "dev", "slow", "root", "tbf", "rate", "3mbit", "burst", "1600", "latency", "100ms"],
        );
        self.weather = "nftables and a slow second link (this kernel has no netem)";
    }

    pub fn fair_weather(&self) {
        let _ = self.output("client", "tc", &["qdisc", "del", "dev", "lan", "root"]);
        let _ = self.output("host", "tc", &["qdisc", "del", "dev", "lan", "root"]);
        if !self.weather.starts_with("netem") {
            self.nft("client", "delete table ip weather");
            self.run("client", "ip", &["rule", "del", "fwmark", "7"]);
        }
    }

    pub fn nft(&self, place: &str, rules: &str) {
        self.run(place, "nft", &[rules]);
    }

    /// A SYN scan of the host's `ports` by `source`, behind the client.
    pub fn scan(&self, source: &str, ports: &str) {
        self.run("client", "nmap", &Net::scanning(source, ports));
    }

    /// The same, which takes seconds where nobody answers, and waits meanwhile until it is so.
    #[allow(dead_code)] // not every suite has what does not last
    pub fn scan_until(&self, source: &str, ports: &str, what: &str, so: impl FnMut() -> bool) {
        let mut scan = self.prepared("client", "nmap", &Net::scanning(source, ports));
        let mut scan = scan.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("ip runs");
        wait_until(what, so);
        assert!(scan.wait().expect("nmap ends").success());
    }

    fn scanning<'a>(source: &'a str, ports: &'a str) -> [&'a str; 12] {
        ["-sS", "-Pn", "-n", "--max-retries", "2", "-p", ports, "-S", source, "-e", "lan", HOST]
    }

    /// What a named counter of nftables stands at, in packets.
    pub fn counter(&self, place: &str, table: &str, name: &str) -> u64 {
        let text = self.run(place, "nft", &["list", "counter", "inet", table, name]);
        let packets = text.split("packets ").nth(1).and_then(|rest| rest.split_whitespace().next());
        packets.and_then(|number| number.parse().ok()).expect("a counter")
    }

    /// Runs a command there, which must succeed.
    pub fn run(&self, place: &str, program: &str, words: &[&str]) -> String {
        let output = self.output(place, program, words);
        assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn output(&self, place: &str, program: &str, words: &[&str]) -> Output {
        self.prepared(place, program, words).output().unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    pub fn spawn(&self, place: &str, program: &str, words: &[&str]) -> std::process::Child {
        let mut command = self.prepared(place, program, words);
        command.stderr(Stdio::null()).stdout(Stdio::null());
        command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    pub fn prepared(&self, place: &str, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place), program]).args(words).stdin(Stdio::null());
        command
    }

    /// A thread whose sockets are there.
    pub fn inside<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        place: &str,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        let name = self.name(place);
        scope.spawn(move || {
            enter(&name);
            work()
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in PLACES {
            let _ = Command::new("ip").args(["netns", "del", &self.name(place)]).output();
        }
    }
}

/// Takes the current thread into a network namespace.
fn enter(name: &str) {
    let space = File::open(Path::new("/run/netns").join(name)).expect("the namespace is there");
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
}

/// Takes away what runs that were killed left.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("nfa").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

fn command(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits for something to be so; `what` says in the panic what was not.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    wait_for(|| if so() { Ok(()) } else { Err(what.to_owned()) });
}

/// As `wait_until`, where what is missing changes meanwhile.
fn wait_for(so: impl FnMut() -> Result<(), String>) {
    waited(LIMIT, so).unwrap_or_else(|missing| panic!("not within {} s: {missing}", LIMIT.as_secs()));
}

/// Whether it came to be so; if not, what was missing in the end.
pub fn waited(limit: Duration, mut so: impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        match so() {
            Err(missing) if begin.elapsed() > limit => return Err(missing),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
            Ok(()) => return Ok(()),
        }
    }
}

/// For what takes moments; long, because a busy machine is no failure.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The scans that have to be seen: nmap's words, and the protocol in the history. Each has a source of its own.
pub const SCANS: [(&[&str], &str); 9] = [
    (&["-sS"], "TCP"),
    (&["-sT"], "TCP"),
    (&["-sF"], "TCP"),
    (&["-sN"], "TCP"),
    (&["-sX"], "TCP"),
    (&["-sA"], "TCP"),
    (&["-sM"], "TCP"),
    (&["-sU"], "UDP"),
    (&["-6", "-sS"], "TCP"),
];

pub fn scanner(number: usize) -> String {
    format!("192.0.2.{}", 61 + number)
}

pub fn scanner6(number: usize) -> String {
    format!("2001:db8:1::{}", 61 + number)
}

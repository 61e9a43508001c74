//! Which interfaces the daemon watches: all but loopback, all, or the named ones, also those that come later. As root, in
//! network namespaces of its own. Interfaces that need a module that not every kernel has (VLAN, PPP, IP tunnels) are tried on
//! Debian's own kernels: tests/debian/kernel.rs.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Two hosts on two wires, `red` and `blue`.
struct Wires {
    host: String,
    peer: String,
    files: TempDir,
    daemon: Option<Child>,
}

impl Wires {
    fn new(tag: &str) -> Wires {
        assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let name = |place: &str| format!("ifs{}-{tag}-{place}", std::process::id());
        let wires =
            Wires { host: name("host"), peer: name("peer"), files: TempDir::new().expect("a directory"), daemon: None };
        for place in [&wires.host, &wires.peer] {
            ip(&["netns", "add", place]);
            ip(&["-n", place, "link", "set", "lo", "up"]);
        }
        wires.lay("red", 1);
        wires.lay("blue", 2);
        wires
    }

    /// A wire named `name`, with the addresses 10.7.`number`.1 here and .2 there.
    fn lay(&self, name: &str, number: u8) {
        let there = format!("{name}-far");
        ip(&["link", "add", name, "netns", &self.host, "type", "veth", "peer", "name", &there, "netns", &self.peer]);
        for (place, link, last) in [(&self.host, name, 1), (&self.peer, there.as_str(), 2)] {
            ip(&["-n", place, "addr", "add", &format!("10.7.{number}.{last}/24"), "dev", link]);
            ip(&["-n", place, "link", "set", link, "up"]);
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Watches the TCP ports below 1024 with these words more.
    fn watch(&mut self, words: &[&str]) {
        let at = |name: &str| self.file(name).display().to_string();
        fs::write(self.file("ignore"), "").expect("a file");
        fs::write(
            self.file("conf"),
            format!("TCP_PORTS=\"1-1023\"\nIGNORE_FILE=\"{}\"\nHISTORY_FILE=\"{}\"\n", at("ignore"), at("history")),
        )
        .expect("a file");
        let out = fs::File::create(self.file("out")).expect("a file");
        let program = std::env::var_os("HARDEN_PORTSENTRY")
            .map_or_else(|| env!("CARGO_BIN_EXE_harden-portsentry").into(), PathBuf::from);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host]).arg(program).args(["daemon", "-c", &at("conf")]).args(words);
        self.daemon = Some(command.stdout(out).stderr(Stdio::inherit()).spawn().expect("ip starts"));
        self.wait("that it watches", || {
            fs::read_to_string(self.file("out")).is_ok_and(|text| text.contains("now active"))
        });
    }

    /// Asks for `port` of `address`, from the peer or from the host itself.
    fn ask(&self, place: &str, address: &str, port: u16) {
        let target = format!("timeout 2 bash -c '</dev/tcp/{address}/{port}'");
        run(&["netns", "exec", place, "bash", "-c", &target]);
    }

    fn told(&self, port: u16) -> bool {
        fs::read_to_string(self.file("history")).unwrap_or_default().contains(&format!("port: [{port}]"))
    }

    #[track_caller]
    fn wait(&self, what: &str, so: impl Fn() -> bool) {
        let start = Instant::now();
        while !so() {
            assert!(start.elapsed() < Duration::from_secs(20), "waited for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = kill_process(Pid::from_child(daemon), Signal::TERM);
            let _ = daemon.wait();
        }
        for place in [&self.host, &self.peer] {
            run(&["netns", "del", place]);
        }
    }
}

fn run(words: &[&str]) -> Output {
    Command::new("ip").args(words).output().expect("iproute2 is installed")
}

#[track_caller]
fn ip(words: &[&str]) {
    let output = run(words);
    assert!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn all_but_loopback_and_those_that_come_later() {
    let mut wires = Wires::new("nlo");
    wires.watch(&[]);
    wires.ask(&wires.host.clone(), "127.0.0.1", 1);
    wires.ask(&wires.peer, "10.7.1.1", 2);
    wires.ask(&wires.peer, "10.7.2.1", 3);
    wires.wait("both wires", || wires.told(2) && wires.told(3));
    wires.lay("late", 3);
    wires.ask(&wires.peer, "10.7.3.1", 4);
    wires.wait("the wire that came later", || wires.told(4));
    ip(&["-n", &wires.host, "addr", "add", "10.7.1.100/24", "dev", "red"]);
    wires.ask(&wires.peer, "10.7.1.100", 5);
    wires.wait("the address that came later", || wires.told(5));
    ip(&["-n", &wires.host, "link", "del", "red"]);
    wires.lay("red", 1);
    wires.ask(&wires.peer, "10.7.1.1", 6);
    wires.wait("the wire that went and came back", || wires.told(6));
    assert!(!wires.told(1), "loopback is not watched");
}

#[test]
fn loopback_by_choice() {
    let mut wires = Wires::new("all");
    // This host asks itself: source and destination are the same, which -L lets count.
    wires.watch(&["-i", "ALL", "-L"]);
    wires.ask(&wires.host.clone(), "127.0.0.1", 1);
    wires.ask(&wires.peer, "10.7.1.1", 2);
    wires.wait("loopback and the wire", || wires.told(1) && wires.told(2));
}

#[test]
fn named_ones_also_before_they_are_there() {
    let mut wires = Wires::new("named");
    wires.watch(&["-i", "red", "-i", "late"]);
    wires.ask(&wires.peer, "10.7.2.1", 1);
    wires.ask(&wires.peer, "10.7.1.1", 2);
    wires.wait("the named wire", || wires.told(2));
    wires.lay("late", 3);
    wires.ask(&wires.peer, "10.7.3.1", 3);
    wires.wait("the one that was not there yet", || wires.told(3));
    assert!(!wires.told(1), "blue was not named");
}

#[test]
fn a_bridge() {
    let mut wires = Wires::new("bridge");
    ip(&["-n", &wires.host, "link", "add", "br0", "type", "bridge"]);
    ip(&["-n", &wires.host, "addr", "flush", "dev", "red"]);
    ip(&["-n", &wires.host, "link", "set", "red", "master", "br0"]);
    ip(&["-n", &wires.host, "addr", "add", "10.7.1.1/24", "dev", "br0"]);
    ip(&["-n", &wires.host, "link", "set", "br0", "up"]);
    wires.watch(&["-i", "br0"]);
    wires.ask(&wires.peer, "10.7.1.1", 1);
    wires.wait("the bridge", || wires.told(1));
}

/// A link without frames, as a VPN has it.
#[test]
fn a_tun_device() {
    let mut wires = Wires::new("tun");
    let ends = [(&wires.host, 1, 2), (&wires.peer, 2, 1)];
    let mut carriers = Carriers(Vec::new());
    for (place, here, there) in ends {
        let tun = format!("TUN:10.7.9.{here}/24,tun-name=vpn,iff-no-pi,up");
        let wire = format!("UDP4-DATAGRAM:10.7.1.{there}:7000,bind=10.7.1.{here}:7000");
        let carrier = Command::new("ip").args(["netns", "exec", place, "socat", &tun, &wire]).spawn();
        carriers.0.push(carrier.expect("ip starts"));
        wires.wait("the tun device", || run(&["-n", place, "link", "show", "vpn"]).status.success());
    }
    wires.watch(&["-i", "vpn"]);
    wires.ask(&wires.peer, "10.7.9.1", 1);
    wires.wait("the tun device", || wires.told(1));
}

/// The processes at both ends of a tunnel.
struct Carriers(Vec<Child>);

impl Drop for Carriers {
    fn drop(&mut self) {
        for carrier in &mut self.0 {
            let _ = carrier.kill();
            let _ = carrier.wait();
        }
    }
}

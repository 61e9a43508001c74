//! Servers and clients that people run: busybox's httpd and curl, dropbear and ssh, chrony.

use std::path::PathBuf;
use std::process::Child;

use tempfile::TempDir;

use super::{CLIENT, HOST, Net, wait_until};

/// A server, until it is dropped.
pub struct Server {
    process: Child,
    /// Gone with it.
    _files: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(
        net: &Net,
        place: &str,
        program: &str,
        words: impl FnOnce(&dyn Fn(&str) -> String) -> Vec<String>,
    ) -> Server {
        let files = TempDir::new().expect("a temporary directory");
        let words = words(&|name: &str| files.path().join(name).display().to_string());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Server { process: net.spawn(place, program, &words), _files: files }
    }
}

/// An HTTP server; it listens, as the kernel of its place says.
pub fn web_server(net: &Net, place: &str, address: &str, port: u16) -> Server {
    let server = Server::start(net, place, "busybox", |at| {
        std::fs::write(at("page"), vec![b'x'; 20_000]).expect("a file");
        let at_home = at("page").trim_end_matches("/page").to_owned();
        ["httpd", "-f", "-p", &format!("{address}:{port}"), "-h", &at_home].map(str::to_owned).to_vec()
    });
    listens(net, place, port);
    server
}

/// An SSH server with a key of its own.
pub fn ssh_server(net: &Net, place: &str, address: &str) -> Server {
    let server = Server::start(net, place, "dropbear", |at| {
        let words = ["-t", "ed25519", "-f", &at("key")].map(str::to_owned);
        let made = std::process::Command::new("dropbearkey").args(words).output().expect("dropbear-bin is installed");
        assert!(made.status.success(), "{made:?}");
        ["-F", "-r", &at("key"), "-P", &at("pid"), "-p", &format!("{address}:22")].map(str::to_owned).to_vec()
    });
    listens(net, place, 22);
    server
}

fn listens(net: &Net, place: &str, port: u16) {
    let filter = format!("sport = :{port}");
    wait_until(&format!("{place} listening on {port}"), || {
        !net.run(place, "ss", &["-Hnltu", &filter]).trim().is_empty()
    });
}

/// Pages fetched over connections that are kept and used again, and some that the client leaves in the middle.
pub fn pages(net: &Net, place: &str, address: &str, port: u16, count: usize) -> usize {
    let url = format!("http://{address}:{port}/page");
    for number in 0..count {
        match number % 4 {
            // enough after 1,000 bytes
            0 => drop(net.output(place, "sh", &["-c", &format!("curl -s -m 10 {url} | head -c 1000")])),
            1 => drop(net.run(place, "curl", &["-s", "-m", "10", "-o", "/dev/null", "--http1.0", &url])),
            _ => drop(net.run(place, "curl", &["-s", "-m", "10", "-o", "/dev/null", "-o", "/dev/null", &url, &url])),
        }
    }
    count
}

/// Sessions that get as far as the question who is there, and looks at the server's keys.
pub fn ssh_sessions(net: &Net, place: &str, address: &str, count: usize) -> usize {
    for number in 0..count {
        if number % 2 == 0 {
            let keys = net.run(place, "ssh-keyscan", &["-T", "10", "-t", "ed25519", address]);
            assert!(keys.contains("ssh-ed25519"), "{keys}");
        } else {
            let user = format!("nobody@{address}");
            let options = ["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o"];
            let words = [&options[..], &["UserKnownHostsFile=/dev/null", &user, "true"]].concat();
            let answer = net.output(place, "ssh", &words);
            let said = String::from_utf8_lossy(&answer.stderr).into_owned();
            assert!(said.contains("Permission denied"), "{said}");
        }
    }
    count
}

/// chrony at both ends, each the other's peer, port 123 to port 123 some times a second; and clients of the host's. When
/// the host's has ended, the other one asks on. How many questions reached the host.
pub fn time(net: &Net, questions: u64) -> usize {
    net.nft(
        "host",
        "table inet clock {
            counter questions { }
            chain arrived { type filter hook prerouting priority raw; udp dport 123 counter name questions; }
        }",
    );
    let asked = || net.counter("host", "clock", "questions");
    // First, for whoever asks a host that has never served the time is a scanner.
    let here = chrony(net, "host", HOST, CLIENT);
    let there = chrony(net, "client", CLIENT, HOST);
    wait_until("chrony's questions to the host", || asked() >= questions);
    for _ in 0..3 {
        // asks, says how wrong the clock is, and ends; it removes what is called its pidfile
        let files = TempDir::new().expect("a temporary directory");
        let pid = format!("pidfile {}", files.path().join("pid").display());
        let server = format!("server {HOST} iburst maxsamples 1");
        let told = net.output("client", &chronyd(), &["-Q", "-u", "root", "-t", "20", &pid, &server]);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    }
    drop(here);
    let before = asked();
    wait_until("questions to a host whose chrony has ended", || asked() >= before + 8);
    drop(there);
    let all = asked();
    net.nft("host", "delete table inet clock");
    all as usize
}

/// Where it is: installed, or unpacked by tests/run, for Debian's package would start it here and set the clock.
fn chronyd() -> String {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap_or_default();
    let places = ["/usr/sbin".into(), cache.join("harden-portsentry/unpacked/usr/sbin")];
    let found = places.iter().map(|place| place.join("chronyd")).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no chronyd in {places:?}: tests/run unpacks it")).display().to_string()
}

fn chrony(net: &Net, place: &str, own: &str, other: &str) -> Server {
    let server = Server::start(net, place, &chronyd(), |at| {
        let lines = format!(
            "peer {other} minpoll -4 maxpoll -4\nlocal stratum 8\nallow\nbindaddress {own}\ncmdport 0\nbindcmdaddress /\npidfile {}\n",
            at("pid")
        );
        std::fs::write(at("conf"), lines).expect("a file");
        // -x: the clock is this machine's, and stays as it is
        ["-d", "-x", "-u", "root", "-f", &at("conf")].map(str::to_owned).to_vec()
    });
    listens(net, place, 123);
    server
}

//! Packets for benches/detection and benches/response: forged SYNs at a rate, timed probes, services and their clients, a
//! listener; the run time of threads; and addresses that are blocked already.

use std::io;
use std::process::exit;

mod blocks;
mod connect;
mod flood;
mod frame;
mod latency;
mod listen;
mod netns;
mod ping_pong;
mod runtime;
mod times;
mod until_blocked;
mod wire;

const HELP: &str = "\
generator flood   KEY=VALUE…   send SYNs; prints sent=, wall_ns=, cpu_ns=
    interface=IF mac=MAC to=IPV4   where to
    from=IPV4 sources=N            source number i is from + i; 1 if not said
    ports=A-B                      in turns, one port after the other when every source had it; default 1-1023
    without=P,P                    but not these
    count=N                        how many packets
    rate=N                         how many a second; 0, or not said: as fast as it goes
    cpu=N                          the CPU to stay on
    scanner=IPV4                   in the middle third every so many packets one is the scanner's instead:
    scanner_ports=A-B              each of these ports once, in equal steps
generator latency KEY=VALUE…   send single SYNs, each from a source of its own, and time the line in the history;
                               prints min_us=, median_us=, p95_us=, max_us=, seen=
    interface= mac= to= from= ports= without= count= cpu=   as above
    history=FILE
    limit_ms=N                     how long to wait for a line; 2000 if not said
generator until-blocked KEY=VALUE…
                               the same, and time the element or the rule of nftables with that source; prints the same
    interface= mac= to= from= ports= without= count= cpu= limit_ms=   as above
    host=FILE                      the network namespace in which it is blocked
    pause_ms=N                     between two of them; 20 if not said
generator ping-pong KEY=VALUE… datagrams to a service and back, both in this process; prints sent=, wall_ns=, cpu_ns=
    to=IPV4 host=FILE port=N       the service, and its network namespace; port 53 if not said
    from=IPV4 count=N cpu=N
generator connect   KEY=VALUE… connections to a service, with a request and its answer, both in this process; prints the same
    to= host= port= count= cpu=    as above; port 80 if not said
generator blocks KEY=VALUE…    print addresses that are blocked
    form=ledger|portsentry|iptables
    from=IPV4 count=N              address number i is from + i
    at=TIME until=TIME             for form=ledger
generator listen  PORT…        listen there, on IPv4 and IPv6, until killed; prints `listening`
generator runtime PID…         run time in ns, of all threads of these processes and of kernel threads; see runtime.rs
";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = words.split_first().unwrap_or_else(|| usage("what?"));
    let done = match command.as_str() {
        "flood" => flood::run(&Settings::parse(rest)),
        "latency" => latency::run(&Settings::parse(rest)),
        "until-blocked" => until_blocked::run(&Settings::parse(rest)),
        "ping-pong" => ping_pong::run(&Settings::parse(rest)),
        "connect" => connect::run(&Settings::parse(rest)),
        "blocks" => blocks::run(&Settings::parse(rest)),
        "listen" => listen::run(rest),
        "runtime" => runtime::run(rest),
        _ => usage(&format!("no command {command}")),
    };
    if let Err(error) = done {
        eprintln!("generator {command}: {error}");
        exit(1);
    }
}

fn usage(what: &str) -> ! {
    eprintln!("generator: {what}\n{HELP}");
    exit(64)
}

/// `key=value` words.
struct Settings(Vec<(String, String)>);

impl Settings {
    fn parse(words: &[String]) -> Self {
        let pair = |word: &String| {
            let (key, value) = word.split_once('=').unwrap_or_else(|| usage(&format!("not KEY=VALUE: {word}")));
            (key.to_owned(), value.to_owned())
        };
        Self(words.iter().map(pair).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn need(&self, key: &str) -> &str {
        self.get(key).unwrap_or_else(|| usage(&format!("{key}= is missing")))
    }

    fn number(&self, key: &str, default: u64) -> u64 {
        self.get(key)
            .map_or(default, |text| text.parse().unwrap_or_else(|_| usage(&format!("{key}={text}: no number"))))
    }

    fn address(&self, key: &str) -> u32 {
        let text = self.need(key);
        text.parse::<std::net::Ipv4Addr>().unwrap_or_else(|_| usage(&format!("{key}={text}: no address"))).into()
    }

    /// The ports of `key`, less those of `without`.
    fn ports(&self, key: &str) -> Vec<u16> {
        let text = self.get(key).unwrap_or("1-1023");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().unwrap_or_else(|_| usage(&format!("{text}: no port")));
        let not: Vec<u16> = self.get("without").into_iter().flat_map(|list| list.split(',')).map(port).collect();
        (port(first)..=port(last)).filter(|port| !not.contains(port)).collect()
    }
}

/// Stays on one CPU from here on.
fn pin(settings: &Settings) -> io::Result<()> {
    let Some(_) = settings.get("cpu") else { return Ok(()) };
    // SAFETY: a zeroed cpu_set_t is an empty one, and the kernel only reads it.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(settings.number("cpu", 0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

//! What a portsentry does, stated once and held against four programs: Debian's 1.2 and 2.0.7, and the embedded one
//! called as either. PORTSENTRY_UNDER_TEST names the one: 1.2, 2.0.7, embedded-1.2 or embedded-2.0; `tests/run` runs all.
//! Where one of them does otherwise, the test says what it does instead.

#[path = "../debian/bed.rs"]
#[allow(dead_code, unused_imports)]
mod bed;
mod connecting;
mod lives;
mod names;
mod options;
mod other_generation;
mod packets;
mod reload;
mod responses;
mod scanners;
mod services;
mod subject;
#[path = "../debian/tree.rs"]
#[allow(dead_code)]
mod tree;

use subject::{First, Generation, Subject};

/// The line about a probe in the log.
struct Told<'a> {
    source: &'a str,
    protocol: &'a str,
    port: u16,
    kind: &'a str,
    options: &'a str,
    /// ignored, triggered, noblock, blocked
    words: [&'a str; 4],
}

/// Triggered, and logged only.
const LOGGED: [&str; 4] = ["false", "true", "true", "false"];
/// Triggered, and blocked.
const BLOCKED: [&str; 4] = ["false", "true", "false", "true"];

impl Told<'_> {
    const SYN: Told<'static> = Told {
        source: "203.0.113.9",
        protocol: "TCP",
        port: 11,
        kind: "TCP SYN/Normal scan",
        options: "not set",
        words: BLOCKED,
    };

    fn line(&self, generation: Generation) -> String {
        let Told { source, protocol, port, kind, options, words: [ignored, triggered, noblock, blocked] } = self;
        if generation == First {
            let kind = match *kind {
                "UDP" => "UDP scan",
                "TCP NULL scan" => " TCP NULL scan",
                other => other,
            };
            return format!("attackalert: {kind} from host: {source}/{source} to {protocol} port: {port}");
        }
        format!(
            "Scan from: [{source}] ({source}) protocol: [{protocol}] port: [{port}] type: [{kind}] IP opts: [{options}] ignored: [{ignored}] triggered: [{triggered}] noblock: [{noblock}] blocked: [{blocked}]"
        )
    }

    fn history(&self, generation: Generation) -> String {
        let Told { source, protocol, port, .. } = self;
        match generation {
            First => format!("TIME Host: {source}/{source} Port: {port} {protocol} Blocked"),
            Generation::Second => format!("TIME {}", self.line(generation)),
        }
    }
}

/// That a host was blocked before, as each says it of a packet.
fn already(source: &str) -> String {
    format!("attackalert: Host: {source}/{source} is already blocked Ignoring")
}

fn told(subject: &Subject, lines: &[Told]) -> Vec<String> {
    lines.iter().map(|line| line.line(subject.generation)).collect()
}

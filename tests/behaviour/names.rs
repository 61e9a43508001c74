//! Names from DNS, which the scanner chooses: whatever he calls himself, a line stays one line about his address.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::subject::{COMMANDS, First, subject};

/// An address, what its name server answers, label by label, and what the embedded one makes of it (`None`: no name).
type Answer = (&'static str, &'static [&'static [u8]], Option<&'static str>);

const ANSWERS: [Answer; 4] = [
    ("203.0.113.9", &[b"scanner", b"example"], Some("scanner.example")),
    // A line for fail2ban that blocks somebody else, and for a terminal.
    (
        "203.0.113.10",
        &[b"a\n1795532234 - 11/24/2026 14:57:14 Host: x/198", b"51", b"100", b"7 Port: 1 TCP Blocked\n\x1b[2J\x07"],
        Some("a1795532234-11242026145714Hostx198.51.100.7Port1TCPBlocked2J"),
    ),
    // For a shell, and out of every bracket and quote.
    (
        "203.0.113.11",
        &[b"$(touch /t/pwned)`touch /t/pwned`;touch /t/pwned|&", b"') blocked: [true]\"\nScan from: [198", b"\xc3\xa4"],
        Some("touchtpwnedtouchtpwnedtouchtpwned.blockedtrueScanfrom198."),
    ),
    // The address of somebody else.
    ("203.0.113.12", &[b"198", b"51", b"100", b"7"], None),
];

#[test]
fn hostile_names() {
    let subject = subject();
    subject.configure(&format!("BLOCK_TCP=\"1\"\nSCAN_TRIGGER=\"0\"\n{COMMANDS}"));
    subject.resolve_by("192.168.66.9");
    let (ready, is_ready) = channel();
    let (end, ended) = channel::<()>();
    let network = subject.attackers_network();
    let server = std::thread::spawn(move || {
        let network = File::open(network).expect("a network namespace");
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
        let socket = UdpSocket::bind("192.168.66.9:53").expect("a free port");
        ready.send(()).expect("somebody waits");
        serve(&socket, || ended.try_recv().is_ok())
    });
    is_ready.recv().expect("a name server");
    subject.start();
    for (source, ..) in ANSWERS {
        subject.scan(source, "-sS -p 11");
    }
    subject.wait_until("all lines", || subject.history().len() >= ANSWERS.len());
    subject.stop();
    end.send(()).expect("the name server runs");
    let asked = server.join().expect("the name server ends");
    let all = ANSWERS.iter().map(|(source, ..)| (*source).to_owned()).collect();
    // 2.0.7 reads RESOLVE_HOST="1" and asks nobody.
    let asks = subject.generation == First || subject.embedded;
    assert_eq!(asked, if asks { all } else { BTreeSet::new() });

    let (log, history) = (subject.log(), subject.history());
    assert_eq!(history.len(), ANSWERS.len(), "{history:?}");
    for (source, _, cleaned) in ANSWERS {
        // The peers believe whoever calls himself an address; their C library takes no other odd name.
        let name = match source {
            _ if !asks => None,
            _ if subject.embedded => cleaned,
            "203.0.113.9" => cleaned,
            "203.0.113.12" => Some("198.51.100.7"),
            _ => None,
        };
        let name = name.unwrap_or(source);
        let (line, told) = if subject.generation == First {
            (
                format!("TIME Host: {name}/{source} Port: 11 TCP Blocked"),
                format!("from host: {name}/{source} to TCP port: 11"),
            )
        } else {
            (
                format!("TIME Scan from: [{source}] ({name}) protocol: [TCP]"),
                format!("Scan from: [{source}] ({name}) protocol: [TCP]"),
            )
        };
        assert_eq!(history.iter().filter(|found| found.starts_with(&line)).count(), 1, "{line}: {history:#?}");
        assert_eq!(log.iter().filter(|found| found.contains(&told)).count(), 1, "{told}: {log:#?}");
    }
    let odd = |text: &String| text.bytes().any(|byte| !(0x20..0x7f).contains(&byte));
    assert!(!log.iter().chain(&history).any(odd), "{log:?} {history:?}");
    let denied: Vec<String> = ANSWERS.iter().map(|(source, ..)| format!("ALL: {source} : DENY")).collect();
    assert_eq!(subject.denied(), denied);
    let done = ANSWERS.iter().flat_map(|(source, ..)| ["route", "run"].map(|what| format!("{what} {source} 11 ")));
    assert!(subject.ran().iter().zip(done).all(|(ran, wanted)| ran.starts_with(&wanted)), "{:?}", subject.ran());
    assert!(subject.run("test -e /t/pwned").status != 0, "a name was obeyed");
}

/// Answers questions for the names of addresses until `over`; the addresses that were asked for.
fn serve(socket: &UdpSocket, over: impl Fn() -> bool) -> BTreeSet<String> {
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
    let mut asked = BTreeSet::new();
    while !over() {
        let mut query = [0; 512];
        let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
        let query = &query[..length];
        let Some((source, labels, _)) = ANSWERS.iter().find(|(source, ..)| asks_for(query, source)) else {
            continue;
        };
        asked.insert((*source).to_owned());
        let name: Vec<u8> =
            labels.iter().flat_map(|label| [&[label.len() as u8], *label].concat()).chain([0]).collect();
        // The same identifier; an answer, with recursion; one question, one answer; behind the question, PTR in 60 seconds.
        let answer = [
            &query[..2],
            &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0],
            &query[12..question_end(query)],
            &[0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 60, 0, name.len() as u8],
            &name,
        ]
        .concat();
        let _ = socket.send_to(&answer, from);
    }
    asked
}

/// Whether it is about `D.C.B.A.in-addr.arpa`.
fn asks_for(query: &[u8], source: &str) -> bool {
    let labels = source.split('.').rev().chain(["in-addr", "arpa"]);
    let name: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    query.get(12..).is_some_and(|rest| rest.starts_with(&name))
}

/// Where the first question's name, type and class end.
fn question_end(query: &[u8]) -> usize {
    query.iter().skip(12).position(|&byte| byte == 0).map_or(query.len(), |end| (12 + end + 5).min(query.len()))
}

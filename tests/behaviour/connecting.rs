//! With sockets of its own: 1.2's -tcp and -udp, 2.0's --connect.

use crate::subject::{COMMANDS, First, Second, subject};
use crate::{BLOCKED, LOGGED, Told};

#[test]
fn connections_are_told_blocked_and_greeted() {
    let subject = subject();
    let more = format!("BLOCK_TCP=\"1\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\nPORT_BANNER=\"Go away\"\n{COMMANDS}");
    // Ports that no other test asks for: for a minute after, both peers take one for used where they closed a connection first.
    subject.configure_ports("901,902", "903", &more);
    subject.start_connecting();
    // It says nothing: a peer that closes with something unread resets, and its greeting may be lost.
    let connect = |port: u16| subject.attack(&format!("nc -d -w 3 -s 203.0.113.9 192.168.66.1 {port}")).stdout;
    let banner = connect(901);
    // 1.2 blocks before it greets; the command of this test blocks nobody, and still it sends nothing.
    assert!(banner.contains("Go away") || subject.generation == First && !subject.embedded, "{banner:?}");
    let tcp = Told { port: 901, kind: "Connect", options: "unknown", words: BLOCKED, ..Told::SYN };
    subject.wait_for("the connection", |log| log.contains(&tcp.line(subject.generation)));
    let greeted = subject.attack("echo x | nc -u -W 1 -w 5 -s 203.0.113.10 192.168.66.1 903").stdout;
    assert!(greeted.contains("Go away"), "{greeted:?}");
    let udp =
        Told { source: "203.0.113.10", protocol: "UDP", port: 903, kind: "Connect", options: "unknown", words: LOGGED };
    subject.wait_for("the datagram", |log| log.contains(&udp.line(subject.generation)));
    connect(902);
    let already = match subject.generation {
        First => "attackalert: Host: 203.0.113.9 is already blocked. Ignoring".to_owned(),
        Second => crate::already("203.0.113.9"),
    };
    subject.wait_for("that it is blocked already", |log| log.contains(&already));
    let mode = if subject.generation == First { "tcp" } else { "connect" };
    assert_eq!(subject.ran(), [format!("route 203.0.113.9 901 {mode}"), format!("run 203.0.113.9 901 {mode}")]);
}

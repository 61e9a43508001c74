//! With sockets of its own: 1.2's -tcp and -udp, 2.0's --connect.

use crate::subject::{COMMANDS, First, Second, subject};
use crate::{BLOCKED, LOGGED, Told};

#[test]
fn connections_are_told_blocked_and_greeted() {
    let subject = subject();
    let more = format!("BLOCK_TCP=\"1\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\nPORT_BANNER=\"Go away\"\n{COMMANDS}");
    subject.configure_ports("11,12", "13", &more);
    subject.start_connecting();
    let connect = |port: u16| subject.attack(&format!("echo | nc -N -w 3 -s 203.0.113.9 192.168.66.1 {port}")).stdout;
    let banner = connect(11);
    // 1.2 blocks before it greets; the command of this test blocks nobody, and still it sends nothing.
    assert!(banner.contains("Go away") || subject.generation == First && !subject.embedded, "{banner:?}");
    let tcp = Told { kind: "Connect", options: "unknown", words: BLOCKED, ..Told::SYN };
    subject.wait_for("the connection", |log| log.contains(&tcp.line(subject.generation)));
    let greeted = subject.attack("echo x | nc -u -W 1 -w 5 -s 203.0.113.10 192.168.66.1 13").stdout;
    assert!(greeted.contains("Go away"), "{greeted:?}");
    let udp =
        Told { source: "203.0.113.10", protocol: "UDP", port: 13, kind: "Connect", options: "unknown", words: LOGGED };
    subject.wait_for("the datagram", |log| log.contains(&udp.line(subject.generation)));
    connect(12);
    let already = match subject.generation {
        First => "attackalert: Host: 203.0.113.9 is already blocked. Ignoring".to_owned(),
        Second => crate::already("203.0.113.9"),
    };
    subject.wait_for("that it is blocked already", |log| log.contains(&already));
    let mode = if subject.generation == First { "tcp" } else { "connect" };
    assert_eq!(subject.ran(), [format!("route 203.0.113.9 11 {mode}"), format!("run 203.0.113.9 11 {mode}")]);
}

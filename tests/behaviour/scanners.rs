//! Who is a scanner: SCAN_PORTS and SCAN_WINDOW, keys of the embedded one.

use crate::subject::{COMMANDS, First, Second, subject};

#[test]
fn a_client_that_retries_is_none_and_one_that_asks_for_three_ports_is() {
    let subject = subject();
    let keys = "SCAN_TRIGGER=\"0\"\nSCAN_PORTS=\"3\"\nSCAN_WINDOW=\"300\"\n";
    subject.configure(&format!("{keys}BLOCK_TCP=\"1\"\nBLOCK_UDP=\"1\"\n{COMMANDS}"));
    if subject.generation == Second && !subject.embedded {
        // The line of SCAN_PORTS.
        subject.call("").exits(1).says("Invalid config file entry at line 8");
        return;
    }
    subject.start();
    let connect = |port: u16, times: u8| {
        subject.attack(&format!("for i in $(seq {times}); do nc -z -w 1 -s 203.0.113.9 192.168.66.1 {port}; done"))
    };
    if !subject.embedded {
        // 1.2 does not know the keys.
        connect(11, 1);
        subject.wait_until("the block", || subject.ran().len() == 2);
        return;
    }
    connect(11, 50);
    connect(12, 50);
    subject.scan("203.0.113.10", "-sS -p 13,13,14");
    subject.scan("203.0.113.12", "-sS -p 1000-1002");
    subject.wait_until("the block of one who asks for three", || subject.ran().len() == 2);
    assert!(subject.ran()[0].contains("203.0.113.12 100"), "two ports are no scan: {:?}", subject.ran());
    if subject.generation == Second {
        let told = subject.history();
        let untriggered = "triggered: [false] noblock: [unset] blocked: [unset]";
        // Two each, and two of the scanner's three.
        assert_eq!(told.iter().filter(|line| line.ends_with(untriggered)).count(), 6, "{told:?}");
    }
    // UDP counts as TCP does; 1.2's modes are a process each.
    let third = if subject.generation == First { "-z" } else { "-u" };
    subject.attack(&format!("echo x | nc {third} -w 1 -s 203.0.113.9 192.168.66.1 13"));
    subject.wait_until("the block", || subject.ran().len() == 4);
    assert!(subject.ran()[2].contains("203.0.113.9 13"), "{:?}", subject.ran());
}

//! A service of the host: sshd, as Debian runs it, and ssh.

use crate::bed::{seconds, wait_for};
use crate::subject::{First, subject};

const LOG_ONLY: &str = "BLOCK_TCP=\"0\"\nBLOCK_UDP=\"0\"\nSCAN_TRIGGER=\"0\"\n";

/// Its clients are not told while it runs. Those who come when it was stopped are, by 2.0.7; 1.2 has taken its port out
/// for as long as it runs itself, and the embedded one for a day.
#[test]
fn clients_of_sshd_before_and_after_it_is_stopped() {
    let subject = subject();
    subject.configure(LOG_ONLY);
    subject.start();
    let ssh = "ssh -F none -b 203.0.113.9 -o ConnectTimeout=5 -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@192.168.66.1 true";
    for _ in 0..3 {
        subject.attack(ssh).says("Permission denied");
    }
    // One that has a connection still when sshd is stopped, and sends more.
    let stale = "(sleep 0.1; while nc -z 192.168.66.1 22; do sleep 0.1; done; echo; sleep 0.2; echo) | nc -w 5 -s 203.0.113.9 192.168.66.1 22";
    let stopped = std::thread::scope(|scope| {
        let client = scope.spawn(|| subject.attack(stale).stdout);
        subject.wait_until("its connection", || {
            !subject.run("ss -Hnt state established sport = :22 dst 203.0.113.9").stdout.is_empty()
        });
        subject.ok("systemctl stop ssh.socket ssh.service; pkill -x sshd; pkill -x sshd-session; true");
        client.join().expect("a client")
    });
    assert!(stopped.contains("SSH-2.0"), "{stopped}");
    // 2.0.7 asks by a bind whether a port is in use, which what is left of a connection that sshd closed first forbids
    // for a minute.
    wait_for(seconds(90), "an end of sshd's connections", || subject.run("ss -Hnta sport = :22").stdout.is_empty());
    subject.attack(ssh).says("Connection refused");
    subject.settle();
    subject.ok("systemctl start ssh.service");
    let told: Vec<String> = subject
        .alerts()
        .into_iter()
        .filter(|line| line.contains("203.0.113.9") || line.contains("192.168.66.9"))
        .collect();
    let wanted = if subject.embedded || subject.generation == First { 0..=0 } else { 1..=20 };
    assert!(wanted.contains(&told.len()), "{told:?}");
}

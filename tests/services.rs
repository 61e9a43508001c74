//! Services that start and stop on watched ports: their clients are no scanners, before or after, and no longer than
//! somebody may still believe in the service. In network namespaces, as root, like tests/no_false_alarms.rs.

mod neighbourhood;

use neighbourhood::daemon::Daemon;
use neighbourhood::{HOST, Net, programs, scanner, tcp, wait_until};

/// A scan that the history has, behind all that was sent before it on the same link.
fn settle(net: &Net, daemon: &Daemon) {
    net.scan(&scanner(0), "1-20");
    wait_until("the scan in the history", || daemon.history().ports(&scanner(0), "TCP").len() == 20);
}

#[test]
fn clients_from_the_first_packet_to_long_after_the_last() {
    let net = Net::new("goes");
    let daemon = Daemon::watch(&net, "1-65535");
    for _ in 0..3 {
        let server = programs::web_server(&net, "host", HOST, 80);
        programs::pages(&net, "client", HOST, 80, 8);
        drop(server);
        for _ in 0..20 {
            assert_eq!(tcp::refused(&net, "client", HOST, 80..81), 1);
        }
    }
    settle(&net, &daemon);
    net.scan(&scanner(1), "80");
    settle(&net, &daemon);
    let others = daemon.history().about_others(&[scanner(0)]);
    assert!(others.is_empty(), "the port is remembered as a service's: {others:?}");

    // A day later, as the kernel counts it.
    let table = "inet harden_portsentry used_tcp";
    let remembered = net.run("host", "nft", &["list", "set", "inet", "harden_portsentry", "used_tcp"]);
    assert!(remembered.contains("80 timeout 1d expires 23h59m"), "{remembered}");
    net.nft("host", &format!("delete element {table} {{ 80 }}"));
    net.scan(&scanner(1), "80");
    wait_until("a scan of a port that no service uses any more", || {
        daemon.history().ports(&scanner(1), "TCP").contains(&80)
    });
}

/// Nobody had asked it since the daemon started.
#[test]
fn clients_of_an_idle_service_that_stops() {
    let net = Net::new("idle");
    let server = programs::web_server(&net, "host", HOST, 80);
    let daemon = Daemon::watch(&net, "1-65535");
    drop(server);
    assert_eq!(tcp::refused(&net, "client", HOST, 80..81), 1);
    settle(&net, &daemon);
    let others = daemon.history().about_others(&[scanner(0)]);
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn connections_older_than_the_daemon_whose_service_stops() {
    let net = Net::new("older");
    let older = tcp::Older::open(&net, 30);
    let daemon = Daemon::watch(&net, "1-65535");
    older.stop(&net);
    settle(&net, &daemon);
    let others = daemon.history().about_others(&[scanner(0)]);
    assert!(others.is_empty(), "{others:?}");
    let remembered = net.run("host", "nft", &["list", "set", "inet", "harden_portsentry", "used_tcp"]);
    assert!(remembered.contains("8087 timeout 1d"), "it listened when the daemon started: {remembered}");
}

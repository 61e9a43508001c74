//! METRICS_FILE: what Prometheus gets to know of scans, blocks and faults. In network namespaces, as root.

mod neighbourhood;

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::PermissionsExt;

use neighbourhood::daemon::Daemon;
use neighbourhood::home::Home;
use neighbourhood::{HOST, Net, scanner, wait_until};
use regex::Regex;

const FILE: &str = "/var/lib/node-exporter/harden-portsentry.prom";

/// A home with the collector's directory, and what the configuration says of it.
fn collected(more: &str) -> (Home, String) {
    let home = Home::new();
    std::fs::create_dir_all(home.path(FILE).parent().expect("a directory")).expect("a directory");
    (home, format!("METRICS_FILE=\"{FILE}\"\n{more}"))
}

/// The samples by name and labels. Anything that the text format, or promtool's lints, would not have is a failure.
fn parse(text: &str) -> BTreeMap<String, u64> {
    assert!(text.ends_with('\n') && !text.contains("\n\n"), "{text}");
    let head = Regex::new(r"^# (HELP|TYPE) (harden_portsentry_[a-z_]+) (\S.*)$").expect("a pattern");
    let sample = Regex::new(r#"^((harden_portsentry_[a-z_]+)(?:\{[a-z]+="[a-z_]+"\})?) (\d+)$"#).expect("a pattern");
    let (mut samples, mut families) = (BTreeMap::new(), HashSet::new());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let help = head.captures(line).unwrap_or_else(|| panic!("no HELP: {line}"));
        let kind = lines.next().and_then(|line| head.captures(line)).unwrap_or_else(|| panic!("no TYPE after {line}"));
        assert_eq!((&help[1], &kind[1], &help[2]), ("HELP", "TYPE", &kind[2]), "{line}");
        let family = &kind[2];
        assert!(families.insert(family.to_owned()), "{family} twice");
        assert_eq!(&kind[3], if family.ends_with("_total") { "counter" } else { "gauge" }, "{family}");
        let mut count = 0;
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let found = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
            assert_eq!(&found[2], family);
            let before = samples.insert(found[1].to_owned(), found[3].parse().expect("a number"));
            assert_eq!(before, None, "{line} twice");
            count += 1;
        }
        assert!(count > 0, "{family} has no sample");
    }
    samples
}

fn samples(home: &Home) -> BTreeMap<String, u64> {
    parse(&home.read(FILE))
}

fn value(samples: &BTreeMap<String, u64>, name: &str) -> u64 {
    *samples.get(&format!("harden_portsentry_{name}")).unwrap_or_else(|| panic!("no {name}: {samples:?}"))
}

#[test]
fn what_was_scanned_is_counted() {
    let net = Net::new("counted");
    let (home, metrics) = collected("");
    let daemon = Daemon::at_home(&net, &home, "1-1023", &metrics);
    wait_until("the file", || home.path(FILE).exists());
    // But for what waits just then.
    let counts = |(name, value): (String, u64)| (!name.contains("queue_length")).then_some(value);
    assert!(samples(&home).into_iter().filter_map(counts).all(|value| value == 0), "{}", home.read(FILE));
    let mode = home.path(FILE).metadata().expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);

    let scans = [("syn", "-sS", "TCP"), ("fin", "-sF", "TCP"), ("udp", "-sU", "UDP")];
    for (number, (_, word, protocol)) in scans.into_iter().enumerate() {
        let source = scanner(number);
        let words = [word, "-Pn", "-n", "--max-retries", "2", "-p", "1-20", "-S", &source, "-e", "lan", HOST];
        net.run("client", "nmap", &words);
        wait_until("the scan", || daemon.history().ports(&source, protocol).len() == 20);
    }
    net.scan(&scanner(0), "1-20");
    wait_until("the scans in the file", || value(&samples(&home), "packets_total") == 60);
    // The end of the daemon writes what is left.
    drop(daemon);
    let samples = samples(&home);
    for (kind, ..) in scans {
        assert_eq!(value(&samples, &format!("scans_total{{kind=\"{kind}\"}}")), 20, "{samples:?}");
    }
    let of_scans = |(name, _): &(&String, &u64)| name.starts_with("harden_portsentry_scans_total");
    assert_eq!(samples.iter().filter(of_scans).map(|(_, value)| value).sum::<u64>(), 60, "{samples:?}");
    assert!(value(&samples, "repeats_total") >= 20, "a scan that was repeated: {samples:?}");
    for nothing in ["packet_losses_total", "blocked_hosts", "lines_left_out", "lines_lost_total", "ledger_failing"] {
        assert_eq!(value(&samples, nothing), 0, "{nothing}: {samples:?}");
    }
}

#[test]
fn blocks_and_tables_that_somebody_took_away_are_counted() {
    let net = Net::new("faults");
    let (home, metrics) = collected("BLOCK_TCP=\"1\"\nKILL_NFT=\"drop\"\n");
    home.write("/etc/harden-portsentry/policy.toml", &format!("safe = [\"{}\"]\n[block]\nin_all = 2\n", scanner(0)));
    let daemon = Daemon::at_home(&net, &home, "1-1023", &metrics);
    // One is safe, one finds room, the next is a stranger for whom there is none.
    for number in 0..3 {
        net.scan(&scanner(number), "1");
        wait_until("the scan", || !daemon.history().ports(&scanner(number), "TCP").is_empty());
    }
    net.nft("host", "flush ruleset");
    let back = "is loaded again";
    wait_until("both tables", || daemon.said().lines().filter(|line| line.contains(back)).count() == 2);
    drop(daemon);
    let samples = samples(&home);
    for (name, wanted) in [
        ("blocks_total{outcome=\"blocked\"}", 1),
        ("blocked_hosts", 1),
        ("table_restores_total{table=\"packets\"}", 1),
        ("table_restores_total{table=\"blocks\"}", 1),
    ] {
        assert_eq!(value(&samples, name), wanted, "{name}: {samples:?}");
    }
    for outcome in ["limited", "refused"] {
        assert!(value(&samples, &format!("blocks_total{{outcome=\"{outcome}\"}}")) > 0, "{outcome}: {samples:?}");
    }
}

/// A directory that is not there is told once, and costs nothing else; a reload can bring the file, or another one.
#[test]
fn where_it_is_written_can_be_changed_while_it_watches() {
    let net = Net::new("where");
    let home = Home::new();
    let daemon = Daemon::at_home(&net, &home, "1-1023", &format!("METRICS_FILE=\"{FILE}\"\n"));
    wait_until("that it says so", || daemon.said().contains(&format!("cannot write the metrics {FILE}")));
    net.scan(&scanner(0), "1-20");
    wait_until("the scan", || daemon.history().ports(&scanner(0), "TCP").len() == 20);
    std::fs::create_dir_all(home.path(FILE).parent().expect("a directory")).expect("a directory");
    net.scan(&scanner(1), "1-20");
    wait_until("the file", || home.path(FILE).exists());
    let other = FILE.replace("harden", "other");
    daemon.configure(&format!("METRICS_FILE=\"{other}\"\n"));
    daemon.signal(rustix::process::Signal::HUP);
    wait_until("the other file", || home.path(&other).exists() && !home.path(FILE).exists());
    daemon.configure("");
    daemon.signal(rustix::process::Signal::HUP);
    wait_until("none", || !home.path(&other).exists());
}

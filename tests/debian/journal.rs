//! What journalctl tells of the embedded one.

use crate::bed::{Bed, HOST, OTHER_OUTSIDER, OUTSIDER, Suite, seconds, wait_for};

/// A scan's entry has fields, and every line is what it is elsewhere. While journald does not run, nothing is held up.
pub fn entries_have_fields(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    let entries = || -> Vec<serde_json::Value> {
        let text = bed.ok("journalctl -u harden-portsentry -o json --no-pager");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let of = |entry: &serde_json::Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let is_scan = |entry: &serde_json::Value| of(entry, "PORTSENTRY_SOURCE") == OUTSIDER;
    wait_for(seconds(20), "the scan in the journal", || entries().iter().any(is_scan));
    let all = entries();
    let scan = all.iter().find(|entry| is_scan(entry)).expect("it was there");
    for (field, wanted) in [
        ("PORTSENTRY_PROTOCOL", "TCP"),
        ("PORTSENTRY_KIND", "syn"),
        ("PORTSENTRY_BLOCKED", "true"),
        ("PORTSENTRY_RULE", "first probe"),
        ("PRIORITY", "5"),
        ("SYSLOG_IDENTIFIER", "harden-portsentry"),
        ("_SYSTEMD_UNIT", "harden-portsentry.service"),
        ("_TRANSPORT", "journal"),
    ] {
        assert_eq!(of(scan, field), wanted, "{field}: {scan}");
    }
    let line = format!("Scan from: [{OUTSIDER}] ({OUTSIDER}) protocol: [TCP] port: [{}] ", of(scan, "PORTSENTRY_PORT"));
    assert!(of(scan, "MESSAGE").starts_with(&line), "{scan}");
    // The history has the line behind its time.
    let history = bed.read(suite.history());
    assert!(history.lines().any(|told| told.ends_with(&format!(" {}", of(scan, "MESSAGE")))), "{history}");
    let said = |words: &str| all.iter().position(|entry| of(entry, "MESSAGE").contains(words));
    assert!(said("is now active and listening") < said(&line), "in order");

    bed.ok("systemctl kill --signal=STOP systemd-journald");
    // Whichever port nmap asks for first: the block is before the others.
    let told = || bed.read(suite.history()).contains(&format!("from: [{OTHER_OUTSIDER}]"));
    bed.attack(&format!("nmap -sN -Pn -n --max-retries 0 -p 700-720 -S {OTHER_OUTSIDER} -e wire {HOST}")).succeeds();
    wait_for(seconds(20), "the history of a scan that the journal does not take", told);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    bed.ok("systemctl kill --signal=CONT systemd-journald");
    wait_for(seconds(60), "the journal's turn", || {
        bed.run(&format!("journalctl PORTSENTRY_SOURCE={OTHER_OUTSIDER} -o cat --no-pager"))
            .stdout
            .contains("[TCP NULL scan]")
    });
}

//! The engine: Debian's portsentry, or the one built into this program, and the way from one to the other.

mod fixture;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fixture::{ALL, Fixture, Node, run, same};

const POLICY: &str = "/etc/harden-portsentry/policy.toml";
const CONF: &str = "/etc/harden-portsentry/portsentry.conf";
const LIST: &str = "/etc/harden-portsentry/portsentry.ignore";
const UNIT: &str = "/etc/systemd/system/harden-portsentry.service";
const HISTORY: &str = "/var/log/harden-portsentry/portsentry.log";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/harden-portsentry.service";

/// A fixture whose policy wants the embedded engine.
fn embedded(debian: u32) -> Fixture {
    let fixture = Fixture::debian(debian);
    fixture.write(POLICY, "engine = \"embedded\"\n");
    fixture
}

/// And one on which Debian's portsentry never was.
fn without_the_package(debian: u32) -> Fixture {
    let fixture = embedded(debian);
    let status = fixture.text("/var/lib/dpkg/status");
    let kept: Vec<&str> =
        status.split("\n\n").filter(|paragraph| !paragraph.starts_with("Package: portsentry\n")).collect();
    assert_eq!(kept.len() + 1, status.split("\n\n").count());
    fixture.write("/var/lib/dpkg/status", kept.join("\n\n"));
    fs::remove_dir_all(fixture.path("/etc/portsentry")).expect("the fixture has it");
    for file in ["/etc/default/portsentry", "/etc/init.d/portsentry", "/etc/rc2.d/S01portsentry"] {
        let _ = fs::remove_file(fixture.path(file));
    }
    for unit in ["portsentry.service", "portsentry@.service"] {
        let _ = fs::remove_file(fixture.path(&format!("/lib/systemd/system/{unit}")));
    }
    let _ = fs::remove_file(fixture.path("/etc/systemd/system/multi-user.target.wants/portsentry.service"));
    fixture
}

/// The active lines of a configuration, by key; each stands there once.
fn active(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once("=\"").expect("KEY=\"value\"");
        let value = value.strip_suffix('"').expect("a closing quote");
        assert!(found.insert(key.to_owned(), value.to_owned()).is_none(), "{key} is doubled:\n{text}");
    }
    found
}

fn is_enabled(fixture: &Fixture) -> bool {
    fs::read_link(fixture.path(WANTED)).is_ok_and(|target| target == Path::new(UNIT))
}

/// Whether Debian's portsentry starts at boot.
fn package_is_enabled(fixture: &Fixture) -> bool {
    let place = match fixture.debian {
        12 => "/etc/rc2.d/S01portsentry",
        13 => "/etc/systemd/system/multi-user.target.wants/portsentry@atcp.service",
        _ => "/etc/systemd/system/multi-user.target.wants/portsentry.service",
    };
    fixture.path(place).is_symlink()
}

/// Without what is only a directory: an empty one that stays behind changes nothing.
fn files(fixture: &Fixture) -> BTreeMap<PathBuf, Node> {
    let mut tree = fixture.tree();
    tree.retain(|_, node| !matches!(node, Node::Directory(_)));
    tree
}

#[test]
fn the_embedded_engine_gets_a_configuration_a_list_and_a_unit_of_its_own() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        fixture.run(&["apply", "--yes", "--engine", "embedded"]).exits(0);

        let conf = active(&fixture.text(CONF));
        let keys: Vec<&str> = conf.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "BLOCK_TCP",
                "BLOCK_UDP",
                "HISTORY_FILE",
                "IGNORE_FILE",
                "KILL_NFT",
                "RESOLVE_HOST",
                "TCP_PORTS",
                "UDP_PORTS"
            ]
        );
        assert_eq!(conf["IGNORE_FILE"], LIST);
        assert_eq!(conf["HISTORY_FILE"], HISTORY);
        assert_eq!(conf["TCP_PORTS"], "1-112,114-138,140-1023");
        assert!(conf["UDP_PORTS"].starts_with("1-66,69-122,"), "{conf:?}");
        assert_eq!([&conf["BLOCK_TCP"], &conf["BLOCK_UDP"], &conf["RESOLVE_HOST"]], ["1"; 3]);
        assert_eq!(conf["KILL_NFT"], "drop");
        assert!(fixture.text("/etc/hosts.deny").contains("\nALL: /var/lib/harden-portsentry/denied\n"));

        let list = fixture.text(LIST);
        assert!(list.contains("\n192.168.1.0/24\n") && list.contains("\n192.0.2.53/32\n"), "{list}");
        let unit = fixture.text(UNIT);
        assert!(unit.contains(&format!("\nExecStart=/usr/local/sbin/harden-portsentry daemon -c {CONF}\n")), "{unit}");
        assert!(unit.contains("\nType=notify\n"), "{unit}");
        assert!(is_enabled(&fixture));
        let jail = fixture.text("/etc/fail2ban/jail.d/portsentry.conf");
        assert!(jail.contains(&format!("\nlogpath = {HISTORY}\n")), "{jail}");
        assert!(fixture.text("/etc/logrotate.d/harden-portsentry").contains(&format!("\n{HISTORY} {{\n")));
        assert!(fixture.text("/etc/hosts.allow").contains("\nALL: 192.168.1.0/24\n"));
    }
}

/// The watcher is not root, and reaches its files whatever root's shell keeps from others.
#[test]
fn the_umask_of_who_applies_closes_nothing_to_the_watcher() {
    let fixture = Fixture::debian(12);
    let (program, root) = (fixture.path("/usr/local/sbin/harden-portsentry"), fixture.root().to_str().expect("a path"));
    let words = ["-c", "umask 077; exec \"$@\"", "sh", program.to_str().expect("a path")];
    let apply = ["apply", "--yes", "--engine", "embedded", "--root", root];
    run(Path::new("/bin/sh"), &[&words[..], &apply].concat(), &[]).exits(0);
    for directory in ["/etc/harden-portsentry", "/var/lib/harden-portsentry", "/etc/systemd/system/nftables.service.d"]
    {
        let mode = fixture.path(directory).metadata().expect("apply made it").permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{directory}");
    }
    fixture.run(&["diff"]).exits(0).says_not("is closed to").says_not("cannot be read");
    fixture.chmod("/etc/harden-portsentry", 0o750);
    fixture
        .run(&["diff"])
        .exits(0)
        .says("/etc/harden-portsentry is closed to the user harden-portsentry")
        .says("chmod o+x");
    fixture.chmod("/etc/harden-portsentry", 0o755);
    fixture.chmod(LIST, 0o640);
    fixture.run(&["diff"]).exits(0).says(&format!("{LIST} cannot be read by the user harden-portsentry"));
}

/// Root makes nothing at the end of a link in a directory that another user writes.
#[test]
fn a_link_in_the_watchers_directory_is_not_followed() {
    let fixture = embedded(12);
    fs::create_dir_all(fixture.path("/var/log/harden-portsentry")).expect("a directory");
    symlink("/etc/cron.d/mine", fixture.path(HISTORY)).expect("a link");
    fixture.run(&["apply", "--yes"]).exits(1).says(&format!("cannot make {HISTORY}"));
    assert!(!fixture.path("/etc/cron.d/mine").exists());
}

/// It has keys that Debian's refuses.
#[test]
fn what_an_administrator_set_for_the_embedded_engine_stays() {
    let fixture = embedded(12);
    fixture.apply();
    let ours = "SCAN_PORTS=\"3\"\nSCAN_WINDOW=\"60\" # seconds\nSCAN_TRIGGER=\"2\"\nMETRICS_FILE=\"/m/p.prom\"\n";
    fixture.append(CONF, ours);
    fixture.run(&["diff"]).exits(0);
    assert!(fixture.text(CONF).ends_with(ours));
    fixture.append(CONF, "SCAN_PROTS=\"3\"\n");
    fixture.refuses(&[CONF, "SCAN_PROTS", "did you mean SCAN_PORTS?"]);
}

#[test]
fn debians_portsentry_is_not_started_any_more_and_keeps_its_files() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        fixture.apply();
        assert!(package_is_enabled(&fixture));
        let of_the_package = |fixture: &Fixture| {
            let mut tree = fixture.tree();
            tree.retain(|path, _| path.starts_with("etc/portsentry") || path.starts_with("etc/default"));
            tree
        };
        let before = of_the_package(&fixture);
        fixture.write(POLICY, "engine = \"embedded\"\n");
        fixture.run(&["diff"]).exits(2).says("disable portsentry");
        fixture.apply();
        assert!(!package_is_enabled(&fixture) && is_enabled(&fixture));
        same(&before, &of_the_package(&fixture), "its files are the package's (left: before)");
    }
}

#[test]
fn a_second_apply_of_the_embedded_engine_changes_nothing() {
    for debian in ALL {
        for fixture in [embedded(debian), without_the_package(debian)] {
            fixture.apply();
            let before = fixture.stamps();
            fixture.run(&["apply", "--yes"]).exits(0).says("Nothing to change");
            fixture.run(&["diff"]).exits(0).says("Nothing to change");
            same(&before, &fixture.stamps(), "the second apply writes nothing (left: before)");
        }
    }
}

#[test]
fn diff_shows_what_apply_then_writes() {
    for debian in ALL {
        let fixture = embedded(debian);
        let report = fixture.run(&["diff", "--format", "json"]).exits(2).json();
        fixture.apply();
        let shown: BTreeMap<&str, &str> = report["files"]
            .as_array()
            .expect("files")
            .iter()
            .map(|file| (file["path"].as_str().expect("a path"), file["after"]["text"].as_str().expect("a text")))
            .collect();
        for path in [CONF, LIST, UNIT, "/etc/fail2ban/jail.d/portsentry.conf"] {
            assert_eq!(shown.get(path), Some(&fixture.text(path).as_str()), "{path}");
        }
        assert!(!shown.keys().any(|path| path.starts_with("/etc/portsentry")), "{:?}", shown.keys());
    }
}

#[test]
fn undo_takes_the_embedded_engine_back_and_debians_portsentry_starts_again() {
    for debian in ALL {
        for fixture in [embedded(debian), without_the_package(debian)] {
            let before = fixture.tree();
            fixture.apply();
            assert!(fixture.tree() != before);
            fixture.run(&["undo", "--yes"]).exits(0);
            same(&before, &fixture.tree(), "undo restores everything (left: before apply)");
        }
    }
}

#[test]
fn the_engine_can_be_changed_and_changed_back() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let before = fixture.tree();
        fixture.apply();
        let first = files(&fixture);
        fixture.write(POLICY, "engine = \"embedded\"\n");
        fixture.apply();
        assert!(is_enabled(&fixture) && !package_is_enabled(&fixture));

        fixture.write(POLICY, "engine = \"package\"\n");
        fixture.run(&["diff"]).exits(2).says("disable harden-portsentry").says(&format!("remove {UNIT}"));
        fixture.apply();
        fs::remove_file(fixture.path(POLICY)).expect("it is ours");
        let mut third = files(&fixture);
        // what the embedded engine caught is a record, and stays
        assert!(third.remove(Path::new(HISTORY.trim_start_matches('/'))).is_some());
        same(&first, &third, "nothing of the embedded engine is left (left: before it)");

        fixture.run(&["undo", "2", "--yes"]).exits(0);
        same(&first, &files(&fixture), "the way there and back is taken back (left: before it)");
        fixture.run(&["undo", "1", "--yes"]).exits(0);
        let _ = fs::remove_dir(fixture.path("/etc/harden-portsentry")); // of the policy, which the test wrote
        same(&before, &fixture.tree(), "all of it is taken back (left: before the first apply)");
    }
}

/// Whom our own file shuts out is freed by a command, and no line of hosts.deny is to be removed.
#[test]
fn a_safe_address_in_the_file_of_who_is_blocked_is_to_be_unblocked() {
    let fixture = embedded(12);
    fixture.apply();
    fixture.write("/var/lib/harden-portsentry/denied", "192.0.2.53\n");
    let verify = || fixture.run(&["verify"]).exits(2).says("TCP wrappers shut out 192.0.2.53/32");
    verify().says("harden-portsentry unblock ADDRESS").says_not("remove that line");
    fixture.append("/etc/hosts.deny", "ALL: 192.0.2.53\n");
    verify().says("remove that line if it is an old block");
}

/// Without commands and without stock jails of fail2ban nothing calls it.
#[test]
fn iptables_is_wanted_by_those_only_who_call_it() {
    let fixture = embedded(12);
    let status = fixture.text("/var/lib/dpkg/status");
    let without: Vec<&str> =
        status.split("\n\n").filter(|paragraph| !paragraph.starts_with("Package: iptables\n")).collect();
    assert_eq!(without.len() + 1, status.split("\n\n").count());
    fixture.write("/var/lib/dpkg/status", without.join("\n\n"));
    fixture.write(POLICY, "engine = \"embedded\"\nfail2ban = false\n");
    fixture.apply();
    fixture.run(&["verify"]).says("nftables is installed, with which the embedded portsentry works");
}

/// The daemon reads policy.toml in its place, whatever file apply was told.
#[test]
fn terms_in_a_policy_elsewhere_are_said_to_be_without_effect() {
    let fixture = embedded(12);
    fixture.write("/srv/policy.toml", "engine = \"embedded\"\n[block]\nfirst = \"1h\"\n");
    let named = fixture.path("/srv/policy.toml");
    let diff = || fixture.run(&["diff", "--policy", named.to_str().expect("a path")]).exits(2);
    diff().says("policy.toml is without effect: blocks go by /etc/harden-portsentry/policy.toml");
    fixture.write(POLICY, "[block]\nfirst = \"1h\"\n");
    diff().says_not("is without effect");
}

/// The ledger knows only whom it blocked; lines of before it stay, and that is said with what to do.
#[test]
fn whom_another_portsentry_denied_before_is_named() {
    let fixture = embedded(12);
    fixture.append("/etc/hosts.deny", "ALL: 203.0.113.9 : DENY\nALL: [2001:db8::9] : DENY\nsshd: 198.51.100.7\n");
    let before = "until you remove them: 203.0.113.9; 2001:db8::9";
    fixture.run(&["diff"]).exits(2).says("/etc/hosts.deny has lines as Debian's portsentry writes them").says(before);
    fixture.run(&["diff", "--engine", "package"]).exits(2).says(before);
    fixture.apply();
    // Whoever wants such lines has them.
    fixture.append(CONF, "KILL_HOSTS_DENY=\"ALL: $TARGET$ : DENY\"\n");
    fixture.run(&["diff", "-v"]).exits(0).says_not("as Debian's portsentry");
}

/// Which engine a command without `--engine` takes, and why it is not Debian's.
fn of_itself(fixture: &Fixture) -> (String, Option<String>) {
    let engine = &fixture.run(&["diff", "--format", "json"]).json()["engine"];
    assert_eq!(engine["asked"], "auto");
    (engine["chosen"].as_str().expect("a name").to_owned(), engine["fallback"].as_str().map(str::to_owned))
}

#[test]
fn the_embedded_engine_is_asked_for_once_and_stays_till_another_is() {
    let package = || ("package".to_owned(), None);
    let embedded = || ("embedded".to_owned(), Some("an earlier apply set up the embedded one".to_owned()));
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        assert_eq!(of_itself(&fixture), package());
        fixture.run(&["apply", "--yes", "--engine", "embedded"]).exits(0);
        assert_eq!(of_itself(&fixture), embedded());
        fixture.run(&["diff", "-v"]).exits(0).says("so it stays; --engine package changes over to Debian's");
        fixture.apply().says("Nothing to change");
        assert!(is_enabled(&fixture) && !package_is_enabled(&fixture));

        fixture.run(&["diff", "--engine", "package"]).exits(2).says(&format!("remove {UNIT}"));
        fixture.run(&["apply", "--yes", "--engine", "package"]).exits(0);
        assert_eq!(of_itself(&fixture), package());
        fixture.apply().says("Nothing to change");
        assert!(!is_enabled(&fixture) && package_is_enabled(&fixture));

        fixture.run(&["undo", "--yes"]).exits(0);
        assert_eq!(of_itself(&fixture), embedded(), "undo brings the embedded one back");
        fixture.run(&["undo", "--yes"]).exits(0);
        assert_eq!(of_itself(&fixture), package(), "and a second one what was before it");
    }
}

/// What is lost of the embedded engine is mended, and is no reason to change over.
#[test]
fn either_of_unit_and_boot_link_tells_that_the_embedded_engine_was_set_up() {
    for lost in [UNIT, WANTED] {
        let fixture = Fixture::debian(13);
        fixture.run(&["apply", "--yes", "--engine", "embedded"]).exits(0);
        fs::remove_file(fixture.path(lost)).expect("apply made it");
        assert_eq!(of_itself(&fixture).0, "embedded", "without {lost}");
        fixture.apply();
        assert!(fixture.path(UNIT).exists() && is_enabled(&fixture));
    }
}

/// A unit of that name that somebody else wrote says nothing about us.
#[test]
fn another_ones_unit_of_the_same_name_does_not_count() {
    let fixture = Fixture::debian(14);
    fixture.write(UNIT, "[Service]\nExecStart=/bin/true\n");
    assert_eq!(of_itself(&fixture), ("package".to_owned(), None));
}

#[test]
fn what_others_wrote_into_the_embedded_engines_files_is_kept() {
    let fixture = embedded(12);
    fixture.apply();
    fixture.append(LIST, "203.0.113.20/32\n");
    fixture.append(CONF, "SCAN_TRIGGER=\"2\"\n");
    let env = fixture.text("/root/config.env");
    fixture.write("/root/config.env", env.replace("192.168.1.5", "192.168.7.5"));
    fixture.apply();
    let list = fixture.text(LIST);
    assert!(list.contains("\n192.168.7.0/24\n") && !list.contains("192.168.1.0/24"), "{list}");
    assert!(list.ends_with("\n203.0.113.20/32\n"), "{list}");
    assert_eq!(active(&fixture.text(CONF))["SCAN_TRIGGER"], "2");

    fixture.write(POLICY, "engine = \"package\"\n");
    fixture.apply();
    assert!(!fixture.path(CONF).exists() && !fixture.path(UNIT).exists());
    let list = fixture.text(LIST);
    assert!(list.contains("203.0.113.20/32") && !list.contains("192.168.7.0/24"), "{list}");
}

#[test]
fn a_line_that_the_embedded_engine_could_not_read_is_refused() {
    let fixture = embedded(14);
    fixture.apply();
    let line = fixture.text(CONF).lines().count() + 1;
    fixture.append(CONF, "ADVANCED_PORTS_TCP=\"1024\"\nBLOCK_TCP\n");
    fixture.refuses(&[CONF, &format!("line {}", line + 1), "nothing was changed"]);
}

#[test]
fn the_report_says_which_engine_was_asked_for_and_which_watches() {
    for (debian, generation) in [(12, "1.2-sysv"), (13, "1.2-units"), (14, "2.0")] {
        let fixture = Fixture::debian(debian);
        let engine = |words: &[&str]| {
            let report = fixture.run(&[words, &["--format", "json"]].concat()).json();
            let engine = &report["engine"];
            assert!(engine["fallback"].is_null(), "{engine}");
            let of = |name: &str| engine[name].as_str().expect("a name").to_owned();
            (of("asked"), of("chosen"), report["host"]["generation"].as_str().expect("a name").to_owned())
        };
        let is = |asked: &str, chosen: &str, generation: &str| (asked.into(), chosen.into(), generation.into());
        assert_eq!(engine(&["diff"]), is("auto", "package", generation), "where the package is, auto is the package");
        assert_eq!(engine(&["diff", "--engine", "package"]), is("package", "package", generation));
        assert_eq!(engine(&["diff", "--engine", "embedded"]), is("embedded", "embedded", "embedded"));
        fixture.run(&["diff", "--engine", "embedded"]).exits(2).says("embedded --engine");
    }
}

/// portsentry 1.2 is blind to IPv6 and waits for the scanner's name server; the embedded engine does neither.
#[test]
fn the_limits_of_1_2_are_not_told_of_the_embedded_engine() {
    let fixture = embedded(12);
    let package = fixture.run(&["diff", "-v", "--engine", "package"]).exits(2);
    package.says("the block waits for the scanner");
    fixture.run(&["diff", "-v"]).exits(2).says_not("the block waits for the scanner");
    fixture.apply();
    let report = fixture.run(&["verify", "--format", "json"]).exits(0).json();
    let checks = report["checks"].as_array().expect("checks");
    let of = |id: &str| checks.iter().find(|check| check["id"] == id).map(|check| check["outcome"].clone());
    for id in ["package", "configured-service", "ignore-list", "daemon-enabled", "hosts-allow"] {
        assert_eq!(of(id), Some("ok".into()), "{id}: {checks:#?}");
    }
    assert!(of("sees-ipv6").is_none() && of("sees-scans").is_none());
}

#[test]
fn verify_notices_what_the_embedded_engine_has_lost() {
    for (lost, id) in
        [(UNIT, "configured-service"), (WANTED, "daemon-enabled"), (LIST, "ignore-list"), (CONF, "configured-blocking")]
    {
        let fixture = embedded(13);
        fixture.apply();
        fs::remove_file(fixture.path(lost)).expect("apply made it");
        let report = fixture.run(&["verify", "--format", "json"]).exits(2).json();
        let failed = |check: &serde_json::Value| check["id"] == id && check["outcome"] == "fail";
        assert!(report["checks"].as_array().expect("checks").iter().any(failed), "{lost}: {:#}", report["checks"]);
    }
}

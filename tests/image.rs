//! A root directory that is not running, of each generation: applied, applied again, taken back; and every oddity of a
//! file that has to survive it.

mod fixture;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use fixture::{ALL, BUILT, Fixture, run, same};

const CONF: &str = "/etc/portsentry/portsentry.conf";
const ALLOW: &str = "/etc/hosts.allow";
const DENY: &str = "/etc/hosts.deny";

/// The list that people edit.
fn ignore_list(fixture: &Fixture) -> &'static str {
    if fixture.debian == 14 { "/etc/portsentry/portsentry.ignore" } else { "/etc/portsentry/portsentry.ignore.static" }
}

#[test]
fn each_generation_is_configured_in_its_own_terms() {
    let active = |fixture: &Fixture, key: &str| -> Vec<String> {
        let conf = fixture.text(CONF);
        conf.lines().filter(|line| line.starts_with(key)).map(str::to_owned).collect()
    };
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        fixture.apply();
        let kill_route = active(&fixture, "KILL_ROUTE");
        assert!(
            kill_route.len() == 1
                && kill_route[0].contains("/usr/local/sbin/harden-portsentry --quiet block $TARGET$ "),
            "{kill_route:?}"
        );
        assert_eq!(active(&fixture, "BLOCK_TCP"), ["BLOCK_TCP=\"1\""]);
        assert_eq!(active(&fixture, "BLOCK_UDP"), ["BLOCK_UDP=\"1\""]);
        let list = fixture.text(ignore_list(&fixture));
        assert!(list.contains("\n192.168.1.0/24\n") && list.contains("\n192.0.2.53/32\n"), "{list}");
        let allow = fixture.text(ALLOW);
        assert!(allow.contains("\nALL: 192.168.1.0/24\n") && !allow.contains("192.0.2.53"), "{allow}");
        let jail = fixture.text("/etc/fail2ban/jail.d/portsentry.conf");
        let history = if debian == 14 { "/var/log/portsentry.log" } else { "/var/lib/portsentry/portsentry.history" };
        assert!(jail.contains(&format!("logpath = {history}\n")), "{jail}");
        assert!(fixture.read(history).is_empty());

        if debian == 14 {
            assert!(active(&fixture, "ADVANCED").is_empty());
            assert!(active(&fixture, "BLOCKED_FILE") == ["BLOCKED_FILE=\"/run/portsentry/portsentry.blocked\""]);
            assert!(!fixture.path("/etc/default/portsentry").exists());
        } else {
            let udp = active(&fixture, "ADVANCED_EXCLUDE_UDP");
            let (_, ports) = udp[0].split_once('"').expect("a value");
            assert!(ports.trim_end_matches('"').split(',').any(|port| port == "68"), "{udp:?}");
            let modes = fixture.text("/etc/default/portsentry");
            assert!(modes.contains("\nTCP_MODE=\"atcp\"\nUDP_MODE=\"audp\"\n"), "{modes}");
        }
        let enabled =
            |unit: &str| fixture.path(&format!("/etc/systemd/system/multi-user.target.wants/{unit}")).is_symlink();
        assert_eq!(enabled("portsentry@atcp.service") && enabled("portsentry@audp.service"), debian == 13);
        assert!(!enabled("portsentry@tcp.service") && !enabled("portsentry@udp.service"));
    }
}

#[test]
fn a_second_apply_changes_nothing() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        fixture.apply();
        let before = fixture.stamps();
        fixture.run(&["apply", "--yes"]).exits(0).says("Nothing to change");
        fixture.run(&["diff"]).exits(0).says("Nothing to change");
        same(&before, &fixture.stamps(), "the second apply writes nothing (left: before)");
    }
}

#[test]
fn undo_restores_every_byte_mode_and_directory() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        // Directories that apply has to make, as an image without any unit enabled lacks them.
        let _ = std::fs::remove_dir_all(fixture.path("/etc/systemd"));
        fixture.chmod(CONF, 0o640);
        fixture.chmod(ALLOW, 0o604);
        fixture.chmod(ignore_list(&fixture), 0o600);
        let before = fixture.tree();
        fixture.apply();
        let applied = fixture.tree();
        assert!(applied != before);
        for (path, mode) in [(CONF, 0o640), (ALLOW, 0o604), (ignore_list(&fixture), 0o600)] {
            assert_eq!(
                fixture.path(path).metadata().expect("it is there").mode() & 0o7777,
                mode,
                "{path} keeps its mode"
            );
        }
        fixture.run(&["undo", "--yes"]).exits(0);
        same(&before, &fixture.tree(), "undo restores everything (left: before apply)");
        fixture.run(&["runs"]).exits(0).says("taken back");
        fixture.run(&["undo", "--yes"]).exits(1).says("nothing to undo");

        fixture.apply();
        same(&applied, &fixture.tree(), "apply after undo does what it did (left: the first time)");
        fixture.run(&["undo", "2", "--yes"]).exits(0);
        same(&before, &fixture.tree(), "and is taken back as well (left: before apply)");
    }
}

#[test]
fn undo_of_an_early_run_takes_back_the_later_ones_too() {
    let fixture = Fixture::debian(12);
    let before = fixture.tree();
    fixture.apply();
    let first = fixture.tree();
    let env = fixture.text("/root/config.env");
    fixture.write("/root/config.env", env.replace("192.168.1.5", "192.168.7.5"));
    fixture.apply();
    fixture.run(&["undo", "--yes"]).exits(0).says("run 2");
    fixture.write("/root/config.env", &env);
    same(&first, &fixture.tree(), "the last run is taken back (left: after the first)");
    fixture.write("/root/config.env", env.replace("192.168.1.5", "192.168.7.5"));
    fixture.apply();
    fixture.run(&["undo", "1", "--yes"]).exits(0).says("run 3, 1");
    fixture.write("/root/config.env", &env);
    same(&before, &fixture.tree(), "both are taken back (left: before the first)");
}

#[test]
fn a_lan_that_moves_takes_its_entries_along_and_leaves_those_of_others() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        fixture.append(ignore_list(&fixture), "203.0.113.20/32\n");
        fixture.apply();
        let env = fixture.text("/root/config.env");
        fixture.write("/root/config.env", env.replace("192.168.1.5", "192.168.7.5"));
        fixture.apply();
        for path in [ALLOW, ignore_list(&fixture)] {
            let text = fixture.text(path);
            assert!(text.contains("192.168.7.0/24") && !text.contains("192.168.1.0/24"), "{text}");
            assert_eq!(text.matches("192.168.7.0/24").count(), 1, "{text}");
        }
        assert!(fixture.text(ignore_list(&fixture)).contains("203.0.113.20/32\n"));
        assert!(fixture.text(ALLOW).contains("sshd: 198.51.100.22\n"));
    }
}

/// Latin-1, carriage returns, tabs, blanks at ends, no newline at the end.
#[test]
fn odd_bytes_around_what_is_edited_survive() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let odd = b"# caf\xe9 \xa7\t \r\n#\xff\xfe\r\n";
        for path in [CONF, ALLOW, DENY, ignore_list(&fixture), "/root/config.env"] {
            let text = fixture.text(path);
            // with a carriage return behind an address 2.0 does not start, so nobody has such a list
            let ends_in_cr = !(debian == 14 && path == ignore_list(&fixture));
            let text = if ends_in_cr { text.replace('\n', "\r\n") } else { text };
            // and an unended line of hosts.deny shuts everybody out
            let text = if path == DENY { text.as_str() } else { text.trim_end() };
            fixture.write(path, [odd, text.as_bytes()].concat());
        }
        let before = fixture.tree();
        fixture.apply();
        for path in [CONF, ALLOW, DENY, ignore_list(&fixture)] {
            assert!(fixture.read(path).windows(odd.len()).any(|bytes| bytes == odd), "{path}");
        }
        let comments = |bytes: &[u8]| -> Vec<Vec<u8>> {
            bytes
                .split_inclusive(|&byte| byte == b'\n')
                .filter(|line| line.starts_with(b"#"))
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut after = comments(&fixture.read(CONF));
        // Debian's line for hosts.deny is one of them now.
        after.retain(|line| !line.starts_with(b"#KILL_HOSTS_DENY"));
        let mut earlier = comments(&odd_file(&before, CONF));
        earlier.retain(|line| !line.starts_with(b"#KILL_HOSTS_DENY"));
        assert_eq!(after, earlier, "with its carriage returns");
        fixture.run(&["diff"]).exits(0);
        fixture.run(&["undo", "--yes"]).exits(0);
        same(&before, &fixture.tree(), "undo restores every odd byte (left: before apply)");
    }
}

fn odd_file(tree: &std::collections::BTreeMap<std::path::PathBuf, fixture::Node>, path: &str) -> Vec<u8> {
    match &tree[std::path::Path::new(path.trim_start_matches('/'))] {
        fixture::Node::File(_, bytes) => bytes.clone(),
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn a_link_is_followed_said_and_kept() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let text = fixture.read(CONF);
        fixture.write("/srv/conf/portsentry.conf", &text);
        fixture.chmod("/srv/conf/portsentry.conf", 0o640);
        fs::remove_file(fixture.path(CONF)).expect("it is ours");
        // absolute: it starts at the root of the image, not at the builder's
        symlink("/srv/conf/portsentry.conf", fixture.path(CONF)).expect("a writable directory");
        let before = fixture.tree();
        fixture.run(&["diff"]).exits(2).says("/srv/conf/portsentry.conf");
        fixture.apply();
        assert_eq!(
            fs::read_link(fixture.path(CONF)).expect("a link"),
            std::path::Path::new("/srv/conf/portsentry.conf")
        );
        assert!(fixture.text("/srv/conf/portsentry.conf").contains("\nBLOCK_TCP=\"1\""));
        assert_eq!(fixture.path("/srv/conf/portsentry.conf").metadata().expect("it is there").mode() & 0o7777, 0o640);
        fixture.run(&["undo", "--yes"]).exits(0);
        same(&before, &fixture.tree(), "undo keeps the link and restores the file (left: before apply)");
    }
}

#[test]
fn a_link_does_not_lead_out_of_the_image() {
    let outside = Fixture::debian(12);
    let fixture = Fixture::debian(12);
    let before = outside.stamps();
    fs::remove_file(fixture.path(ALLOW)).expect("it is ours");
    symlink(format!("../../../../../..{}", outside.path(ALLOW).display()), fixture.path(ALLOW)).expect("writable");
    fixture.run(&["apply", "--yes"]);
    same(&before, &outside.stamps(), "the other image is as it was (left: before)");
}

#[test]
fn what_somebody_edited_after_apply_is_shown_and_kept_without_force() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let before = fixture.tree();
        fixture.apply();
        fixture.append(CONF, "# mine\n");
        let stamps = fixture.stamps();
        let refused = fixture.run(&["undo", "--yes"]).exits(1).says("--force").says(CONF);
        assert!(refused.stdout.contains("+# mine"), "the edit is shown: {refused}");
        same(&stamps, &fixture.stamps(), "nothing is written (left: before)");
        fixture.run(&["undo", "--yes", "--force"]).exits(0);
        same(&before, &fixture.tree(), "forced, it goes (left: before apply)");
    }
}

#[test]
fn lines_that_others_added_to_shared_lists_stay_in_their_places() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let (allow, list) = (fixture.text(ALLOW), fixture.text(ignore_list(&fixture)));
        fixture.apply();
        fixture.append(ALLOW, "sshd: 203.0.113.44\n");
        fixture.append(ignore_list(&fixture), "203.0.113.44/32\n");
        fixture.append(DENY, "sshd: 203.0.113.45\n");
        fixture.run(&["undo", "--yes"]).exits(0);
        assert_eq!(fixture.text(ALLOW), format!("{allow}sshd: 203.0.113.44\n"));
        assert_eq!(fixture.text(ignore_list(&fixture)), format!("{list}203.0.113.44/32\n"));
        assert!(fixture.text(DENY).ends_with("sshd: 203.0.113.45\n"));
    }
}

#[test]
fn blocks_that_the_image_made_since_go_with_undo() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let deny = fixture.text(DENY);
        fixture.apply();
        let (history, line) = if debian == 14 {
            (
                "/var/log/portsentry.log",
                "2026-11-24T15:48:24.242+0000 Scan from: [203.0.113.9] (x) protocol: [TCP] port: [11] type: [TCP SYN/Normal scan] IP opts: [not set] ignored: [false] triggered: [true] noblock: [false] blocked: [true]\n",
            )
        } else {
            (
                "/var/lib/portsentry/portsentry.history",
                "1795532234 - 11/24/2026 14:57:14 Host: x/203.0.113.9 Port: 111 TCP Blocked\n",
            )
        };
        fixture.append(history, line);
        fixture.append(DENY, "ALL: 203.0.113.9 : DENY\nsshd: 203.0.113.45\n");
        fixture.run(&["undo", "--yes"]).exits(0);
        assert_eq!(fixture.text(DENY), format!("{deny}sshd: 203.0.113.45\n"));
        assert_eq!(fixture.text(history), line, "records of what happened are nobody's to delete");
    }
}

#[test]
fn a_configuration_that_cannot_be_parsed_is_refused_by_file_and_line() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let conf = fixture.text(CONF);
        let line = conf.lines().count() + 1;
        for bad in ["KILL_ROUTE = unquoted\n", "what is this\n", "BLOCK_TCP='1'\n"] {
            fixture.write(CONF, format!("{conf}{bad}"));
            fixture.refuses(&[CONF, &format!("line {line}"), "nothing was changed"]);
        }
        fixture.write(CONF, &conf);
        fixture.run(&["diff"]).exits(2);
    }
}

#[test]
fn a_directory_or_a_loop_where_a_file_belongs_is_refused() {
    let fixture = Fixture::debian(12);
    fs::remove_file(fixture.path(ALLOW)).expect("it is ours");
    fs::create_dir(fixture.path(ALLOW)).expect("writable");
    fixture.refuses(&[ALLOW, "not a regular file"]);
    fs::remove_dir(fixture.path(ALLOW)).expect("it is ours");
    symlink("hosts.allow", fixture.path(ALLOW)).expect("writable");
    fixture.refuses(&[ALLOW, "link"]);
}

/// In a mount namespace of its own, so that root meets it too.
#[test]
fn a_read_only_image_is_refused_and_left_alone() {
    let fixture = Fixture::debian(12);
    let before = fixture.stamps();
    let namespaces: &[&str] =
        if rustix::process::geteuid().is_root() { &["--mount"] } else { &["--mount", "--map-root-user"] };
    let output = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-ec", "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"; exec \"$1/usr/local/sbin/harden-portsentry\" apply --yes --root \"$1\"", "sh"])
        .arg(fixture.root())
        .stdin(Stdio::null())
        .output()
        .expect("unshare is there: util-linux is essential on Debian");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.to_lowercase().contains("read-only"), "{said}");
    same(&before, &fixture.stamps(), "nothing is written (left: before)");
}

/// A journal of a kind that nobody knows yet must not be half understood.
#[test]
fn a_journal_of_a_newer_version_is_refused() {
    let fixture = Fixture::debian(12);
    fixture.apply();
    fixture.append("/var/lib/harden-portsentry/runs/1/journal", "{\"record\":\"teleported\"}\n");
    let before = fixture.stamps();
    for words in [&["undo", "--yes"][..], &["runs"], &["apply", "--yes"]] {
        fixture.run(words).exits(1).says("runs/1/journal").says("newer");
    }
    same(&before, &fixture.stamps(), "nothing is written (left: before)");
}

#[test]
fn the_journal_is_private_and_holds_the_originals() {
    let fixture = Fixture::debian(12);
    let conf = fixture.read(CONF);
    fixture.apply();
    let journal = "/var/lib/harden-portsentry/runs/1/journal";
    assert_eq!(fixture.path(journal).metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
    let record = fixture
        .text(journal)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"))
        .find(|record| record["path"] == CONF)
        .expect("a record of it");
    let copy = record["before"]["copy"].as_str().expect("a name");
    assert_eq!(fixture.read(&format!("/var/lib/harden-portsentry/runs/1/{copy}")), conf);
}

/// Run from a build directory, it goes where only root writes; the same program again changes nothing.
#[test]
fn the_program_puts_itself_where_it_stays_and_undo_takes_it_away() {
    let fixture = Fixture::without_program(12);
    let before = fixture.tree();
    let home = fixture.path("/usr/local/sbin/harden-portsentry");
    let root = fixture.root().to_str().expect("test paths are UTF-8");
    let applied = run(BUILT.as_ref(), &["apply", "--yes", "--root", root], &[]);
    assert!(matches!(applied.status, 0 | 3), "{applied}");
    assert_eq!(home.metadata().expect("it is there").mode() & 0o7777, 0o755);
    assert!(fs::read(&home).expect("it can be read") == fs::read(BUILT).expect("it can be read"));
    let stamps = fixture.stamps();
    run(BUILT.as_ref(), &["apply", "--yes", "--root", root], &[]).exits(0).says("Nothing to change");
    same(&stamps, &fixture.stamps(), "the second apply writes nothing (left: before)");
    run(BUILT.as_ref(), &["undo", "--yes", "--root", root], &[]).exits(0);
    same(&before, &fixture.tree(), "undo takes the program away (left: before apply)");
}

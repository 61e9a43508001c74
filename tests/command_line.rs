//! What can be typed, and what comes of it: exit statuses, colour, quiet, refusals with the place and the remedy.

mod fixture;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fixture::{ALL, BUILT, Fixture, Output, run, same};

fn program(words: &[&str]) -> Output {
    run(BUILT.as_ref(), words, &[])
}

/// The subcommands that the help lists, and the one that it hides.
fn subcommands() -> Vec<String> {
    let help = program(&["--help"]).exits(0).stdout;
    let list = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list of commands");
    let mut names: Vec<String> = list
        .lines()
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    assert!(names.len() >= 6, "{help}");
    names.push("man".to_owned());
    names
}

#[test]
fn a_mistyped_command_line_exits_64_whatever_the_subcommand() {
    for name in subcommands() {
        program(&[&name, "--nonsense"]).exits(64).says("--nonsense");
        // The daemon's options are portsentry's.
        let named = if name == "daemon" { "--format" } else { "yaml" };
        program(&[&name, "--format", "yaml"]).exits(64).says(named);
        program(&[&name, "one", "two", "three"]).exits(64);
    }
    program(&[]).exits(64).says("Usage:");
    program(&["aply"]).exits(64).says("apply");
    program(&["undo", "last"]).exits(64).says("last");
    program(&["man"]).exits(64);
    program(&["diff", "--response", "maybe"]).exits(64).says("possible values");
    program(&["diff", "-q", "-v"]).exits(64);
    program(&["diff", "--root"]).exits(64);
}

/// Blocks are the running system's: what is said about them is whole, and flags about what apply makes are not among it.
#[test]
fn the_help_of_blocks_says_what_a_stranger_needs() {
    for (name, says) in [
        ("block", &["Refused, with the reason", "gateways", "`term` of [block]", "takes root", "Exit status"][..]),
        ("unblock", &["free at once", "Debian's portsentry", "takes root", "Exit status"]),
        ("blocked", &["SINCE and UNTIL", "BY, who wanted it", "takes root", "Exit status"]),
        ("restore", &["flush ruleset", "takes root", "Exit status"]),
    ] {
        let help = program(&[name, "--help"]).exits(0).says_not("--lan-if").says_not("--root").says_not("--policy");
        says.iter().fold(help, |help, text| help.says(text));
    }
    program(&["diff", "--help"]).exits(0).says("--lan-if").says("--root");
    program(&["blocked", "--root", "/tmp"]).exits(1).says("leave --root out");
}

#[test]
fn help_and_version_are_no_error_and_go_to_stdout() {
    for words in [&["--help"][..], &["-h"], &["help"], &["--version"], &["-V"]] {
        let output = program(words).exits(0);
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{output}");
    }
    for name in subcommands() {
        program(&[&name, "--help"]).exits(0).says("Usage:");
        program(&["help", &name]).exits(0).says("Usage:");
    }
    let version = program(&["--version"]).stdout;
    assert_eq!(version, format!("harden-portsentry {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn colour_is_for_terminals_unless_it_is_asked_for() {
    let fixture = Fixture::debian(12);
    let coloured = |output: Output| output.stdout.contains('\u{1b}');
    assert!(!coloured(fixture.run(&["diff"])), "into a pipe");
    assert!(coloured(fixture.run(&["diff", "--color", "always"])));
    assert!(coloured(fixture.run_with(&["diff", "--color", "always"], &[("NO_COLOR", "1")])), "the flag wins");
    assert!(!coloured(fixture.run(&["diff", "--color", "never"])));
    assert!(!fixture.run(&["diff", "--format", "json", "--color", "always"]).stdout.contains('\u{1b}'));

    let plain = on_a_terminal(&fixture, "diff", &[("NO_COLOR", "1")]);
    assert!(!plain.contains("\u{1b}["), "{plain:?}");
    let coloured = on_a_terminal(&fixture, "diff", &[]);
    assert!(coloured.contains("\u{1b}["), "{coloured:?}");
    assert!(!on_a_terminal(&fixture, "diff --color never", &[]).contains("\u{1b}["));
}

/// What a person sees who runs it on a terminal of its own.
fn on_a_terminal(fixture: &Fixture, words: &str, environment: &[(&str, &str)]) -> String {
    let (text, _) = Terminal::start(fixture, words, environment).end();
    text
}

/// The program on a terminal that script(1) makes, with somebody typing at it.
struct Terminal {
    script: std::process::Child,
    seen: std::sync::mpsc::Receiver<Vec<u8>>,
    text: Vec<u8>,
}

impl Terminal {
    fn start(fixture: &Fixture, words: &str, environment: &[(&str, &str)]) -> Terminal {
        let command = format!(
            "{} {words} --root {}",
            fixture.path("usr/local/sbin/harden-portsentry").display(),
            fixture.root().display()
        );
        let mut script = Command::new("script")
            .args(["-qefc", &command, "/dev/null"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is installed: bsdutils is essential on Debian");
        let mut stdout = script.stdout.take().expect("a pipe");
        let (sender, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { script, seen, text: Vec::new() }
    }

    /// Waits until it shows `text`, then types `keys`.
    fn type_after(&mut self, text: &str, keys: &str) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !String::from_utf8_lossy(&self.text).contains(text) {
            match self.seen.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.text.extend(bytes),
                Err(why) => panic!("waited for {text:?}, {why}: {}", String::from_utf8_lossy(&self.text)),
            }
        }
        let stdin = self.script.stdin.as_mut().expect("a pipe");
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).expect("it is there");
    }

    /// All that it showed, and its exit status.
    fn end(mut self) -> (String, i32) {
        while let Ok(bytes) = self.seen.recv_timeout(Duration::from_secs(60)) {
            self.text.extend(bytes);
        }
        let status = self.script.wait().expect("it ends").code().unwrap_or(-1);
        (String::from_utf8_lossy(&self.text).into_owned(), status)
    }
}

#[test]
fn no_and_a_ctrl_c_at_the_question_change_nothing() {
    let fixture = Fixture::debian(12);
    let before = fixture.stamps();
    for (keys, wanted) in [("n", 1), ("\r", 1), ("\u{3}", 130)] {
        let mut terminal = Terminal::start(&fixture, "apply", &[]);
        terminal.type_after("[y/N]", keys);
        let (text, status) = terminal.end();
        assert_eq!(status, wanted, "after {keys:?}: {text}");
        assert!(text.to_lowercase().contains("nothing was changed"), "after {keys:?}: {text}");
        let cursor = |sequence: &str| text.rfind(sequence);
        assert!(cursor("\u{1b}[?25l") <= cursor("\u{1b}[?25h"), "after {keys:?} the cursor is back: {text:?}");
    }
    same(&before, &fixture.stamps(), "nothing is written (left: before)");
}

#[test]
fn yes_at_the_question_applies() {
    let fixture = Fixture::debian(12);
    let mut terminal = Terminal::start(&fixture, "apply", &[]);
    terminal.type_after("[y/N]", "y");
    let (text, status) = terminal.end();
    assert!(matches!(status, 0 | 3), "{text}");
    fixture.run(&["diff"]).exits(0);
}

#[test]
fn wrong_values_of_config_env_can_be_put_right_at_the_question() {
    let wrong = "# the LAN\nLAN_IF=enp0s8\nLAN_IP=\"\"\nLAN_NM=$(mask)\nLAN_NM=24 # two\nOTHER=\"$(id)\"\n";
    let fixture = Fixture::debian(12);
    fixture.write("/root/config.env", wrong);
    let mut terminal = Terminal::start(&fixture, "apply", &[]);
    terminal.type_after("right now? [y/N]", "n");
    let (text, status) = terminal.end();
    assert_eq!((status, fixture.text("/root/config.env").as_str()), (1, wrong), "{text}");

    let mut terminal = Terminal::start(&fixture, "apply", &[]);
    terminal.type_after("right now? [y/N]", "y");
    terminal.type_after("LAN_IF, the LAN's interface", "enp0s9\r");
    terminal.type_after("LAN_IP, this host's address there", "10.1.2.3\r");
    terminal.type_after("LAN_NM, the length", "16\r");
    terminal.type_after("LAN_GW, the LAN's gateway", "10.1.0.1\r");
    terminal.type_after("Apply", "n");
    let (text, _) = terminal.end();
    assert!(text.contains("line 4: LAN_NM"), "the error comes first: {text}");
    let written = "# the LAN\nLAN_IF=enp0s9\nLAN_IP=\"10.1.2.3\"\nLAN_NM=16\nLAN_NM=16 # two\nOTHER=\"$(id)\"\nexport LAN_GW=\"10.1.0.1\"\n";
    assert_eq!(fixture.text("/root/config.env"), written, "{text}");
    fixture.run(&["diff"]).exits(2).says("10.1.0.0/16");

    // A flag is wrong: config.env would not help.
    let text = on_a_terminal(&fixture, "apply --lan-gw 10.9.9.9", &[]);
    assert!(text.contains("--lan-gw: LAN_GW is 10.9.9.9") && !text.contains("right now?"), "{text}");
}

#[test]
fn init_writes_what_is_answered_and_keeps_the_rest_of_the_policy() {
    let fixture = Fixture::debian(12);
    let lan = |terminal: &mut Terminal| {
        terminal.type_after("LAN_IF, the LAN's interface", "enp0s9\r");
        terminal.type_after("LAN_IP, this host's address there", "10.1.2.3\r");
        terminal.type_after("LAN_NM, the length", "16\r");
        terminal.type_after("LAN_GW, the LAN's gateway", "10.1.0.1\r");
    };
    let mut terminal = Terminal::start(&fixture, "init", &[]);
    lan(&mut terminal);
    terminal.type_after("What a blocked host meets", "\r");
    terminal.type_after("How long fail2ban keeps", "\r");
    terminal.type_after("Never to be blocked", "\r");
    let (text, status) = terminal.end();
    assert_eq!(status, 0, "{text}");
    assert!(!fixture.path("/etc/harden-portsentry/policy.toml").exists(), "all answers are defaults: {text}");

    let policy = "# ours\nbantime = \"2d\" # two\nsafe = [\n  # the office\n  \"198.51.100.7\",\n  \"203.0.113.0/24\", # old\n]\n\n[lan]\nwide = true\n";
    fixture.write("/etc/harden-portsentry/policy.toml", policy);
    let mut terminal = Terminal::start(&fixture, "init", &[]);
    lan(&mut terminal);
    terminal.type_after("What a blocked host meets", "\u{1b}[B\u{1b}[B\u{1b}[B\r");
    terminal.type_after("How long fail2ban keeps", "\u{8}\u{8}1w\r");
    terminal.type_after("Never to be blocked", &format!("{}2001:db8::1\r", "\u{8}".repeat("203.0.113.0/24".len())));
    let (text, status) = terminal.end();
    assert_eq!(status, 0, "{text}");
    assert_eq!(
        fixture.text("/etc/harden-portsentry/policy.toml"),
        "# ours\nbantime = \"1w\" # two\nsafe = [\n  # the office\n  \"198.51.100.7\", \"2001:db8::1\", # old\n]\nresponse = \"drop\"\n\n[lan]\nwide = true\n",
        "{text}"
    );
    fixture.run(&["diff"]).exits(2).says("10.1.0.0/16").says("198.51.100.7").says("2001:db8::1").says("1 week");
}

#[test]
fn quiet_says_only_what_is_wrong() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let diff = fixture.run(&["diff", "-q"]).exits(2);
        assert!(diff.stdout.is_empty() && diff.stderr.is_empty(), "{diff}");
        fixture.apply();
        let again = fixture.run(&["apply", "--yes", "-q"]).exits(0);
        assert!(again.stdout.is_empty() && again.stderr.is_empty(), "{again}");
        let verify = fixture.run(&["verify", "--quiet"]);
        assert!(!verify.stdout.lines().any(|line| line.starts_with("  ok")), "{verify}");
        fixture.write("/root/config.env", "export LAN_IF=\"enp0s8\"\n");
        fixture.run(&["verify", "-q"]).exits(1).says("LAN_IP");
    }
}

#[test]
fn apply_without_a_terminal_and_without_yes_refuses() {
    let fixture = Fixture::debian(12);
    let before = fixture.stamps();
    fixture.run(&["apply"]).exits(1).says("--yes").says("Nothing was changed");
    fixture.run(&["apply", "--format", "json"]).exits(1).says("--yes");
    same(&before, &fixture.stamps(), "nothing is written (left: before)");
    fixture.apply();
    let applied = fixture.stamps();
    fixture.run(&["undo"]).exits(1).says("--yes").says("Nothing was changed");
    same(&applied, &fixture.stamps(), "nothing is written (left: before)");
}

/// Adds records to the journal of run 1, which waits to be confirmed for an hour, or waited until some time ago.
fn awaits(fixture: &Fixture, hours: i64) {
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
    let uptime = (now + hours * 3_600).max(0) * 1_000;
    let waits =
        format!("{{\"record\":\"awaits-confirmation\",\"until\":\"{until}\",\"uptime\":{uptime},\"within\":3600}}\n");
    fixture.append("/var/lib/harden-portsentry/runs/1/journal", &waits);
}

#[test]
fn a_time_to_confirm_that_nobody_could_keep_is_mistyped() {
    for (time, says) in [
        ("9s", "between 10 seconds and 1 hour"),
        ("2h", "between 10 seconds and 1 hour"),
        ("soon", "no length of time"),
    ] {
        program(&["apply", "--confirm-within", time]).exits(64).says(says);
    }
    program(&["apply", "--confirm-within"]).exits(64);
    program(&["apply", "--help"]).exits(0).says("--confirm-within").says("Ctrl-C");
    program(&["confirm", "--help"]).exits(0).says("Exit status").says("too late");
}

#[test]
fn an_image_needs_no_confirmation_and_says_so_before_it_is_changed() {
    let fixture = Fixture::debian(12);
    let before = fixture.stamps();
    let refused = fixture.run(&["apply", "--yes", "--confirm-within", "60s"]).exits(1);
    refused.says("--confirm-within is for the running system").says("leave it out");
    fixture.run(&["confirm"]).exits(1).says("nothing waits to be confirmed").says("--confirm-within");
    same(&before, &fixture.stamps(), "nothing is written (left: before)");
    fixture.apply();
    fixture.run(&["confirm"]).exits(1).says("nothing waits to be confirmed");
    let error = fixture.run(&["confirm", "--format", "json"]).exits(1).json();
    assert_eq!(error["command"], "confirm");
}

#[test]
fn a_run_that_waits_is_told_everywhere_and_confirmed_once() {
    let fixture = Fixture::debian(12);
    fixture.apply();
    awaits(&fixture, 1);
    fixture.run(&["runs"]).exits(0).says("applied, waits to be confirmed until");
    let runs = fixture.run(&["runs", "--format", "json"]).json();
    assert_eq!((&runs["runs"][0]["state"], &runs["runs"][0]["confirmation"]), (&"applied".into(), &"awaited".into()));
    assert!(runs["runs"][0]["confirm_by"].is_string(), "{runs}");
    fixture.run(&["verify"]).exits(0).says("whether this stays: run 1 is taken back at");
    fixture.run(&["verify", "--strict"]).exits(2);
    let before = fixture.stamps();
    fixture.run(&["apply", "--yes"]).exits(0).says("Nothing to change").says("Run 1 is not confirmed");
    fixture
        .run(&["apply", "--yes", "--response", "reject"])
        .exits(1)
        .says("run 1 waits to be confirmed")
        .says("confirm");
    same(&before, &fixture.stamps(), "no other apply is begun (left: before)");
    fixture.run(&["confirm"]).exits(0).says("Run 1 is confirmed and stays");
    fixture.run(&["confirm"]).exits(0).says("already");
    let again = fixture.run(&["confirm", "--format", "json"]).exits(0).json();
    assert_eq!((&again["run"], &again["already"]), (&1.into(), &true.into()));
    fixture.run(&["verify"]).exits(0).says_not("whether this stays");
    fixture.run(&["apply", "--yes", "--response", "reject"]).exits(0);
}

#[test]
fn who_confirms_too_late_or_half_an_apply_is_told_so() {
    let fixture = Fixture::debian(12);
    fixture.apply();
    awaits(&fixture, -1);
    fixture.run(&["confirm"]).exits(1).says("not confirmed in time").says("too late");
    fixture.append("/var/lib/harden-portsentry/runs/1/journal", "{\"record\":\"unconfirmed\",\"at\":\"\"}\n");
    fixture.run(&["runs"]).exits(0).says("being taken back, for nobody confirmed it");
    fixture.run(&["verify"]).exits(2).says("nobody confirmed run 1 in time").says("harden-portsentry undo");
    fixture.run(&["apply", "--yes", "--response", "reject"]).exits(1).says("is not taken back yet");

    let fixture = Fixture::debian(12);
    fixture.apply();
    let journal = "/var/lib/harden-portsentry/runs/1/journal";
    let whole = fixture.text(journal);
    let (half, _) = whole.split_once("{\"record\":\"finished\"").expect("it was finished");
    fixture.write(journal, half);
    awaits(&fixture, 1);
    fixture.run(&["runs"]).exits(0).says("cut short, taken back at");
    fixture.run(&["confirm"]).exits(1).says("run 1 was cut short").says("undo");
    fixture.run(&["apply", "--yes", "--response", "reject"]).exits(1).says("run 1 was cut short");
    let before = fixture.stamps();
    fixture.run(&["apply", "--yes"]).exits(0).says("Run 1 is not confirmed");
    same(&before, &fixture.stamps(), "it is not ended either, for it goes (left: before)");
}

/// What the timer starts, on a root directory, which has none: all is taken back, and an edit is kept beside the journal.
#[test]
fn what_nobody_confirmed_goes_with_the_edits_since_and_says_so() {
    let fixture = Fixture::debian(12);
    let before = fixture.tree();
    fixture.apply();
    let applied = fixture.stamps();
    fixture.run(&["expire"]).exits(0);
    let changed = fixture.stamps().into_iter().filter(|(path, stamp)| applied.get(path) != Some(stamp));
    let changed: Vec<_> = changed.filter(|(path, _)| !path.ends_with("harden-portsentry/lock")).collect();
    assert!(changed.is_empty(), "nobody asked for a confirmation: {changed:?}");
    awaits(&fixture, 1);
    fixture.append("/etc/portsentry/portsentry.conf", "# mine\n");
    fixture.run(&["expire"]).exits(0).says("/etc/portsentry/portsentry.conf was edited after apply");
    same(&before, &fixture.tree(), "all of it is taken back (left: before)");
    let kept = fixture.text("/var/lib/harden-portsentry/runs/1/journal");
    assert!(kept.contains("\"record\":\"unconfirmed\"") && kept.contains("\"record\":\"undone\""), "{kept}");
    let edited = std::fs::read_dir(fixture.path("/var/lib/harden-portsentry/runs/1/edited")).unwrap();
    let edited: Vec<_> = edited.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    assert!(edited.len() == 1 && edited[0].ends_with("# mine\n"), "{edited:?}");
    fixture.run(&["confirm"]).exits(1).says("not confirmed in time and was taken back");
    fixture.run(&["runs"]).exits(0).says("taken back, for nobody confirmed it");
    fixture.run(&["expire"]).exits(0);
    fixture.apply();
    fixture.run(&["confirm"]).exits(1);
}

#[test]
fn diff_is_diff_dry_run_and_writes_nothing() {
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let before = fixture.stamps();
        let diff = fixture.run(&["diff"]).exits(2);
        assert_eq!(fixture.run(&["diff", "--dry-run"]).exits(2).stdout, diff.stdout);
        assert!(diff.stderr.is_empty(), "{diff}");
        fixture.run(&["verify"]).exits(2);
        fixture.run(&["runs"]).exits(0).says("No apply");
        fixture.run(&["undo", "--yes"]).exits(1).says("nothing to undo");
        same(&before, &fixture.stamps(), "nothing is written (left: before)");
    }
}

#[test]
fn a_chaos_that_cannot_work_is_refused_with_the_way_to_it() {
    let fixture = Fixture::debian(12);
    let extension =
        "\nPackage: xtables-addons-common\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.23-1\n";
    fixture.append("/var/lib/dpkg/status", extension);
    let before = fixture.stamps();
    fixture.run(&["apply", "--yes", "--response", "chaos"]).exits(1).says("--install-chaos");
    same(&before, &fixture.stamps(), "nothing is written (left: before)");
}

#[test]
fn what_is_no_debian_or_a_portsentry_that_nobody_knows_is_refused() {
    let fixture = Fixture::debian(12);
    let status = fixture.text("/var/lib/dpkg/status");
    fixture.write("/var/lib/dpkg/status", status.replace("1.2-14+b1", "3.1-1"));
    fixture.refuses(&["portsentry 3.1-1 is newer"]);
    fixture.write("/var/lib/dpkg/status", status);
    fixture.write("/etc/os-release", "ID=fedora\nPRETTY_NAME=\"Fedora Linux 44\"\n");
    fixture.refuses(&["Fedora Linux 44", "Debian"]);
    std::fs::remove_file(fixture.path("/etc/os-release")).unwrap();
    fixture.refuses(&["os-release"]);
    program(&["diff", "--root", "/nonexistent"]).exits(1).says("/nonexistent");
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let fixture = Fixture::debian(12);
    let mut child = Command::new(BUILT)
        .args(["diff", "--root"])
        .arg(fixture.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

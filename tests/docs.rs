//! The documents say what the program does.

mod fixture;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fixture::{ALL, BUILT, Fixture, run};
use regex::Regex;

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn text(path: &str) -> String {
    fs::read_to_string(home().join(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

/// Every document of ours.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in ["", "docs", "benches", "fixtures"] {
        let entries = fs::read_dir(home().join(place)).unwrap_or_else(|error| panic!("cannot list {place:?}: {error}"));
        found.extend(
            entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "md")),
        );
    }
    assert!(found.len() >= 8, "{found:?}");
    found
}

#[test]
fn the_man_pages_are_what_the_program_writes() {
    let fresh = tempfile::tempdir().expect("a temporary directory");
    let words = ["man", fresh.path().to_str().expect("test paths are UTF-8")];
    run(BUILT.as_ref(), &words, &[]).exits(0);
    let pages = |directory: &Path| -> BTreeSet<String> {
        let entries = fs::read_dir(directory).expect("a directory with man pages");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let kept = home().join("docs/man");
    assert_eq!(pages(&kept), pages(fresh.path()));
    for page in pages(&kept) {
        let same = fs::read(kept.join(&page)).expect("a page") == fs::read(fresh.path().join(&page)).expect("a page");
        assert!(same, "docs/man/{page} is old: cargo run -- man docs/man");
    }
}

#[test]
fn the_example_policy_is_accepted_as_it_stands_and_with_everything_in_it_switched_on() {
    let example = text("docs/policy.example.toml");
    let all: String = example
        .lines()
        .filter(|line| *line != "safe = []")
        .map(|line| {
            let setting = line
                .strip_prefix('#')
                .filter(|rest| rest.starts_with(|letter: char| letter == '[' || letter.is_ascii_lowercase()));
            format!("{}\n", setting.unwrap_or(line))
        })
        .collect();
    assert!(all.contains("\n[[ssh_client]]\naddress = ") && all.contains("\ninterface = "), "{all}");
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        let without = fixture.run(&["diff", "-v"]).exits(2);
        fixture.write("/etc/harden-portsentry/policy.toml", &example);
        let with = fixture.run(&["diff", "-v"]).exits(2);
        let diffs = |output: &str| {
            output.lines().filter(|line| line.starts_with("    ")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(diffs(&with.stdout), diffs(&without.stdout), "the values in the example are the defaults");
        assert!(with.stdout.contains("policy.toml, line"), "it is read: {with}");
        fixture.write("/etc/harden-portsentry/policy.toml", &all);
        fs::remove_file(fixture.path("/root/config.env")).expect("the fixture has one");
        fixture.run(&["diff", "-v"]).exits(2).says("198.51.100.7/32").says("203.0.113.7/32").says("enp0s8");
    }
}

/// The keys, by the program's own word, in the table of docs/policy.md, in the example and in README.
#[test]
fn every_key_of_the_policy_is_described() {
    let fixture = Fixture::debian(12);
    let known = |policy: &str| -> Vec<String> {
        fixture.write("/etc/harden-portsentry/policy.toml", policy);
        let said = fixture.run(&["diff"]).exits(1).stderr;
        let (_, expected) = said.split_once("expected ").unwrap_or_else(|| panic!("no list of keys: {said}"));
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut keys: Vec<String> = known("unheard_of = 1\n");
    assert!(keys.len() >= 9, "{keys:?}");
    for (table, policy) in [
        ("lan", "[lan]\nunheard_of = 1\n"),
        ("block", "[block]\nunheard_of = 1\n"),
        ("ssh_client", "[[ssh_client]]\nunheard_of = 1\n"),
    ] {
        keys.retain(|key| key != table);
        keys.extend(known(policy).into_iter().map(|key| format!("{table}.{key}")));
    }
    keys.sort_unstable();
    let rows = Regex::new(r"(?m)^\| `([a-z0-9_.]+)` \|").expect("a pattern");
    let policy = text("docs/policy.md");
    let mut described: Vec<String> = rows.captures_iter(&policy).map(|row| row[1].to_owned()).collect();
    described.sort_unstable();
    assert_eq!(described, keys);
    for key in &keys {
        let name = key.rsplit('.').next().unwrap_or(key);
        for document in ["docs/policy.example.toml", "README.md"] {
            assert!(text(document).contains(name), "{document} does not name {key}");
        }
    }
}

#[test]
fn every_relative_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern");
    let mut seen = 0;
    for document in documents() {
        let content = fs::read_to_string(&document).expect("a document");
        for target in link.captures_iter(&content).map(|found| found[1].to_owned()) {
            if target.contains("://") {
                continue;
            }
            seen += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let place =
                if path.is_empty() { document.clone() } else { document.parent().expect("a directory").join(path) };
            assert!(place.exists(), "{}: {target} leads nowhere", document.display());
            if !anchor.is_empty() {
                let headings = fs::read_to_string(&place).expect("a document with headings");
                let found = headings.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor);
                assert!(found, "{}: {target}: no such heading", document.display());
            }
        }
    }
    assert!(seen > 15, "only {seen} links found");
}

/// A heading's anchor, as forges make it.
fn slug(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter))
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn the_readme_has_the_exit_statuses_of_the_help() {
    let help = run(BUILT.as_ref(), &["--help"], &[]).exits(0).stdout;
    let (_, list) = help.split_once("Exit status:\n").expect("a list of exit statuses");
    let told: Vec<String> = list
        .lines()
        .filter_map(|line| line.trim().split_once("  "))
        .map(|(status, meaning)| format!("| {status} | {} |", meaning.trim()))
        .collect();
    assert!(told.len() >= 6, "{help}");
    let readme = text("README.md");
    let (_, section) = readme.split_once("## Exit status").expect("a section about exit statuses");
    let rows: Vec<&str> = section
        .lines()
        .skip(1)
        .skip_while(|line| line.is_empty())
        .take_while(|line| !line.is_empty())
        .skip(2)
        .collect();
    assert_eq!(rows, told);
}

#[test]
fn the_readme_names_every_command_and_the_flags_that_it_uses_exist() {
    let help = run(BUILT.as_ref(), &["--help"], &[]).exits(0).stdout;
    let readme = text("README.md");
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    for name in list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next()) {
        assert!(name == "help" || readme.contains(&format!("| `{name}")), "README.md does not name {name}");
    }
    let commands = ["diff", "apply", "verify", "undo", "runs", "init", "block", "unblock", "blocked"];
    let flag = Regex::new(r"--[a-z][a-z-]+").expect("a pattern");
    let help = commands.map(|name| run(BUILT.as_ref(), &[name, "--help"], &[]).exits(0).stdout).concat();
    let known: BTreeSet<&str> = flag.find_iter(&help).map(|found| found.as_str()).collect();
    let ours = Regex::new(r"(?m)^.*harden-portsentry [a-z].*$|`--.*?`").expect("a pattern");
    let mut seen = 0;
    for document in ["README.md", "docs/policy.md", "docs/report.md", "docs/journal.md", "docs/traps.md"] {
        let content = text(document);
        for found in ours.find_iter(&content).flat_map(|place| flag.find_iter(place.as_str())) {
            seen += 1;
            assert!(known.contains(found.as_str()), "{document}: {} is no flag", found.as_str());
        }
    }
    assert!(seen > 20, "only {seen} flags found");
}

/// A trap's test must be there under the name that docs/traps.md gives it, and no trap's test may be missing from it.
#[test]
fn every_trap_names_its_tests() {
    let traps = text("docs/traps.md");
    let named = Regex::new(r"`(\w+)::(\w+)`").expect("a pattern");
    let listed: BTreeSet<String> = named.captures_iter(&traps).map(|one| format!("{}::{}", &one[1], &one[2])).collect();
    let function = Regex::new(r"(?m)^pub fn (\w+)\(").expect("a pattern");
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(home().join("tests/debian")).expect("the end-to-end tests").flatten() {
        let module = entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
        let content = fs::read_to_string(entry.path()).expect("a source file");
        there.extend(function.captures_iter(&content).map(|one| format!("{module}::{}", &one[1])));
    }
    let missing: Vec<&String> = listed.difference(&there).collect();
    assert!(missing.is_empty(), "docs/traps.md names tests that are not there: {missing:?}");
    let main = text("tests/debian/main.rs");
    for test in &listed {
        assert!(main.contains(test), "{test} is run on no Debian");
    }
    for test in there.iter().filter(|name| name.contains("::trap_")) {
        assert!(listed.contains(test), "docs/traps.md does not name {test}");
        let number: u32 = test.split("trap_").nth(1).and_then(|rest| rest.get(..2)?.parse().ok()).expect("a number");
        assert!(traps.contains(&format!("**{number}. ")), "docs/traps.md has no trap {number}");
    }
}

/// Every check that a report can have is explained.
#[test]
fn every_check_is_described() {
    let described = text("docs/report.md");
    let mut seen = BTreeSet::new();
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        for words in [&["verify"][..], &["apply", "--yes"], &["verify"]] {
            let report = fixture.run(&[words, &["--format", "json"]].concat()).json();
            let checks = report["checks"].as_array().cloned().unwrap_or_default();
            seen.extend(checks.iter().map(|check| check["id"].as_str().expect("an id").to_owned()));
        }
    }
    assert!(seen.len() > 10, "{seen:?}");
    // and those that need a running system: their ids are the constants of the rooms that make them
    let id = Regex::new(r#"(?:let id = |Check::(?:ok|fail|skip)\(\s*)"([a-z0-9-]+)""#).expect("a pattern");
    for entry in fs::read_dir(home().join("src/checks")).expect("src/checks").flatten() {
        let content = fs::read_to_string(entry.path()).expect("a source file");
        seen.extend(id.captures_iter(&content).map(|one| one[1].to_owned()));
    }
    let missing: Vec<&String> = seen.iter().filter(|id| !described.contains(&format!("`{id}`"))).collect();
    assert!(missing.is_empty(), "docs/report.md does not describe {missing:?}");
}

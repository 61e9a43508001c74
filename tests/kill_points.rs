//! SIGKILL before any call that changes something: apply on a root directory, cut off before its first such call, its
//! second, and so on until it gets through. strace does it from outside; the program has no part made for it.

mod fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fixture::{BUILT, Fixture, Node, Output, run, same};

/// What a program can change files with; those that it does not call are over with their first run. Opening a file to
/// write leaves what the write after it finds, and a kill is no loss of power, so that fsync makes no difference here.
const CALLS: &[&str] = &[
    "write",
    "writev",
    "pwrite64",
    "copy_file_range",
    "sendfile",
    "ftruncate",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "symlink",
    "symlinkat",
    "link",
    "linkat",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "fchownat",
    "lchown",
    "setxattr",
    "fsetxattr",
    "lsetxattr",
    "utimensat",
];

/// The program under test: the release that tests/run built, which is quick to start, or cargo's own.
fn program() -> PathBuf {
    std::env::var_os("HARDEN_PORTSENTRY").map_or_else(|| BUILT.into(), PathBuf::from)
}

fn tool(fixture: &Fixture, words: &[&str]) -> Output {
    run(&program(), &[words, &["--root", root(fixture)]].concat(), &[])
}

fn root(fixture: &Fixture) -> &str {
    fixture.root().to_str().expect("test paths are UTF-8")
}

/// Applies; a root directory in which no program runs does not let fail2ban test its configuration, so 3 is as good as 0.
fn apply(fixture: &Fixture) {
    let output = tool(fixture, &["apply", "--yes"]);
    assert!(matches!(output.status, 0 | 3), "expected to apply: {output}");
}

/// Runs apply and kills it before its `n`th call of `call`; whether that call came.
fn killed(fixture: &Fixture, call: &str, n: usize) -> bool {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={n}"));
    let program = program();
    let program = program.to_str().expect("test paths are UTF-8");
    let words = ["-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, program, "apply", "--yes", "--root"];
    let output = run(Path::new("/usr/bin/strace"), &[&words[..], &[root(fixture)]].concat(), &[]);
    assert!(matches!(output.status, -1 | 0 | 3 | 137), "killed, or applied: {output}");
    !matches!(output.status, 0 | 3)
}

/// Every file is the old one or the new one; what is neither bears a name of its own and is in nobody's way.
fn old_or_new(
    now: &BTreeMap<PathBuf, Node>,
    before: &BTreeMap<PathBuf, Node>,
    applied: &BTreeMap<PathBuf, Node>,
    at: &str,
) {
    for path in before.keys().chain(applied.keys()) {
        let (old, new, is) = (before.get(path), applied.get(path), now.get(path));
        assert!(is == old || is == new, "{at}: {} is neither old nor new: {is:?}", path.display());
    }
    for path in now.keys().filter(|path| !before.contains_key(*path) && !applied.contains_key(*path)) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        assert!(name.starts_with('.'), "{at}: {} lies where a daemon reads it", path.display());
    }
}

fn killed_anywhere_apply_finishes_and_undo_restores(make: impl Fn() -> Fixture) {
    let (before, applied) = {
        let fixture = make();
        let before = fixture.tree();
        apply(&fixture);
        (before, fixture.tree())
    };
    let mut points = 0;
    for call in CALLS {
        for n in 1.. {
            let fixture = make();
            if !killed(&fixture, call, n) {
                break;
            }
            points += 1;
            let at = format!("Debian {}, killed before {call} number {n}", fixture.debian);
            old_or_new(&fixture.tree(), &before, &applied, &at);
            apply(&fixture);
            same(&applied, &fixture.tree(), &format!("{at}: the next apply finishes (left: an undisturbed one)"));
            tool(&fixture, &["undo", "--yes"]).exits(0);
            same(&before, &fixture.tree(), &format!("{at}: undo restores the original (left: before)"));
        }
    }
    assert!(points > 50, "only {points} points: are these still the calls that the program makes?");
}

/// Without another apply in between, which would finish what was cut off.
#[test]
fn undo_alone_leaves_nothing_of_a_write_that_was_cut_off() {
    let with = |engine: &str| {
        let fixture = Fixture::without_program(12);
        fixture.write("/etc/harden-portsentry/policy.toml", format!("engine = \"{engine}\"\n"));
        fixture
    };
    for engine in ["package", "embedded"] {
        let mut points = 0;
        for call in
            CALLS.iter().filter(|call| ["rename", "symlink", "unlink"].iter().any(|start| call.starts_with(start)))
        {
            for n in 1.. {
                let fixture = with(engine);
                let before = fixture.tree();
                if !killed(&fixture, call, n) {
                    break;
                }
                points += 1;
                let undone = tool(&fixture, &["undo", "--yes"]);
                let had_begun = undone.status == 0;
                assert!(had_begun || undone.stderr.contains("nothing to undo"), "{undone}");
                let at = format!("{engine}, killed before {call} number {n} (left: before)");
                same(&before, &fixture.tree(), &at);
            }
        }
        assert!(points > 5, "only {points} points: are these still the calls that the program makes?");
    }
}

#[test]
fn on_debian_12() {
    killed_anywhere_apply_finishes_and_undo_restores(|| Fixture::without_program(12));
}

/// Where Debian's portsentry is turned off by the links of its script, too.
#[test]
fn on_debian_12_with_the_embedded_engine() {
    killed_anywhere_apply_finishes_and_undo_restores(|| {
        let fixture = Fixture::without_program(12);
        fixture.write("/etc/harden-portsentry/policy.toml", "engine = \"embedded\"\n");
        fixture
    });
}

#[test]
fn on_debian_13() {
    killed_anywhere_apply_finishes_and_undo_restores(|| Fixture::without_program(13));
}

#[test]
fn on_debian_14() {
    killed_anywhere_apply_finishes_and_undo_restores(|| Fixture::without_program(14));
}

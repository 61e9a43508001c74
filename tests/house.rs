//! The house stands as src/lib.rs draws it: a room uses only rooms that stand below it in the map.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The rooms of the map in src/lib.rs, top first, each with its floor.
fn rooms() -> Vec<(u32, String)> {
    let text = fs::read_to_string(src().join("lib.rs")).expect("src/lib.rs is there");
    let row = Regex::new(r"(?m)^//! \| (\d) \| \[`(\w+)`\] \|").expect("a pattern");
    let rooms: Vec<(u32, String)> =
        row.captures_iter(&text).map(|row| (row[1].parse().expect("a digit"), row[2].to_owned())).collect();
    assert!(rooms.len() > 5, "no map in src/lib.rs: {rooms:?}");
    rooms
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file below `place`.
fn sources(place: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(place).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// The rooms that a source file names: `crate::room…` and `crate::{room…, other…}`, comments left out.
fn used(text: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let single = Regex::new(r"\bcrate::(\w+)").expect("a pattern");
    let several = Regex::new(r"\bcrate::\{([^;]*)\}\s*;").expect("a pattern");
    let first = Regex::new(r"^\s*(\w+)").expect("a pattern");
    let mut rooms: BTreeSet<String> = single.captures_iter(&code).map(|one| one[1].to_owned()).collect();
    for group in several.captures_iter(&code) {
        let mut depth = 0;
        let members = group[1].split(|letter: char| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            letter == ',' && depth == 0
        });
        rooms.extend(members.filter_map(|member| Some(first.captures(member)?[1].to_owned())));
    }
    rooms
}

#[test]
fn the_map_names_every_room_once_and_its_floors_descend() {
    let rooms = rooms();
    let floors: Vec<u32> = rooms.iter().map(|(floor, _)| *floor).collect();
    assert!(floors.is_sorted_by(|above, below| above >= below), "{rooms:?}");
    let mut mapped: Vec<String> = rooms.into_iter().map(|(_, name)| name).collect();
    mapped.sort_unstable();
    let mut built: Vec<String> = fs::read_dir(src())
        .expect("src is there")
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    built.sort_unstable();
    assert_eq!(mapped, built);
}

#[test]
fn a_room_uses_only_rooms_below_it() {
    let order: Vec<String> = rooms().into_iter().map(|(_, name)| name).collect();
    let mut wrong = Vec::new();
    for (height, room) in order.iter().enumerate() {
        for path in sources(&src().join(room)) {
            let text = fs::read_to_string(&path).expect("a source file");
            assert!(!text.contains("super::super::super"), "{}: a path that no reader can follow", path.display());
            for other in used(&text).iter().filter(|other| *other != room) {
                match order.iter().position(|name| name == other) {
                    Some(place) if place > height => {}
                    Some(_) => {
                        wrong.push(format!("{} uses {other}, which does not stand below {room}", path.display()))
                    }
                    None => wrong.push(format!("{} uses {other}, which is no room of the map", path.display())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Effects have one door each: commands are started in one file, and netlink is spoken in one room.
#[test]
fn commands_and_netlink_have_one_place_each() {
    let netlink = Regex::new(r"\bnetlink_").expect("a pattern"); // the crates, not the kernel's nfnetlink_log
    for path in sources(&src()) {
        let name = path.strip_prefix(src()).expect("it is below src").display().to_string();
        let text = fs::read_to_string(&path).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(!code.contains("duct::") || name == "host/commands.rs", "{name} starts commands by itself");
        assert!(!code.contains("process::Command") || name == "host/commands.rs", "{name} starts commands by itself");
        assert!(!netlink.is_match(code) || name.starts_with("kernel/"), "{name} speaks netlink");
    }
}

/// What is done with more rights than the watcher's is no part of it: its own command alone starts it.
#[test]
fn the_watcher_has_nothing_of_the_responders_side() {
    let serve = Regex::new(r"\bserve\b\s*(::|;|,|\})").expect("a pattern");
    for path in sources(&src()) {
        let name = path.strip_prefix(src()).expect("it is below src").display().to_string();
        let text = fs::read_to_string(&path).expect("a source file");
        let may = ["cli/mod.rs", "daemon/responder/mod.rs", "daemon/responder/serve.rs"].contains(&name.as_str());
        assert!(may || !serve.is_match(&text), "{name} uses what the responder does");
    }
}

/// main parses, calls and returns a status.
#[test]
fn main_stays_short() {
    let lines = fs::read_to_string(src().join("main.rs")).expect("src/main.rs is there").lines().count();
    assert!(lines < 40, "src/main.rs has {lines} lines");
}

//! A directory's whole content as a value: for "changes nothing", "byte for byte" and "equals a control box".

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use regex::bytes::Regex;
use similar::TextDiff;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    Directory { mode: u32, owner: (u32, u32) },
    File { mode: u32, owner: (u32, u32), bytes: Vec<u8> },
    Link { to: String },
    Other,
}

/// What whoever makes or removes a user leaves of the files as they were before.
pub const ACCOUNTS_BEFORE: [&str; 4] = ["passwd-", "group-", "shadow-", "gshadow-"];
/// Who is a user: a package or a unit may make one, which shows elsewhere.
pub const ACCOUNTS: [&str; 4] = ["passwd", "group", "shadow", "gshadow"];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree(pub BTreeMap<String, Node>);

impl Tree {
    pub fn read(root: &Path) -> Tree {
        let mut nodes = BTreeMap::new();
        collect(root, "", &mut nodes);
        Tree(nodes)
    }

    pub fn bytes(&self, path: &str) -> Option<&[u8]> {
        match self.0.get(path) {
            Some(Node::File { bytes, .. }) => Some(bytes),
            _ => None,
        }
    }

    /// Without the paths that start with one of these: what any installation or boot writes anew.
    pub fn without(mut self, prefixes: &[&str]) -> Tree {
        self.0.retain(|path, _| !prefixes.iter().any(|p| path.starts_with(p)));
        self
    }

    /// Without the days on which `shadow` says that passwords were set: one box can be made before midnight, another after.
    pub fn without_days(mut self) -> Tree {
        if let Some(Node::File { bytes, .. }) = self.0.get_mut("shadow") {
            let day = Regex::new(r"(?m)^([^:\n]*:[^:\n]*:)\d+").expect("a pattern");
            *bytes = day.replace_all(bytes, b"${1}day").into_owned();
        }
        self
    }

    /// What has to change to come from this tree to another, for people; empty if they are equal.
    pub fn differences(&self, other: &Tree) -> String {
        let mut text = String::new();
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        for path in paths {
            text += &match (self.0.get(path), other.0.get(path)) {
                (a, b) if a == b => continue,
                (Some(a), None) => format!("only on the left: {path} ({})\n", describe(a)),
                (None, Some(b)) => format!("only on the right: {path} ({})\n", describe(b)),
                (Some(Node::File { bytes: a, .. }), Some(Node::File { bytes: b, .. })) if a != b => {
                    let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
                    format!("differs: {path}\n{}", TextDiff::from_lines(&*a, &*b).unified_diff().context_radius(1))
                }
                (Some(a), Some(b)) => {
                    format!("differs: {path}: {} / {}\n", describe(a), describe(b))
                }
                (None, None) => continue,
            };
        }
        text
    }

    /// Fails, showing the differences, unless the trees are equal.
    #[track_caller]
    pub fn must_equal(&self, other: &Tree, what: &str) {
        let differences = self.differences(other);
        assert!(differences.is_empty(), "{what}:\n{differences}");
    }
}

fn describe(node: &Node) -> String {
    match node {
        Node::Directory { mode, owner } => format!("directory, {mode:o}, {}:{}", owner.0, owner.1),
        Node::File { mode, owner, bytes } => format!("file, {mode:o}, {}:{}, {} bytes", owner.0, owner.1, bytes.len()),
        Node::Link { to } => format!("link to {to}"),
        Node::Other => "other".to_owned(),
    }
}

fn collect(root: &Path, below: &str, nodes: &mut BTreeMap<String, Node>) {
    let read = |e: std::io::Error| panic!("cannot read {}/{below}: {e}", root.display());
    for entry in fs::read_dir(root.join(below)).unwrap_or_else(read) {
        let entry = entry.unwrap_or_else(|e| panic!("cannot list {}: {e}", root.display()));
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let meta = fs::symlink_metadata(entry.path()).unwrap_or_else(|e| panic!("cannot look at {path}: {e}"));
        let (mode, owner) = (meta.mode() & 0o7777, (meta.uid(), meta.gid()));
        let node = if meta.is_dir() {
            collect(root, &path, nodes);
            Node::Directory { mode, owner }
        } else if meta.is_symlink() {
            Node::Link { to: fs::read_link(entry.path()).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default() }
        } else if meta.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_else(|e| panic!("cannot read {path}: {e}"));
            Node::File { mode, owner, bytes }
        } else {
            Node::Other
        };
        nodes.insert(path, node);
    }
}

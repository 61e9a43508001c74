//! The files as they will be once the plan so far is done: what a step edits, the next one sees edited.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::host::Host;

use super::change::{FileChange, FileKind, Later};

/// A file's content at some point of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Bytes(Vec<u8>),
    Absent,
    /// It comes with a package that is not installed and could not be looked into.
    Unknown,
}

/// The planned state of the files of one host.
pub struct Draft<'a> {
    host: &'a Host,
    /// What packages that are about to be installed bring; `None` if that cannot be known yet.
    pristine: Option<BTreeMap<PathBuf, Vec<u8>>>,
    pending: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl<'a> Draft<'a> {
    /// The files of `host`, and below them those that packages will bring (`Some(empty)`: none are missing).
    pub fn new(host: &'a Host, pristine: Option<BTreeMap<PathBuf, Vec<u8>>>) -> Draft<'a> {
        Draft { host, pristine, pending: BTreeMap::new() }
    }

    /// What `path` holds now.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn content(&self, path: &Path) -> Result<Content> {
        if let Some(pending) = self.pending.get(path) {
            return Ok(pending.clone().map_or(Content::Absent, Content::Bytes));
        }
        if let Some(state) = self.host.read(path)? {
            return Ok(Content::Bytes(state.bytes));
        }
        Ok(match &self.pristine {
            None => Content::Unknown,
            Some(files) => files.get(path).cloned().map_or(Content::Absent, Content::Bytes),
        })
    }

    /// Plans that `path` holds `after`; `None` where it holds that already.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn put(
        &mut self,
        path: &Path,
        after: &[u8],
        mode: u32,
        kind: FileKind,
        why: &str,
    ) -> Result<Option<FileChange>> {
        let before = match self.content(path)? {
            Content::Bytes(bytes) => Some(bytes),
            Content::Absent | Content::Unknown => None,
        };
        if before.as_deref() == Some(after) {
            return Ok(None);
        }
        self.pending.insert(path.to_owned(), Some(after.to_vec()));
        let real = self.host.real_path(path)?;
        Ok(Some(FileChange {
            path: path.to_owned(),
            before,
            after: Some(after.to_vec()),
            mode,
            kind,
            why: why.to_owned(),
            follows_link_to: self.host.link(path).map(|_| real),
        }))
    }

    /// Plans that `path` goes; `None` where there is nothing.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn remove(&mut self, path: &Path, why: &str) -> Result<Option<FileChange>> {
        let Content::Bytes(before) = self.content(path)? else { return Ok(None) };
        self.pending.insert(path.to_owned(), None);
        Ok(Some(FileChange {
            path: path.to_owned(),
            before: Some(before),
            after: None,
            mode: 0o644,
            kind: FileKind::Whole,
            why: why.to_owned(),
            follows_link_to: None,
        }))
    }

    /// The files of `directory` whose names end in `ending`, sorted, those of packages to come included.
    pub fn list(&self, directory: &str, ending: &str) -> Vec<String> {
        let mut names: Vec<String> =
            self.host.list(directory).into_iter().map(|name| format!("{directory}/{name}")).collect();
        let to_come = self.pristine.iter().flatten().map(|(path, _)| path).chain(self.pending.keys());
        names.extend(
            to_come.filter(|path| path.parent() == Some(Path::new(directory))).map(|path| path.display().to_string()),
        );
        names.retain(|name| name.ends_with(ending));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether any of `paths` is planned to change.
    pub fn changes(&self, paths: &[&str]) -> bool {
        paths.iter().any(|path| self.pending.contains_key(Path::new(path)))
    }

    /// A change of `path` that cannot be shown before its package is there.
    pub fn later(path: &Path, why: &str) -> Later {
        Later { path: path.to_owned(), why: why.to_owned() }
    }
}

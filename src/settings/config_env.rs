//! /root/config.env: the LAN_* variables, read and never executed, from a file that only root can write.

use std::path::Path;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::syntax::shell_vars::ShellVars;

use super::origin::{Origin, Sourced};
use super::writers::check_writers;

/// The four variables of the article.
pub const NAMES: [&str; 4] = ["LAN_IF", "LAN_IP", "LAN_NM", "LAN_GW"];

/// The file, unless there is none.
///
/// # Errors
/// It cannot be read, or others than root can write it.
pub fn open(path: &Path) -> Result<Option<ShellVars>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    check_writers(path)?;
    Ok(Some(ShellVars::parse(&bytes)))
}

/// What `file`, which lies at `path`, assigns to the LAN_* variables.
///
/// # Errors
/// A LAN_* line needs a shell, is doubled or cannot be read; every such line is named.
pub fn variables(
    file: &ShellVars,
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, Sourced<String>)>> {
    let assignments = file.read(&NAMES, environment).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| format!("{}, {error}", path.display())).collect();
        anyhow::anyhow!(lines.join("\n"))
    })?;
    Ok(assignments
        .into_iter()
        .map(|one| {
            let origin = Origin::Line(path.to_owned(), one.line);
            (one.key, Sourced { value: one.value, origin })
        })
        .collect())
}

/// Writes `values` into config.env by key, what else stands in it kept; a new file gets mode 0600.
///
/// # Errors
/// A value that cannot stand in such a file, or the file system refuses.
pub fn write(path: &Path, values: &[(&str, String)]) -> Result<()> {
    let host = Host::new(Path::new("/"))?;
    let path = std::path::absolute(path)?;
    let old = host.read(&path)?;
    let mut vars = ShellVars::parse(old.as_ref().map_or(b"", |state| state.bytes.as_slice()));
    for (name, value) in values {
        vars.set_exported(name, value)
            .map_err(|error| anyhow::anyhow!("cannot write {name} to {}: {error}", path.display()))?;
    }
    host.write(&path, &vars.to_bytes(), 0o600)
}

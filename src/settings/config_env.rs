//! /root/config.env: the LAN_* variables, read and never executed, from a file that only root can write.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::syntax::shell_vars::ShellVars;

use super::lan::NAMES;
use super::origin::{Origin, Sourced};

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

/// Refuses a file that others than root (or, in a test root, than the one who runs this) could have written:
/// its values end up in commands that root runs.
///
/// # Errors
/// Says who could write it and how to change that.
pub fn check_writers(path: &Path) -> Result<()> {
    let us = rustix::process::geteuid().as_raw();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for place in [path, directory] {
        let meta = std::fs::metadata(place).with_context(|| format!("cannot look at {}", place.display()))?;
        if meta.uid() != 0 && meta.uid() != us {
            bail!(
                "{} belongs to user {}, who could change what root does with it; run: chown root: {}",
                place.display(),
                meta.uid(),
                place.display()
            );
        }
        let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
        if meta.mode() & 0o022 != 0 && !sticky {
            bail!(
                "{} can be written by others than root (mode {:04o}); run: chmod go-w {}",
                place.display(),
                meta.mode() & 0o7777,
                place.display()
            );
        }
    }
    Ok(())
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

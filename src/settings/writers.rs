//! Who else could write a file that root obeys.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

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

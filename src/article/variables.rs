//! Step 1: the variables, and this program where its units and commands can rely on it.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::plan::{Change, Content, Draft, FileKind, ProgramChange, Step};
use crate::settings::add_ssh_client;

use super::{Context, sections};

/// Where apply puts this program.
const HOME: &str = "/usr/local/sbin/harden-portsentry";
/// Where the Debian package of this program puts it.
const PACKAGED: &str = "/usr/sbin/harden-portsentry";

pub fn step(context: &Context, draft: &mut Draft) -> Result<Step> {
    let mut step = Step::new("variables", "Variables", sections::VARIABLES);
    let lan = &context.settings.lan;
    step.summary = format!("{} on {}, read from {}", lan.network(), lan.interface.value, lan.address.origin);
    for warning in &context.settings.warnings {
        step.warn(warning.clone());
    }
    step.changes.extend(program(context)?.map(Change::Program));
    let clients = &context.settings.new_ssh_clients;
    if !clients.is_empty() {
        let path = &context.settings.policy_path;
        let old = match draft.content(path)? {
            Content::Bytes(bytes) => bytes,
            Content::Absent | Content::Unknown => Vec::new(),
        };
        let old = String::from_utf8_lossy(&old).into_owned();
        let text = clients.iter().try_fold(old, |text, client| add_ssh_client(&text, client))?;
        let from: Vec<String> = clients.iter().map(|client| client.address.to_string()).collect();
        let why = format!("you are logged in from {}; it is never blocked from now on", from.join(" and "));
        step.file(draft.put(path, text.as_bytes(), 0o644, FileKind::Whole, &why)?);
    }
    Ok(step)
}

/// Where this program stays.
pub fn place(context: &Context) -> &'static str {
    let packaged = context.facts.packages.has("harden-portsentry") && context.host.exists(PACKAGED);
    if packaged { PACKAGED } else { HOME }
}

/// A unit or a jail must not name a file below a build directory, which others may write or `cargo clean`
/// removes.
pub fn program(context: &Context) -> Result<Option<ProgramChange>> {
    if place(context) == PACKAGED {
        return Ok(None);
    }
    let from = std::env::current_exe().context("cannot tell where this program is")?;
    let to = context.host.outside(Path::new(HOME));
    if from == to {
        return Ok(None);
    }
    let size = std::fs::metadata(&from).with_context(|| format!("cannot read {}", from.display()))?.len();
    let same = std::fs::metadata(&to).is_ok_and(|meta| meta.len() == size)
        && std::fs::read(&to).ok() == std::fs::read(&from).ok();
    let replaces = to.exists();
    Ok((!same).then(|| ProgramChange { from, to: HOME.into(), size, replaces }))
}

//! The article's end state, section by section, compared with what is on the machine.
//!
//! Each step is a function from the context and the draft of the files to a [`Step`]; diff shows them, apply
//! carries them out, verify wants them empty.

mod blocking;
mod embedded;
mod fail2ban;
mod install;
mod keeping;
mod listening;
mod moving;
mod response;
mod safe_addresses;
mod service;
mod units;
mod variables;

use std::path::Path;

use anyhow::{Context as _, Result};
use askama::Template;

use crate::blocks::PacketFilter;
use crate::host::{Facts, Generation, Host, Process};
use crate::plan::{Content, Draft, Plan, Step};
use crate::settings::{Engine, Settings};

pub use blocking::built_in;
pub use embedded::leaves;
pub use install::{Fallback, Offer, needs_iptables};
pub use keeping::{CHAOS_LOOK, ends_blocks, units as keeping_units};
use response::packet_filter;
pub use response::{CHAOS_PACKAGE, Chosen};
pub use safe_addresses::{Safe, allowed_networks, is_safe, safe_networks};
pub use service::{by_hand, runs_as_wanted};

/// The article's own headings, where it has one; else what it does there.
pub mod sections {
    pub const VARIABLES: &str = "Variables (config.env)";
    pub const INSTALL: &str = "Installation";
    pub const LISTENING: &str = "Configuration de l'écoute avancée";
    pub const BLOCKING: &str = "Blocage avec IPTables, CHAOS et TCPWrappers";
    pub const SERVICE: &str = "Redémarrage";
    pub const FAIL2BAN: &str = "Durcissement avec fail2ban";
}

/// What portsentry 1.2 reads: built by its package, from the list that people edit, at each start.
pub const BUILT_IGNORE_LIST: &str = "/etc/portsentry/portsentry.ignore";
/// TCP wrappers' files.
pub const HOSTS_ALLOW: &str = "/etc/hosts.allow";
pub use crate::blocks::package::HOSTS_DENY;

/// What every step looks at.
pub struct Context<'a> {
    pub host: &'a Host,
    pub facts: &'a Facts,
    pub settings: &'a Settings,
    /// Of the portsentry that is to watch: built in, or installed, or about to be; `None` while apt does not know one.
    pub generation: Option<Generation>,
    /// Version of Debian's, where that is the one.
    pub version: Option<String>,
    pub chosen: Chosen,
    /// By which hosts are blocked.
    pub filter: PacketFilter,
    /// Whether files of packages that are about to be installed could be looked into.
    pub offer: Offer,
}

/// A file counts as changed after a process started only by this many seconds: /proc tells a start to 10 ms.
const CLOCK_GRAIN: f64 = 0.05;

impl Context<'_> {
    /// Debian's portsentry, if that is the one that watches.
    pub fn package(&self) -> Option<Generation> {
        self.generation.filter(|generation| *generation != Generation::Embedded)
    }

    /// Whether a file of `reads` was changed after the oldest of `processes` had read it. A change "in the future"
    /// says that the clock was set back, and nothing else.
    fn is_stale<'p>(&self, processes: impl Iterator<Item = &'p Process>, reads: &[&str]) -> bool {
        let Some(started) = processes.map(|process| process.started).min_by(f64::total_cmp) else { return false };
        let now = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
        // 1.2 rebuilds it as it starts.
        let rebuilt = |path: &str| path == BUILT_IGNORE_LIST && self.generation.is_some_and(Generation::is_1_2);
        reads
            .iter()
            .filter(|path| !rebuilt(path))
            .filter_map(|path| self.host.read(path.as_ref()).ok().flatten())
            .any(|state| state.changed > started + CLOCK_GRAIN && state.changed <= now + CLOCK_GRAIN)
    }
}

/// The plan, with what it was made from.
pub struct Described<'a> {
    pub context: Context<'a>,
    pub plan: Plan,
}

/// Compares `host` with the article's end state under `settings`.
///
/// # Errors
/// The response that was asked for cannot work here, apt refuses, or a file cannot be read or understood;
/// nothing was changed.
pub fn describe<'a>(host: &'a Host, settings: &'a Settings, facts: &'a Facts) -> Result<Described<'a>> {
    // Before apt is asked: what cannot work is refused, whatever apt has.
    let chosen = Chosen::of(settings, facts)?;
    let offer = Offer::ask(host, settings, facts)?;
    let embedded = offer.engine == Engine::Embedded;
    let installed = facts.packages.get("portsentry").map(|package| package.version.clone());
    let version = installed.or_else(|| offer.portsentry()).filter(|_| !embedded);
    let generation = match &version {
        Some(version) => Some(Generation::of(version)?),
        None => embedded.then_some(Generation::Embedded),
    };
    let filter = packet_filter(host, settings, generation)?;
    let chosen = chosen.on(host, settings, &filter)?;
    let mut draft = Draft::new(host, offer.pristine.clone());
    let context = Context { host, facts, settings, generation, version, chosen, filter, offer };
    let mut steps = vec![variables::step(&context, &mut draft)?, install::step(&context)?];
    steps.push(listening::step(&context, &mut draft)?);
    steps.push(blocking::step(&context, &mut draft)?);
    steps.push(safe_addresses::step(&context, &mut draft)?);
    steps.push(fail2ban::step(&context, &mut draft)?);
    // Last, for it restarts what the files above are read by; portsentry before fail2ban, which reads its history.
    steps.push(service::step(&context, &mut draft)?);
    Ok(Described { context, plan: Plan { steps } })
}

/// Every file of ours begins with this, so that only ours are ever removed.
const OURS: &[u8] = b"# Written by harden-portsentry";

fn remove_ours(draft: &mut Draft, path: &str, why: &str, step: &mut Step) -> Result<()> {
    if let Content::Bytes(bytes) = draft.content(Path::new(path))?
        && bytes.starts_with(OURS)
    {
        step.file(draft.remove(Path::new(path), why)?);
    }
    Ok(())
}

/// A template's text, with the newline at its end that askama drops.
fn filled(template: &impl Template) -> Result<String> {
    let mut text = template.render().context("cannot fill a template")?;
    text.push('\n');
    Ok(text)
}

/// The configuration could not be read by the daemon that it is for.
pub(crate) fn in_file(path: &str, error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{path}, {error}; nothing was changed")
}

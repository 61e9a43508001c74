//! Step 2: debconf and the packages.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::Result;

use crate::blocks::PacketFilter;
use crate::host::{
    Candidate, ChaosSupport, Facts, Host, Installed, Packages, ServiceManager, Simulation, kernel_release,
    no_such_package,
};
use crate::plan::{Change, PackageChange, Step};
use crate::settings::{Engine, Response, Settings};

use super::response::{CHAOS_PACKAGE, Chosen, wants_iptables};
use super::{Context, embedded, sections};

/// What the article preseeds, for debconf-set-selections(1): its one note must not stop the installation.
const PRESEED: &str = "portsentry portsentry/warn_no_block note\n";

/// Why the embedded portsentry watches where nobody asked for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// `--engine embedded` is said once; the commands after it keep what it made.
    SetUpBefore,
    NoPackage,
}

impl fmt::Display for Fallback {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Fallback::SetUpBefore => "an earlier apply set up the embedded one",
            Fallback::NoPackage => "apt has no package portsentry",
        })
    }
}

impl Fallback {
    /// What follows from it, and what can be done about it.
    fn note(self) -> String {
        match self {
            Fallback::SetUpBefore => format!("{self}, so it stays; --engine package changes over to Debian's"),
            Fallback::NoPackage => {
                format!("{self}, so the portsentry built into this program watches (--engine embedded)")
            }
        }
    }

    /// For the table of the settings, which has room for half a line.
    pub fn in_short(self) -> String {
        match self {
            Fallback::SetUpBefore => "kept; --engine package changes over".to_owned(),
            Fallback::NoPackage => self.to_string(),
        }
    }
}

/// What is missing, and what apt would bring.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Which portsentry these packages are for; never [`Engine::Auto`].
    pub engine: Engine,
    /// Why it is not Debian's, where nobody asked for another.
    pub fallback: Option<Fallback>,
    pub missing: Vec<String>,
    pub candidates: Vec<Candidate>,
    /// Packages that are there and miss conffiles of theirs.
    pub reinstall: Vec<String>,
    pub deleted: Vec<String>,
    /// apt does not know this name (yet).
    pub unknown: Option<String>,
    /// The files below /etc that all of these bring, `None` where a .deb could not be looked into.
    pub pristine: Option<BTreeMap<PathBuf, Vec<u8>>>,
    /// dpkg was interrupted.
    pub interrupted: bool,
}

impl Offer {
    /// Finds out. Asks apt only if something is missing.
    ///
    /// # Errors
    /// apt cannot be run or refuses.
    pub fn ask(host: &Host, settings: &Settings, facts: &Facts) -> Result<Offer> {
        let fall_back = |why| Ok(Offer { fallback: Some(why), ..Offer::of(Engine::Embedded, host, settings, facts)? });
        match settings.engine.value {
            Engine::Embedded => return Offer::of(Engine::Embedded, host, settings, facts),
            Engine::Auto if embedded::is_set_up(host) => return fall_back(Fallback::SetUpBefore),
            Engine::Auto | Engine::Package => {}
        }
        let offer = Offer::of(Engine::Package, host, settings, facts)?;
        // Lists that were never fetched say nothing about what this Debian has.
        let lacks_it = offer.unknown.as_deref() == Some("portsentry") && has_package_lists(host);
        if !lacks_it || settings.engine.value == Engine::Package {
            return Ok(offer);
        }
        fall_back(Fallback::NoPackage)
    }

    fn of(engine: Engine, host: &Host, settings: &Settings, facts: &Facts) -> Result<Offer> {
        let mut offer = Offer {
            engine,
            fallback: None,
            missing: Vec::new(),
            candidates: Vec::new(),
            reinstall: Vec::new(),
            deleted: Vec::new(),
            unknown: None,
            pristine: Some(BTreeMap::new()),
            interrupted: false,
        };
        let by_iptables = wants_iptables(host, settings, engine == Engine::Embedded);
        let wanted = wanted(engine, by_iptables, settings, facts);
        offer.interrupted = host.dpkg_was_interrupted()
            || wanted.iter().any(|name| facts.packages.get(name).is_some_and(|package| package.half_done()));
        let is_missing = |name: &str| facts.packages.get(name).is_none_or(Installed::half_unpacked);
        offer.missing = wanted.iter().filter(|name| is_missing(name)).cloned().collect();
        if let Some(portsentry) =
            facts.packages.get("portsentry").filter(|_| engine == Engine::Package && !is_missing("portsentry"))
        {
            offer.deleted = deleted_conffiles(host, "portsentry");
            if !offer.deleted.is_empty() {
                offer.reinstall.push("portsentry".to_owned());
                offer.candidates.push(Candidate {
                    name: "portsentry".to_owned(),
                    version: portsentry.version.clone(),
                    architecture: portsentry.architecture.clone(),
                });
            }
        }
        if offer.interrupted || !offer.missing.is_empty() {
            let others = Packages::all_half_unpacked(host)?;
            offer.missing.extend(others.into_iter().filter(|name| !wanted.contains(name)));
        }
        if !offer.missing.is_empty() {
            match host.simulate_install(&offer.missing)? {
                Simulation::Installs(candidates) => offer.candidates.extend(candidates),
                Simulation::Unknown(name) => {
                    offer.unknown = Some(name);
                    offer.pristine = None;
                    return Ok(offer);
                }
            }
        }
        // Only these bring files that a step edits.
        let bearers = ["portsentry", "fail2ban", "libwrap0"];
        let looked_into: Vec<Candidate> =
            offer.candidates.iter().filter(|one| bearers.contains(&one.name.as_str())).cloned().collect();
        offer.pristine = host.pristine_files(&looked_into)?;
        Ok(offer)
    }

    /// The version of portsentry that apt would bring.
    pub fn portsentry(&self) -> Option<String> {
        self.candidates.iter().find(|one| one.name == "portsentry").map(|one| one.version.clone())
    }

    /// Whether a package is on its way whose files are not known yet.
    pub fn blind(&self) -> bool {
        self.pristine.is_none()
    }
}

fn wanted(engine: Engine, by_iptables: bool, settings: &Settings, facts: &Facts) -> Vec<String> {
    // Whoever is blocked is so by a table of nftables, and the built-in portsentry picks its packets by another.
    let mut wanted = Vec::new();
    if engine == Engine::Package {
        wanted.push("portsentry".to_owned());
    }
    if !by_iptables {
        wanted.push("nftables".to_owned());
    }
    if by_iptables || needs_iptables(settings, facts) {
        wanted.push("iptables".to_owned());
    }
    if settings.fail2ban.value {
        wanted.push("fail2ban".to_owned());
        // Only recommended on 11 and 12; a jail that reads the journal kills fail2ban without it.
        if facts.manager != ServiceManager::Sysv {
            wanted.push("python3-systemd".to_owned());
        }
    }
    if settings.install_chaos && facts.chaos != ChaosSupport::Works {
        wanted.extend(["xtables-addons-common", CHAOS_PACKAGE].map(str::to_owned));
        wanted.push(format!("linux-headers-{}", kernel_release())); // dkms builds for the kernel that runs
    }
    wanted
}

/// Whether anything that is set up calls iptables: CHAOS, stock jails of fail2ban.
pub fn needs_iptables(settings: &Settings, facts: &Facts) -> bool {
    let answers_with_it = || Chosen::of(settings, facts).is_ok_and(|chosen| chosen.response == Response::Chaos);
    settings.fail2ban.value || answers_with_it()
}

/// dpkg's list of a package's conffiles, those that somebody deleted: 1.2 dies without them and its unit
/// says active (trap 23).
fn deleted_conffiles(host: &Host, package: &str) -> Vec<String> {
    let list = host.text(&format!("/var/lib/dpkg/info/{package}.conffiles")).unwrap_or_default();
    list.lines()
        .map(str::trim)
        .filter(|path| path.starts_with("/etc/") && !host.exists(path))
        .map(str::to_owned)
        .collect()
}

pub fn step(context: &Context) -> Result<Step> {
    let mut step = Step::new("install", "Packages", sections::INSTALL);
    let offer = &context.offer;
    if let Some(name) = &offer.unknown {
        unknown(context, name, &mut step)?;
        return Ok(step);
    }
    step.summary = format!(
        "{} installed",
        wanted(offer.engine, context.filter != PacketFilter::Nftables, context.settings, context.facts).join(", ")
    );
    if let Some(why) = &offer.fallback {
        step.info(why.note());
    }
    let mut why = Vec::new();
    if offer.interrupted {
        why.push("an installation was interrupted".to_owned());
    }
    if !offer.missing.is_empty() {
        why.push(format!("{} missing", offer.missing.join(", ")));
    }
    if !offer.deleted.is_empty() {
        why.push(format!("deleted: {}", offer.deleted.join(", ")));
    }
    if !why.is_empty() {
        step.changes.push(Change::Packages(PackageChange {
            preseed: preseed(offer),
            install: offer.missing.clone(),
            candidates: offer.candidates.clone(),
            reinstall: offer.reinstall.clone(),
            update_first: false,
            finish_configuring: offer.interrupted,
            why: why.join("; "),
        }));
    }
    if offer.blind() {
        step.info("the packages could not be looked into before they are installed (apt-get cannot fetch them now)");
    }
    Ok(step)
}

fn preseed(offer: &Offer) -> Option<String> {
    offer.missing.iter().any(|name| name == "portsentry").then(|| PRESEED.to_owned())
}

fn has_package_lists(host: &Host) -> bool {
    host.list("/var/lib/apt/lists").iter().any(|file| file.ends_with("Packages") || file.contains("_Packages"))
}

/// apt does not know a package: its lists may never have been fetched, and apply fetches them once.
fn unknown(context: &Context, name: &str, step: &mut Step) -> Result<()> {
    if !has_package_lists(context.host) {
        step.summary = format!(
            "{} installed",
            wanted(context.offer.engine, context.filter != PacketFilter::Nftables, context.settings, context.facts)
                .join(", ")
        );
        step.info(
            "apt has no package lists yet; apply runs apt-get update first, and only then can the files be shown",
        );
        step.changes.push(Change::Packages(PackageChange {
            preseed: preseed(&context.offer),
            install: context.offer.missing.clone(),
            update_first: true,
            finish_configuring: context.offer.interrupted,
            why: format!("{} missing", context.offer.missing.join(", ")),
            ..PackageChange::default()
        }));
        return Ok(());
    }
    Err(no_such_package(name))
}

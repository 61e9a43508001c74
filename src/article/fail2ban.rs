//! Step 7: fail2ban's portsentry jail, so that blocks survive a restart.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use askama::Template;
use ipnet::IpNet;

use crate::host::{EMBEDDED_USER, Generation, JAIL_FILE, SYSUSERS, ServiceManager};
use crate::plan::{Change, Content, Draft, FileKind, Step};
use crate::syntax::ini::Ini;

use super::{Context, OURS, built_in, filled, remove_ours, safe_networks, sections, variables};

const FILTER: &str = "/etc/fail2ban/filter.d/harden-portsentry.conf";
const ACTION: &str = "/etc/fail2ban/action.d/harden-portsentry.conf";
/// A jail.d file of its own for the stock sshd jail; read after Debian's defaults-debian.conf.
const SSHD: &str = "/etc/fail2ban/jail.d/harden-portsentry-sshd.conf";
const SERVICE: &str = "/etc/systemd/system/fail2ban.service.d/harden-portsentry.conf";
/// Packages whose service flushes the firewall, and fail2ban's bans with it; and what makes it bring them back.
const FLUSHING: [(&str, &str); 2] = [
    ("nftables", include_str!("../../templates/fail2ban-nftables.conf")),
    ("netfilter-persistent", include_str!("../../templates/fail2ban-netfilter-persistent.conf")),
];
#[derive(Template)]
#[template(path = "fail2ban-jail.conf", escape = "none")]
struct Jail<'a> {
    history: &'a str,
    findtime: &'a str,
    bantime: &'a str,
    ignoreip: &'a str,
    /// A ban asks for a block.
    built_in: bool,
    blocktype: &'a str,
    blocktype6: &'a str,
    /// An action of fail2ban's own, and the protocols that it is to cut off.
    banaction: Option<(&'a str, &'a str)>,
}

#[derive(Template)]
#[template(path = "fail2ban-action-block.conf", escape = "none")]
struct BlockAction<'a> {
    program: &'a str,
}

#[derive(Template)]
#[template(path = "fail2ban-service.conf", escape = "none")]
struct Service<'a> {
    history: &'a str,
    history_dir: &'a str,
    /// Whose that directory is, if it is not root's.
    user: Option<&'a str>,
    sysusers: &'a str,
}

#[derive(Template)]
#[template(path = "fail2ban-filter.conf", escape = "none")]
struct Filter {
    /// Lines that say that a host was not blocked are nobody's business.
    blocked_alone: bool,
}

pub fn step(context: &Context, draft: &mut Draft) -> Result<Step> {
    let mut step = Step::new("fail2ban", "fail2ban", sections::FAIL2BAN);
    if !context.settings.fail2ban.value {
        step.summary = format!("left out ({})", context.settings.fail2ban.origin);
        for path in every_file() {
            remove_ours(draft, &path, "fail2ban is left out by policy.toml", &mut step)?;
        }
        return Ok(step);
    }
    let bantime = context.settings.bantime.value;
    step.summary = match built_in(context) {
        Some(_) => format!("lists whom portsentry catches, for {bantime}; when a block ends the ledger says"),
        None => format!("brings blocks back after a restart, for {bantime}"),
    };
    let Some(generation) = context.generation else {
        step.changes.push(Change::Later(Draft::later(Path::new(JAIL_FILE), "the jail")));
        return Ok(step);
    };
    let history = generation.history();
    let text = jail(context, draft, history)?;
    if context.settings.banaction.is_some() {
        remove_ours(draft, ACTION, "policy.toml names another action", &mut step)?;
    }
    let mut put = |path: &str, text: &str, why: &str| -> Result<()> {
        step.file(draft.put(Path::new(path), text.as_bytes(), 0o644, FileKind::Whole, why)?);
        Ok(())
    };
    let built_in = built_in(context).is_some();
    match built_in {
        // fail2ban brings its file.
        _ if context.settings.banaction.is_some() => {}
        true => {
            let text = filled(&BlockAction { program: variables::place(context) })?;
            put(ACTION, &text, "a ban asks for a block, so that one list says who is blocked")?;
        }
        false => put(
            ACTION,
            include_str!("../../templates/fail2ban-action.conf"),
            "a ban that answers as KILL_ROUTE does, for every protocol and family",
        )?,
    }
    let filter = filled(&Filter { blocked_alone: built_in })?;
    put(FILTER, &filter, "reads portsentry's history, of 1.2 and of 2.0")?;
    put(JAIL_FILE, &text, "the jail, with the history that this portsentry writes")?;
    let directory = Path::new(history).parent().and_then(Path::to_str).unwrap_or("/");
    let user = (generation == Generation::Embedded).then_some(EMBEDDED_USER);
    let service = filled(&Service { history, history_dir: directory, user, sysusers: SYSUSERS })?;
    put(SERVICE, &service, "a history that is missing stops every jail")?;
    for (package, text) in FLUSHING {
        let there = ["/lib/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system"];
        if built_in {
            continue; // blocks come back by themselves
        }
        let comes = context.offer.candidates.iter().any(|one| one.name == package);
        if comes || there.iter().any(|place| context.host.exists(&format!("{place}/{package}.service"))) {
            put(&drop_in(package), text, "it flushes the firewall, and the bans with it")?;
        }
    }
    if built_in {
        for (package, _) in FLUSHING {
            remove_ours(draft, &drop_in(package), "no ban is in the firewall", &mut step)?;
        }
    }
    // In a directory that is the watcher's fail2ban's unit makes it, as the watcher.
    let is_made_here = user.is_none() || context.facts.manager != ServiceManager::Systemd;
    if is_made_here && draft.content(Path::new(history))? == Content::Absent {
        step.file(draft.put(Path::new(history), b"", 0o644, FileKind::Log, "fail2ban does not start without it")?);
    }
    warn_of_action(context, draft, &mut step)?;
    sshd_jail(context, draft, &mut step)?;
    for path in jail_files(draft) {
        if let Content::Bytes(bytes) = draft.content(Path::new(&path))?
            && let Some(error) = Ini::parse(&bytes).errors().first()
        {
            step.warn(format!("{path}, {error}; as it is, fail2ban does not start with any of its jails"));
        }
    }
    Ok(step)
}

fn drop_in(package: &str) -> String {
    format!("/etc/systemd/system/{package}.service.d/harden-portsentry.conf")
}

fn every_file() -> Vec<String> {
    let mut all: Vec<String> = [JAIL_FILE, FILTER, ACTION, SSHD, SERVICE].map(str::to_owned).to_vec();
    all.extend(FLUSHING.map(|(package, _)| drop_in(package)));
    all
}

/// The action that policy.toml names, and all protocols as its fail2ban takes them: up to 0.11 the word goes into a rule as it
/// is, from 1.0 on a list makes a rule each (trap 20).
fn stock_action<'a>(context: &'a Context) -> Option<(&'a str, &'a str)> {
    let action = context.settings.banaction.as_ref()?;
    let installed = context.facts.packages.get("fail2ban").map(|package| package.version.as_str());
    let comes = context.offer.candidates.iter().find(|one| one.name == "fail2ban").map(|one| one.version.as_str());
    let is_old = installed.or(comes).is_some_and(|version| version.starts_with("0."));
    Some((&action.value, if is_old { "all" } else { "tcp,udp" }))
}

fn jail(context: &Context, draft: &Draft, history: &str) -> Result<String> {
    let mut safe = vec!["127.0.0.0/8".to_owned(), "::1".to_owned()];
    safe.extend(safe_networks(context).iter().map(|one| one.network.to_string()));
    // Our list replaces the one in [DEFAULT], so whom the administrator lets off there is let off here.
    let theirs = setting(draft, "DEFAULT", "ignoreip", &[JAIL_FILE])?.unwrap_or_default();
    let is_address = |word: &&str| word.parse::<IpAddr>().is_ok() || word.parse::<IpNet>().is_ok();
    for word in theirs.split([' ', ',', '\n', '\t']).filter(is_address) {
        if !safe.iter().any(|known| known == word) {
            safe.push(word.to_owned());
        }
    }
    let bantime = context.settings.bantime.value.for_fail2ban();
    let wishes = built_in(context).is_some() && context.settings.banaction.is_none();
    let findtime = match bantime.as_str() {
        // What an older line says is in the ledger, or somebody has freed it since; fail2ban reads the history again where it
        // does not know how far it had read, and would hold for banned who is free.
        // Sooner than the action calls a line old, or one in between would be a ban without a block.
        _ if wishes => "20",
        "-1" => "86400",
        // Lines older than a ban need no ban any more.
        bantime => bantime,
    };
    filled(&Jail {
        history,
        findtime,
        bantime: &bantime,
        ignoreip: &safe.join(" "),
        built_in: built_in(context).is_some(),
        blocktype: context.chosen.target(false),
        blocktype6: context.chosen.target(true),
        banaction: stock_action(context),
    })
}

/// On a minimal Debian 11 or 12 the stock sshd jail has no log, and fail2ban does not start at all (trap 6). It gets the
/// journal; where there is none, it is turned off until there is a log.
fn sshd_jail(context: &Context, draft: &mut Draft, step: &mut Step) -> Result<()> {
    let ours = draft.content(Path::new(SSHD))? != Content::Absent;
    if !context.settings.mend_sshd_jail.value {
        remove_ours(draft, SSHD, "policy.toml forbids mending the sshd jail", step)?;
        if sshd_has_no_log(context, draft)? {
            step.warn("the sshd jail has no log (/var/log/auth.log), and fail2ban does not start for it; policy.toml forbids mending it: install rsyslog");
        }
        return Ok(());
    }
    let no_log = sshd_has_no_log(context, draft)?;
    if !ours && !no_log {
        return Ok(());
    }
    let (text, why) = if context.facts.manager != ServiceManager::Sysv {
        (
            include_str!("../../templates/fail2ban-sshd-backend.conf"),
            "the stock sshd jail has no log here, and without one fail2ban does not start; `mend_sshd_jail = false` in policy.toml refuses this",
        )
    } else if no_log {
        step.warn("the sshd jail has no log (/var/log/auth.log) and there is no journal, so it is turned off, for fail2ban does not start with it; install rsyslog and apply again to have it back");
        (
            include_str!("../../templates/fail2ban-sshd-off.conf"),
            "the stock sshd jail has neither a log nor a journal here, and fail2ban does not start with it; `mend_sshd_jail = false` in policy.toml refuses this",
        )
    } else {
        return remove_ours(draft, SSHD, "the sshd jail has its log again", step);
    };
    step.file(draft.put(Path::new(SSHD), text.as_bytes(), 0o644, FileKind::Whole, why)?);
    Ok(())
}

/// Whether the sshd jail is on, reads a file, and that file is missing.
fn sshd_has_no_log(context: &Context, draft: &Draft) -> Result<bool> {
    let sshd = |key: &str| setting(draft, "sshd", key, &[SSHD]);
    if !matches!(sshd("enabled")?.as_deref(), Some("true" | "1" | "yes" | "on")) {
        return Ok(false);
    }
    let mut backend = sshd("backend")?.unwrap_or_default();
    // %(sshd_backend)s is what the distribution's paths file says: systemd from Debian 13 on, else the default.
    if backend.contains("sshd_backend") {
        let by_distribution = match draft.content(Path::new("/etc/fail2ban/paths-debian.conf"))? {
            Content::Bytes(bytes) => Ini::parse(&bytes).get("DEFAULT", "sshd_backend"),
            _ => None,
        };
        let by_user = setting(draft, "DEFAULT", "sshd_backend", &[])?;
        let default = setting(draft, "DEFAULT", "backend", &[])?;
        backend = by_user.or(by_distribution).or(default).unwrap_or_default();
    }
    if backend.starts_with("systemd") {
        return Ok(false);
    }
    let logpath = sshd("logpath")?.unwrap_or_default();
    let log = if logpath.is_empty() || logpath.contains("%(") { "/var/log/auth.log" } else { logpath.as_str() };
    let is_there =
        |path: &str| path.contains('*') || context.host.read(Path::new(path)).is_ok_and(|file| file.is_some());
    Ok(!log.split_whitespace().any(is_there))
}

/// The files that make up fail2ban's jails, in the order in which it reads them (jail.conf(5)).
fn jail_files(draft: &Draft) -> Vec<String> {
    let mut paths = vec!["/etc/fail2ban/jail.conf".to_owned()];
    paths.extend(draft.list("/etc/fail2ban/jail.d", ".conf"));
    paths.push("/etc/fail2ban/jail.local".to_owned());
    paths.extend(draft.list("/etc/fail2ban/jail.d", ".local"));
    paths
}

/// A value of fail2ban's jails as its files have it, the later ones winning, `except` left out.
fn setting(draft: &Draft, section: &str, key: &str, except: &[&str]) -> Result<Option<String>> {
    let mut value = None;
    for path in jail_files(draft).iter().filter(|path| !except.contains(&path.as_str())) {
        if let Content::Bytes(bytes) = draft.content(Path::new(path))? {
            value = Ini::parse(&bytes).get(section, key).or(value);
        }
    }
    Ok(value)
}

/// Warns of an action that is not there: fail2ban does not start with it.
fn warn_of_action(context: &Context, draft: &Draft, step: &mut Step) -> Result<()> {
    let Some(action) = &context.settings.banaction else { return Ok(()) };
    let files = [".conf", ".local"].map(|end| format!("/etc/fail2ban/action.d/{}{end}", action.value));
    let mut is_known_absent = true;
    for file in &files {
        is_known_absent &= draft.content(Path::new(file))? == Content::Absent;
    }
    if is_known_absent {
        step.warn(format!("{}: there is no {}; fail2ban does not start with such a jail", action.origin, files[0]));
    } else {
        step.info(format!(
            "bans are fail2ban's own, by {}: beside the blocks, with an answer of their own, for {}",
            action.value, context.settings.bantime.value
        ));
    }
    Ok(())
}

/// Whether the jail is one of an earlier apply whose bans are rules of its own.
pub fn bans_by_itself(context: &Context) -> bool {
    context.host.text(ACTION).is_some_and(|text| text.as_bytes().starts_with(OURS)) && !context.host.bans_are_wishes()
}

/// What fail2ban reads at its start, of ours.
const READS: [&str; 5] = [JAIL_FILE, FILTER, ACTION, SSHD, SERVICE];

/// Why fail2ban has to be restarted, if it has to.
pub fn restart_reason(context: &Context, draft: &Draft) -> Option<&'static str> {
    if !context.settings.fail2ban.value {
        let ran = context.facts.fail2ban().is_some() && draft.changes(&READS);
        return ran.then_some("its portsentry jail goes");
    }
    if draft.changes(&READS) || context.offer.missing.iter().any(|name| name == "fail2ban") {
        Some("its jail changes")
    } else if context.facts.fail2ban().is_none() {
        Some("it does not run")
    } else if context.is_stale(context.facts.fail2ban().into_iter(), &READS) {
        Some("its jail changed after it was started")
    } else {
        None
    }
}

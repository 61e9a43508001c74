//! Step 7: fail2ban's portsentry jail, so that blocks survive a restart.

use std::path::Path;

use anyhow::{Context as _, Result};
use askama::Template;

use crate::host::{Generation, ServiceManager};
use crate::plan::{Change, Content, Draft, FileKind, Step};
use crate::syntax::ini::Ini;

use super::service::is_stale;
use super::{Context, safe_networks, sections};

pub const JAIL: &str = "/etc/fail2ban/jail.d/portsentry.conf";
const FILTER: &str = "/etc/fail2ban/filter.d/harden-portsentry.conf";
const ACTION: &str = "/etc/fail2ban/action.d/harden-portsentry.conf";
/// A jail.d file of its own for the stock sshd jail; read after Debian's defaults-debian.conf.
const SSHD: &str = "/etc/fail2ban/jail.d/harden-portsentry-sshd.conf";
const SERVICE: &str = "/etc/systemd/system/fail2ban.service.d/harden-portsentry.conf";
/// Services that flush the firewall, and fail2ban's bans with it.
const FLUSHING: [&str; 2] = ["nftables.service", "netfilter-persistent.service"];
/// Every file of ours begins with this, so that only ours are ever removed.
const OURS: &[u8] = b"# Written by harden-portsentry";

#[derive(Template)]
#[template(path = "fail2ban-jail.conf", escape = "none")]
struct Jail<'a> {
    history: &'a str,
    findtime: &'a str,
    bantime: &'a str,
    ignoreip: &'a str,
    blocktype: &'a str,
    blocktype6: &'a str,
}

#[derive(Template)]
#[template(path = "fail2ban-service.conf", escape = "none")]
struct Service<'a> {
    history: &'a str,
    history_dir: &'a str,
}

pub fn step(context: &Context, draft: &mut Draft) -> Result<Step> {
    let mut step = Step::new("fail2ban", "fail2ban", sections::FAIL2BAN);
    if !context.settings.fail2ban.value {
        step.summary = format!("left out ({})", context.settings.fail2ban.origin);
        for path in every_file() {
            remove_ours(draft, &path, &mut step)?;
        }
        return Ok(step);
    }
    step.summary = format!("brings blocks back after a restart, for {}", context.settings.bantime.value);
    let Some(generation) = context.generation else {
        step.changes.push(Change::Later(Draft::later(Path::new(JAIL), "the jail")));
        return Ok(step);
    };
    let history = generation.history();
    let mut put = |path: &str, text: &str, why: &str| -> Result<()> {
        step.file(draft.put(Path::new(path), text.as_bytes(), 0o644, FileKind::Whole, why)?);
        Ok(())
    };
    put(
        ACTION,
        include_str!("../../templates/fail2ban-action.conf"),
        "a ban that answers as KILL_ROUTE does, for every protocol and family",
    )?;
    put(FILTER, include_str!("../../templates/fail2ban-filter.conf"), "reads portsentry's history, of 1.2 and of 2.0")?;
    put(JAIL, &jail(context, history)?, "the jail, with the history that this portsentry writes")?;
    let directory = Path::new(history).parent().and_then(Path::to_str).unwrap_or("/");
    let service =
        Service { history, history_dir: directory }.render().context("cannot fill the drop-in of fail2ban")?;
    put(SERVICE, &service, "a history that is missing stops every jail")?;
    for unit in FLUSHING {
        let there = ["/lib/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system"];
        if there.iter().any(|place| context.host.exists(&format!("{place}/{unit}"))) {
            put(
                &drop_in(unit),
                include_str!("../../templates/fail2ban-firewall.conf"),
                "it flushes the firewall, and the bans with it",
            )?;
        }
    }
    if let Content::Absent = draft.content(Path::new(history))? {
        step.file(draft.put(
            Path::new(history),
            b"",
            history_mode(generation),
            FileKind::Log,
            "fail2ban does not start without it",
        )?);
    }
    sshd_jail(context, draft, &mut step)?;
    Ok(step)
}

fn history_mode(generation: Generation) -> u32 {
    // As each daemon makes it.
    match generation {
        Generation::OneProcess => 0o600,
        Generation::SysvModes | Generation::UnitModes => 0o644,
    }
}

fn drop_in(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}.d/harden-portsentry.conf")
}

fn every_file() -> Vec<String> {
    let mut all: Vec<String> = [JAIL, FILTER, ACTION, SSHD, SERVICE].map(str::to_owned).to_vec();
    all.extend(FLUSHING.map(drop_in));
    all
}

fn remove_ours(draft: &mut Draft, path: &str, step: &mut Step) -> Result<()> {
    if let Content::Bytes(bytes) = draft.content(Path::new(path))?
        && bytes.starts_with(OURS)
    {
        step.file(draft.remove(Path::new(path), "fail2ban is left out by policy.toml")?);
    }
    Ok(())
}

fn jail(context: &Context, history: &str) -> Result<String> {
    let safe: Vec<String> = safe_networks(context).iter().map(|one| one.network.to_string()).collect();
    let bantime = context.settings.bantime.value.for_fail2ban();
    // Lines older than a ban need no ban any more.
    let findtime = if bantime == "-1" { "86400" } else { &bantime };
    Jail {
        history,
        findtime,
        bantime: &bantime,
        ignoreip: &format!("127.0.0.1/8 ::1 {}", safe.join(" ")),
        blocktype: context.chosen.target(false),
        blocktype6: context.chosen.target(true),
    }
    .render()
    .context("cannot fill the jail")
}

/// On a minimal Debian 11 or 12 the stock sshd jail has no log, and fail2ban does not start at all (trap 6).
fn sshd_jail(context: &Context, draft: &mut Draft, step: &mut Step) -> Result<()> {
    let ours = draft.content(Path::new(SSHD))? != Content::Absent;
    if !context.settings.mend_sshd_jail.value {
        remove_ours(draft, SSHD, step)?;
        if sshd_has_no_log(context, draft)? {
            step.warn("the sshd jail has no log (/var/log/auth.log), and fail2ban does not start for it; policy.toml forbids mending it: install rsyslog");
        }
        return Ok(());
    }
    if !ours && !sshd_has_no_log(context, draft)? {
        return Ok(());
    }
    if context.facts.manager == ServiceManager::Sysv {
        step.warn("the sshd jail has no log (/var/log/auth.log) and there is no journal, and fail2ban does not start for it: install rsyslog");
        return Ok(());
    }
    let text = include_str!("../../templates/fail2ban-sshd-backend.conf");
    step.file(draft.put(
        Path::new(SSHD),
        text.as_bytes(),
        0o644,
        FileKind::Whole,
        "the stock sshd jail has no log here, and without one fail2ban does not start; `mend_sshd_jail = false` in policy.toml refuses this",
    )?);
    Ok(())
}

/// Whether the sshd jail is on, reads a file, and that file is missing. What decides it stands in fail2ban's
/// files, the later ones winning (jail.conf(5)).
fn sshd_has_no_log(context: &Context, draft: &Draft) -> Result<bool> {
    let mut paths = vec!["/etc/fail2ban/jail.conf".to_owned()];
    paths.extend(draft.list("/etc/fail2ban/jail.d", ".conf"));
    paths.push("/etc/fail2ban/jail.local".to_owned());
    paths.extend(draft.list("/etc/fail2ban/jail.d", ".local"));
    let (mut enabled, mut backend, mut logpath, mut default_backend) =
        (String::new(), String::new(), String::new(), String::new());
    for path in paths.iter().filter(|path| *path != SSHD) {
        let Content::Bytes(bytes) = draft.content(Path::new(path))? else { continue };
        let file = Ini::parse(&bytes);
        for (section, key, value) in [
            ("sshd", "enabled", &mut enabled),
            ("sshd", "backend", &mut backend),
            ("sshd", "logpath", &mut logpath),
            ("DEFAULT", "backend", &mut default_backend),
        ] {
            if let Some(found) = file.get(section, key) {
                *value = found;
            }
        }
    }
    if !matches!(enabled.as_str(), "true" | "1" | "yes" | "on") {
        return Ok(false);
    }
    // %(sshd_backend)s is what the distribution's paths file says: systemd from Debian 13 on, else the default.
    if backend.contains("sshd_backend") {
        let paths_file = draft.content(Path::new("/etc/fail2ban/paths-debian.conf"))?;
        let by_distribution = match paths_file {
            Content::Bytes(bytes) => Ini::parse(&bytes).get("DEFAULT", "sshd_backend"),
            _ => None,
        };
        backend = by_distribution.unwrap_or(default_backend);
    }
    if backend.starts_with("systemd") {
        return Ok(false);
    }
    let log = if logpath.is_empty() || logpath.contains("%(") { "/var/log/auth.log" } else { logpath.as_str() };
    Ok(!log.contains('*') && !context.host.exists(log.split_whitespace().next().unwrap_or(log)))
}

/// What fail2ban reads at its start, of ours.
const READS: [&str; 5] = [JAIL, FILTER, ACTION, SSHD, SERVICE];

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
    } else if is_stale(context, context.facts.fail2ban().into_iter(), &READS) {
        Some("its jail changed after it was started")
    } else {
        None
    }
}

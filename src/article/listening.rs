//! Step 3: every port below 1024 that no service uses, TCP and UDP.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use crate::daemon::{Config, Mode};
use crate::host::Generation;
use crate::plan::{Change, Content, Draft, FileKind, Step};
use crate::syntax::Dialect;
use crate::syntax::portsentry_conf::PortsentryConf;
use crate::syntax::shell_vars::ShellVars;

use super::{Context, embedded, in_file, sections};

const DEFAULT: &str = "/etc/default/portsentry";

/// TCP ports that clients of ours make others call back on: 113 ident (mail and IRC servers), 139 NetBIOS.
/// Stock has both.
const QUIET_TCP: [u16; 2] = [113, 139];
/// UDP ports on which a LAN talks to everybody, or answers come late: 67, 68 DHCP (stock lacks 68: trap 13), 123 NTP,
/// 137, 138 NetBIOS, 520 RIP, 631 CUPS. Measured: a broadcast to one of these that is watched blocks its sender.
const QUIET_UDP: [u16; 7] = [67, 68, 123, 137, 138, 520, 631];
/// The same for an engine that sees IPv6: DHCPv6.
const QUIET_UDP_IPV6: [u16; 2] = [546, 547];
/// The article's limit: ports from 1 to 1023 are watched.
const FIRST_UNWATCHED: u16 = 1024;

/// Keys that only 1.2 knows; 2.0 refuses to start with one (trap 12).
const FIRST_ONLY: [&str; 4] =
    ["ADVANCED_PORTS_TCP", "ADVANCED_PORTS_UDP", "ADVANCED_EXCLUDE_TCP", "ADVANCED_EXCLUDE_UDP"];

pub fn step(context: &Context, draft: &mut Draft) -> Result<Step> {
    let mut step = Step::new("listening", "Listening", sections::LISTENING);
    step.summary = "every port below 1024 that no service uses, TCP and UDP".to_owned();
    let Some(generation) = context.generation else {
        step.changes.push(Change::Later(Draft::later(
            Path::new("/etc/portsentry/portsentry.conf"),
            "known once portsentry is there",
        )));
        return Ok(step);
    };
    if generation.is_1_2() {
        modes(context, draft, &mut step)?;
    }
    if context.facts.firewall.input_drops && !generation.sees_ipv6() {
        step.warn(
            "INPUT drops what no rule accepts, and portsentry 1.2 sees only what passes it: behind this firewall it is blind to scans of \
             closed ports. portsentry 2.0 (Debian 14) and the embedded one (--engine embedded) are not",
        );
    }
    edit_conf(
        generation,
        draft,
        &mut step,
        "watch every unused port below 1024, less what a LAN chatters on",
        |conf| {
            if generation.is_1_2() { watch_advanced(conf) } else { watch_ranges(conf) }
        },
    )?;
    Ok(step)
}

/// The default file: read by the sysv script, of 1.2-15 and later only where systemd is not.
fn modes(context: &Context, draft: &mut Draft, step: &mut Step) -> Result<()> {
    let path = Path::new(DEFAULT);
    let content = match draft.content(path)? {
        Content::Unknown => {
            step.changes.push(Change::Later(Draft::later(path, "the modes atcp and audp")));
            return Ok(());
        }
        Content::Absent => Vec::new(),
        Content::Bytes(bytes) => bytes,
    };
    let mut vars = ShellVars::parse(&content);
    for (key, value) in [("TCP_MODE", "atcp"), ("UDP_MODE", "audp")] {
        vars.set(key, value).map_err(|error| in_file(DEFAULT, error))?;
    }
    let why = match context.generation {
        Some(Generation::UnitModes) => "advanced modes, for hosts that start it without systemd",
        _ => "advanced modes",
    };
    step.file(draft.put(path, &vars.to_bytes(), 0o644, FileKind::Whole, why)?);
    Ok(())
}

/// Edits portsentry.conf through `edit`, as the daemon of this generation reads it.
pub fn edit_conf(
    generation: Generation,
    draft: &mut Draft,
    step: &mut Step,
    why: &str,
    edit: impl FnOnce(&mut PortsentryConf) -> Result<()>,
) -> Result<()> {
    let path = Path::new(generation.conf());
    let bytes = match draft.content(path)? {
        Content::Bytes(bytes) => bytes,
        // No package brings ours.
        Content::Absent | Content::Unknown if generation == Generation::Embedded => embedded::CONF.into(),
        Content::Absent => Vec::new(),
        Content::Unknown => {
            step.changes.push(Change::Later(Draft::later(path, why)));
            return Ok(());
        }
    };
    let mut conf = PortsentryConf::parse(&bytes).map_err(|error| in_file(generation.conf(), error))?;
    edit(&mut conf)?;
    let bytes = conf.to_bytes();
    if generation == Generation::Embedded {
        // It has keys of its own, and puts up with more than 2.0 does.
        Config::parse_lines(&String::from_utf8_lossy(&bytes), path, Mode::Stealth)?;
    } else if let Some(problem) = conf.problems(generation.dialect()).first() {
        return Err(in_file(generation.conf(), problem));
    }
    step.file(draft.put(path, &bytes, 0o644, FileKind::Whole, why)?);
    Ok(())
}

fn watch_advanced(conf: &mut PortsentryConf) -> Result<()> {
    for key in ["ADVANCED_PORTS_TCP", "ADVANCED_PORTS_UDP"] {
        // Who watches more than the article may.
        let wide = conf
            .get(key, Dialect::V1)
            .is_some_and(|text| text.trim().parse::<u16>().is_ok_and(|port| port >= FIRST_UNWATCHED));
        if !wide {
            conf.set(key, &FIRST_UNWATCHED.to_string())?;
        }
    }
    for (key, needed) in [("ADVANCED_EXCLUDE_TCP", &QUIET_TCP[..]), ("ADVANCED_EXCLUDE_UDP", &QUIET_UDP[..])] {
        let old = conf.get(key, Dialect::V1).map(|text| text.into_owned()).unwrap_or_default();
        let known: BTreeSet<u16> = old.split(',').filter_map(|port| port.trim().parse().ok()).collect();
        let missing: Vec<String> = needed.iter().filter(|port| !known.contains(port)).map(u16::to_string).collect();
        if !missing.is_empty() {
            let separator = if old.trim().is_empty() { "" } else { "," };
            conf.set(key, &format!("{}{separator}{}", old.trim(), missing.join(",")))?;
        }
    }
    Ok(())
}

fn watch_ranges(conf: &mut PortsentryConf) -> Result<()> {
    for key in FIRST_ONLY {
        conf.comment_out(key);
    }
    let quiet_udp: Vec<u16> = QUIET_UDP.iter().chain(&QUIET_UDP_IPV6).copied().collect();
    conf.set("TCP_PORTS", &ranges(&QUIET_TCP))?;
    conf.set("UDP_PORTS", &ranges(&quiet_udp))?;
    Ok(())
}

/// The ports from 1 to 1023 without `quiet`, as 2.0 writes them: `1-112,114-138,140-1023`.
fn ranges(quiet: &[u16]) -> String {
    let quiet: BTreeSet<u16> = quiet.iter().copied().collect();
    let mut parts = Vec::new();
    let mut first = 1;
    for stop in quiet.into_iter().chain([FIRST_UNWATCHED]) {
        match stop - first {
            0 => {}
            1 => parts.push(first.to_string()),
            _ => parts.push(format!("{first}-{}", stop - 1)),
        }
        first = stop + 1;
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_leave_out_the_quiet_ports_and_nothing_else() {
        assert_eq!(ranges(&[113, 139]), "1-112,114-138,140-1023");
        assert_eq!(ranges(&[1, 3, 1023]), "2,4-1022");
    }

    #[test]
    fn an_exclusion_that_somebody_added_stays_and_68_comes() {
        let mut conf =
            PortsentryConf::parse(b"ADVANCED_PORTS_UDP=\"2048\"\nADVANCED_EXCLUDE_UDP=\"520,138,137,67,999\"\n")
                .unwrap();
        watch_advanced(&mut conf).unwrap();
        assert_eq!(conf.get("ADVANCED_EXCLUDE_UDP", Dialect::V1).unwrap(), "520,138,137,67,999,68,123,631");
        assert_eq!(conf.get("ADVANCED_PORTS_UDP", Dialect::V1).unwrap(), "2048");
        assert_eq!(conf.get("ADVANCED_PORTS_TCP", Dialect::V1).unwrap(), "1024");
    }
}

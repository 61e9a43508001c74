//! TCP wrappers: what hosts.allow and hosts.deny say, as libwrap reads them, and whether ssh asks them.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use ipnet::IpNet;

use crate::article::{Context, HOSTS_ALLOW, HOSTS_DENY, allowed_networks, safe_networks};
use crate::blocks::DENIED;
use crate::host::Generation;
use crate::syntax::address_list::AddressList;
use crate::syntax::hosts_access::{HostsAccess, evaluate};

use super::{APPLY, Check};

/// Who serves ssh: until Debian 12 sshd itself, from 13 on its sshd-session (trap 10).
const SSH: [&str; 2] = ["/usr/sbin/sshd", "/usr/lib/openssh/sshd-session"];

pub fn checks(context: &Context) -> Result<Vec<Check>> {
    let mut checks = vec![allowed(context)?, linked(context)?];
    checks.extend(ignored(context)?);
    Ok(checks)
}

fn read(context: &Context, path: &str) -> Result<Vec<u8>> {
    Ok(context.host.read(Path::new(path))?.map(|state| state.bytes).unwrap_or_default())
}

/// An address of each allowed network must be let in though hosts.deny denied everybody.
fn allowed(context: &Context) -> Result<Check> {
    let id = "hosts-allow";
    let allow = HostsAccess::parse(&read(context, HOSTS_ALLOW)?);
    let deny = HostsAccess::parse(b"ALL: ALL\n");
    let files = |path: &str| context.host.text(path);
    let networks = allowed_networks(context);
    let shut_out: Vec<String> = networks
        .iter()
        .filter(|network| !evaluate(&allow, &deny, "sshd", sample(network), &files).granted)
        .map(ToString::to_string)
        .collect();
    let shown: Vec<String> = networks.iter().map(ToString::to_string).collect();
    Ok(if shut_out.is_empty() {
        Check::ok(id, format!("TCP wrappers always let in {} (hosts.allow)", shown.join(", ")))
    } else {
        Check::fail(
            id,
            format!("TCP wrappers can shut out {}", shut_out.join(", ")),
            "no line of /etc/hosts.allow matches an address of it",
            APPLY,
        )
    })
}

/// An address in the middle of a network: not its first, which a careless pattern may match by accident.
fn sample(network: &IpNet) -> IpAddr {
    network.hosts().nth(76).or_else(|| network.hosts().last()).unwrap_or(network.addr())
}

fn linked(context: &Context) -> Result<Check> {
    let id = "libwrap";
    let there: Vec<&str> = SSH.into_iter().filter(|path| context.host.exists(path)).collect();
    if there.is_empty() {
        return Ok(Check::ok(id, "no sshd here that hosts.deny could guard; the firewall blocks all the same"));
    }
    let mut asking = Vec::new();
    for path in &there {
        let bytes = std::fs::read(context.host.outside(&context.host.real_path(Path::new(path))?))?;
        if bytes.windows(b"libwrap.so".len()).any(|window| window == b"libwrap.so") {
            asking.push(*path);
        }
    }
    Ok(match asking.first() {
        Some(path) => Check::ok(id, format!("ssh asks hosts.allow and hosts.deny ({path} is linked to libwrap)")),
        None => Check::ok(
            id,
            format!(
                "ssh does not ask hosts.deny ({} without libwrap); it is guarded by the firewall alone",
                there.join(", ")
            ),
        ),
    })
}

/// What the daemon itself reads must cover every safe network (traps 3, 17).
fn ignored(context: &Context) -> Result<Vec<Check>> {
    let id = "ignore-list";
    let Some(generation) = context.generation else { return Ok(Vec::new()) };
    let (built, dialect) = (generation.daemons_ignore_list(), generation.dialect());
    let Some(state) = context.host.read(Path::new(built))? else {
        let why = "is built when portsentry starts, and it did not start here";
        let is_built = generation != Generation::Embedded;
        return Ok(vec![if is_built && context.facts.portsentries().next().is_none() {
            Check::skip(id, format!("whom the daemon ignores: {built} {why}"))
        } else {
            Check::fail(id, "the daemon ignores nobody", format!("{built} is missing"), APPLY)
        }]);
    };
    let honoured = AddressList::parse(&state.bytes).honoured(dialect);
    let missing: Vec<String> = safe_networks(context)
        .into_iter()
        .filter(|safe| generation.sees_ipv6() || safe.network.addr().is_ipv4())
        .filter(|safe| !honoured.iter().any(|network| network.contains(&safe.network)))
        .map(|safe| format!("{} ({})", safe.network, safe.what))
        .collect();
    let mut checks = vec![if missing.is_empty() {
        Check::ok(id, format!("the daemon ignores {} networks, the safe ones among them", honoured.len()))
    } else {
        Check::fail(
            id,
            format!("the daemon would block {}", missing.join(", ")),
            format!("{built} does not hold it in a form that it honours"),
            APPLY,
        )
    }];
    let list = read(context, generation.ignore_list())?;
    for lost in AddressList::parse(&list).not_honoured(dialect) {
        checks.push(Check::fail(
            "ignore-list-lines",
            format!(
                "{}, line {} {}",
                generation.ignore_list(),
                lost.line,
                if lost.fatal { "keeps portsentry from starting" } else { "is without effect" }
            ),
            format!("{}: {}", lost.text, lost.why),
            lost.remedy,
        ));
    }
    let denied = HostsAccess::parse(&read(context, HOSTS_DENY)?);
    let allow = HostsAccess::parse(&read(context, HOSTS_ALLOW)?);
    // Such a line denies everybody whom no rule above it matches; in hosts.allow it is only without effect.
    if let Some(error) = denied.unreadable() {
        checks.push(Check::fail(
            "hosts-files",
            "TCP wrappers stop reading hosts.deny, and shut out whom no rule lets in",
            format!("{HOSTS_DENY}, {error}"),
            "end that line with a newline, or shorten it",
        ));
    }
    let files = |path: &str| context.host.text(path);
    let safe = safe_networks(context);
    let shut: Vec<String> = safe
        .iter()
        .filter(|safe| !evaluate(&allow, &denied, "sshd", sample(&safe.network), &files).granted)
        .map(|safe| format!("{} ({})", safe.network, safe.what))
        .collect();
    if !shut.is_empty() {
        // The file that our own line names holds who is blocked.
        let without_ours = |path: &str| files(path).filter(|_| path != DENIED);
        let by_ours =
            safe.iter().all(|safe| evaluate(&allow, &denied, "sshd", sample(&safe.network), &without_ours).granted);
        let (seen, remedy) = if by_ours {
            (format!("it stands in {DENIED}, which {HOSTS_DENY} names"), "harden-portsentry unblock ADDRESS")
        } else {
            (format!("a line of {HOSTS_DENY} matches it"), "remove that line if it is an old block")
        };
        let remedy =
            format!("{remedy}; name the address in `safe` of policy.toml to have it let in always, and: {APPLY}");
        checks.push(Check::fail("hosts-deny", format!("TCP wrappers shut out {}", shut.join(", ")), seen, remedy));
    }
    Ok(checks)
}

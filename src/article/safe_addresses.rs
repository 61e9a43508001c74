//! Step 5: who is never blocked: in the ignore list, in the form that its reader honours, and in hosts.allow.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use ipnet::IpNet;

use crate::host::Generation;
use crate::kernel::InterfaceAddress;
use crate::plan::{Change, Content, Draft, FileKind, Step};
use crate::settings::is_virtual;
use crate::syntax::address_list::AddressList;
use crate::syntax::hosts_access::{HostsAccess, MarkedEntry};

use super::{BUILT_IGNORE_LIST, Context, HOSTS_ALLOW, embedded, in_file, sections};

/// A network that is never blocked, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Safe {
    pub network: IpNet,
    /// In a few words: `LAN`, `gateway`, `own address`.
    pub what: String,
}

/// Everybody who is never blocked, each once, without those that a wider one covers.
pub fn safe_networks(context: &Context) -> Vec<Safe> {
    let settings = context.settings;
    let network = &context.facts.network;
    let mut all = vec![Safe { network: settings.lan.network(), what: "LAN".to_owned() }];
    let mut add = |network: IpNet, what: String| all.push(Safe { network: network.trunc(), what });
    add(settings.lan.gateway.value.into(), "gateway".to_owned());
    for safe in &settings.safe {
        add(safe.value, "named in policy.toml".to_owned());
    }
    for client in settings.ssh_clients.iter().chain(&settings.new_ssh_clients) {
        add(client.address.into(), format!("ssh client, confirmed {}", client.confirmed));
    }
    for one in network.addresses.iter().filter(|one| !one.address.is_loopback() && !comes_and_goes(one)) {
        add(one.address.into(), format!("own address, {}", one.interface));
    }
    for gateway in &network.gateways {
        add(gateway.address.into(), "gateway".to_owned());
    }
    for resolver in &network.resolvers {
        add(resolver.address.into(), format!("resolver, {}", resolver.from));
    }
    for server in &network.dhcp_servers {
        add(server.address.into(), format!("DHCP server, {}", server.from));
    }
    let mut kept: Vec<Safe> = Vec::new();
    for (index, safe) in all.iter().enumerate() {
        let covered = all.iter().enumerate().any(|(other, wider)| {
            other != index && wider.network.contains(&safe.network) && (wider.network != safe.network || other < index)
        });
        if !covered {
            kept.push(safe.clone());
        }
    }
    kept
}

/// Whether one of these covers `address`.
pub fn is_safe(safe: &[Safe], address: IpAddr) -> bool {
    safe.iter().any(|one| one.network.contains(&address))
}

/// Whether the address is another one each time Docker, or a container, starts: the link-local one of an interface that is
/// made for it, and any of a bridge that Docker made for a network of its own. Were it listed, the list would never be right
/// for long. Whoever keeps the blocks asks the kernel for this host's addresses, these among them.
fn comes_and_goes(one: &InterfaceAddress) -> bool {
    let is_link_local = matches!(one.address, IpAddr::V6(address) if address.is_unicast_link_local());
    is_virtual(&one.interface) && is_link_local || is_bridge_of_docker(&one.interface)
}

/// `br-` and the first twelve digits of the network's number, which is new each time that it is made.
fn is_bridge_of_docker(interface: &str) -> bool {
    let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    interface.strip_prefix("br-").is_some_and(|number| number.len() == 12 && number.bytes().all(is_digit))
}

/// Who hosts.allow lets in: the LAN, as in the article, and whom the user named. Nothing that was detected:
/// a public resolver there would override the owner's own hosts.deny.
pub fn allowed_networks(context: &Context) -> Vec<IpNet> {
    let mut networks = vec![context.settings.lan.network()];
    for safe in &context.settings.safe {
        if !networks.iter().any(|known| known.contains(&safe.value)) {
            networks.push(safe.value);
        }
    }
    networks
}

pub fn step(context: &Context, draft: &mut Draft) -> Result<Step> {
    let mut step = Step::new("safe-addresses", "Never blocked", sections::BLOCKING);
    let safe = safe_networks(context);
    let shown: Vec<String> = safe.iter().map(|one| one.network.to_string()).collect();
    step.summary = shown.join(", ");
    match context.generation {
        Some(generation) => ignore_list(generation, &safe, draft, &mut step)?,
        None => step.changes.push(Change::Later(Draft::later(
            Path::new("/etc/portsentry/portsentry.ignore.static"),
            "the same addresses",
        ))),
    }
    hosts_allow(context, draft, &mut step)?;
    Ok(step)
}

fn ignore_list(generation: Generation, safe: &[Safe], draft: &mut Draft, step: &mut Step) -> Result<()> {
    let path = Path::new(generation.ignore_list());
    let bytes = match draft.content(path)? {
        Content::Bytes(bytes) => bytes,
        // No package brings ours.
        Content::Absent | Content::Unknown if generation == Generation::Embedded => embedded::IGNORE_LIST.into(),
        Content::Absent => Vec::new(),
        Content::Unknown => {
            step.changes.push(Change::Later(Draft::later(path, "never block these")));
            return Ok(());
        }
    };
    // 1.2 sees IPv4 only, and its builder drops every other line without a word (trap 3).
    let fitting = safe.iter().filter(|one| one.network.addr().is_ipv4() || generation.sees_ipv6());
    let mut list = AddressList::parse(&bytes);
    let entries: Vec<(IpNet, String)> = fitting.map(|one| (one.network, one.what.clone())).collect();
    list.set_marked(&entries).map_err(|error| in_file(generation.ignore_list(), error))?;
    let change = draft.put(path, &list.to_bytes(), 0o644, FileKind::AddressList, "never block these")?;
    if change.is_some() && generation.is_1_2() {
        step.info(format!("portsentry builds {BUILT_IGNORE_LIST} from this list as it starts"));
    }
    step.file(change);
    Ok(())
}

fn hosts_allow(context: &Context, draft: &mut Draft, step: &mut Step) -> Result<()> {
    let path = Path::new(HOSTS_ALLOW);
    let bytes = match draft.content(path)? {
        Content::Bytes(bytes) => bytes,
        Content::Absent => Vec::new(),
        Content::Unknown => {
            step.changes.push(Change::Later(Draft::later(path, "TCP wrappers let the LAN in")));
            return Ok(());
        }
    };
    let entries: Vec<MarkedEntry> =
        allowed_networks(context).iter().map(|&network| MarkedEntry::all(network)).collect();
    let mut document = HostsAccess::parse(&bytes);
    document.set_marked(&entries).map_err(|error| in_file(HOSTS_ALLOW, error))?;
    step.file(draft.put(
        path,
        &document.to_bytes(),
        0o644,
        FileKind::HostsAccess,
        "TCP wrappers let the LAN in, whatever hosts.deny says",
    )?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_brings_is_listed_where_it_stays() {
        let comes_and_goes = |interface: &str, address: &str| {
            let address = address.parse().unwrap();
            super::comes_and_goes(&InterfaceAddress { interface: interface.to_owned(), address, prefix: 64 })
        };
        assert!(comes_and_goes("veth8b8a566", "fe80::e807:49ff:feab:49e1"));
        assert!(comes_and_goes("docker0", "fe80::42:66ff:fe2b:bdc3"));
        assert!(comes_and_goes("br-d11b65c4a23e", "172.18.0.1") && comes_and_goes("br-d11b65c4a23e", "fd00:18::1"));
        assert!(!comes_and_goes("docker0", "172.17.0.1"));
        assert!(!comes_and_goes("br-lan", "192.0.2.1") && !comes_and_goes("br-office", "192.0.2.1"));
        assert!(!comes_and_goes("eth0", "fe80::ff:fe00:6601"));
    }
}

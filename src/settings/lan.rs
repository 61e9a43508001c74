//! The four LAN_* variables of the article, from whichever place names them first.

use std::net::IpAddr;

use anyhow::{Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net};

use crate::host::{Host, Network};
use crate::syntax::shell_vars::ShellVars;

use super::Flags;
use super::config_env::{self, NAMES};
use super::detect::{is_private, offers, propose};
use super::origin::{Origin, Sourced};
use super::policy::Policy;

const FLAGS: [&str; 4] = ["--lan-if", "--lan-ip", "--lan-nm", "--lan-gw"];

/// A LAN wider than this many bits of prefix needs the user's yes.
const WIDEST: u8 = 16;

/// The local network: never blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lan {
    pub interface: Sourced<String>,
    pub address: Sourced<IpAddr>,
    /// Length of the network's prefix, in bits.
    pub prefix: Sourced<u8>,
    pub gateway: Sourced<IpAddr>,
}

/// Takes each variable from the first place that has it; `config_env` is the file, unless there is none.
///
/// # Errors
/// A value is wrong or nobody gave one; with its place and the remedy.
pub fn combine(
    host: &Host,
    network: &Network,
    flags: &Flags,
    config_env: Option<&ShellVars>,
    environment: &dyn Fn(&str) -> Option<String>,
    policy: &Policy,
) -> Result<Lan> {
    let file = config_env.map(|file| config_env::variables(file, &flags.config_env, environment)).transpose()?;
    let by_flag = [&flags.lan_if, &flags.lan_ip, &flags.lan_nm, &flags.lan_gw];
    let mut values: Vec<Option<Sourced<String>>> = Vec::new();
    for (index, name) in NAMES.into_iter().enumerate() {
        let given = by_flag[index].clone().map(|value| Sourced { value, origin: Origin::Flag(FLAGS[index]) });
        let filed = || file.iter().flatten().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let inherited = || {
            let value = environment(name)?;
            Some(Sourced { value, origin: Origin::Environment(name.to_owned()) })
        };
        let value = given.or_else(filed).or_else(inherited).or_else(|| policy.lan.get(name));
        if let Some(Sourced { value, origin }) = &value
            && value.trim().is_empty()
        {
            bail!("{origin}: {name} is empty; {}", remedy(name, network));
        }
        values.push(value);
    }
    if values.iter().all(Option::is_none)
        && file.is_none()
        && host.is_live()
        && let [only] = propose(network).as_slice()
    {
        let from = |what: &str| Origin::Detected(what.to_owned());
        let origin = from(&format!("the only private network, on {}", only.interface));
        let shown =
            [only.interface.clone(), only.address.to_string(), only.prefix.to_string(), only.gateway.to_string()];
        values = shown.into_iter().map(|value| Some(Sourced { value, origin: origin.clone() })).collect();
    }
    let missing: Vec<&str> =
        NAMES.iter().zip(&values).filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        if file.is_some() {
            let lines: Vec<String> = missing
                .iter()
                .map(|name| format!("{} does not set {name}; {}", flags.config_env.display(), remedy(name, network)))
                .collect();
            bail!(lines.join("\n"));
        }
        let verb = if missing.len() == 1 { "has" } else { "have" };
        let file = flags.config_env.display();
        bail!("{} {verb} no value: {file} does not exist, and {}", missing.join(", "), offers(host, network));
    }
    let [Some(interface), Some(address), Some(mask), Some(gateway)] = <[_; 4]>::try_from(values).unwrap_or_default()
    else {
        bail!("a LAN takes {}", NAMES.join(", "));
    };
    let interface = checked(interface, parse_interface)?;
    let address = checked(address, |text| parse_address("LAN_IP", text))?;
    let ipv6 = address.value.is_ipv6();
    Ok(Lan {
        interface,
        prefix: checked(mask, |text| parse_mask(text, ipv6))?,
        gateway: checked(gateway, |text| parse_address("LAN_GW", text))?,
        address,
    })
}

fn checked<T>(raw: Sourced<String>, parse: impl Fn(&str) -> Result<T>) -> Result<Sourced<T>> {
    match parse(raw.value.trim()) {
        Ok(value) => Ok(Sourced { value, origin: raw.origin }),
        Err(error) => Err(anyhow!("{}: {error}", raw.origin)),
    }
}

fn parse_interface(text: &str) -> Result<String> {
    // As the kernel: 15 bytes at most, no blanks, no slash.
    let fits = !text.is_empty()
        && text.len() <= 15
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'"');
    if !fits {
        bail!(
            "LAN_IF is {text:?}, which is no interface name; write one name such as enp0s8 (`ip -br link` lists them)"
        );
    }
    Ok(text.to_owned())
}

fn parse_address(name: &str, text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| {
        let example = "write one address such as 192.168.1.5";
        let doubled = text.split_whitespace().count() > 1;
        let why = if doubled { "more than one value" } else { "no address" };
        anyhow!("{name} is {text:?}, which is {why}; {example}")
    })
}

/// A prefix length, or an IPv4 netmask.
fn parse_mask(text: &str, ipv6: bool) -> Result<u8> {
    let longest = if ipv6 { 128 } else { 32 };
    let short = text.strip_prefix('/').unwrap_or(text);
    if let Ok(bits) = short.parse::<u8>() {
        if bits == 0 {
            bail!("LAN_NM is {text:?}, which would make every host of the world safe; write the LAN's own, such as 24");
        }
        if bits > longest {
            bail!("LAN_NM is {text:?}, which is no prefix length; write a number from 1 to {longest}");
        }
        return Ok(bits);
    }
    let mask =
        text.parse().ok().filter(|_| !ipv6).and_then(|mask| Ipv4Net::with_netmask([0, 0, 0, 0].into(), mask).ok());
    match mask.map(|net| net.prefix_len()) {
        Some(bits) if bits > 0 => Ok(bits),
        _ => bail!("LAN_NM is {text:?}, which is not a netmask; write 24 or 255.255.255.0"),
    }
}

/// What to write instead, with the machine's own value where it is plain.
fn remedy(name: &str, network: &Network) -> String {
    let example = match propose(network).as_slice() {
        [only] => match name {
            "LAN_IF" => only.interface.clone(),
            "LAN_IP" => only.address.to_string(),
            "LAN_NM" => only.prefix.to_string(),
            _ => only.gateway.to_string(),
        },
        _ => match name {
            "LAN_IF" => "enp0s8",
            "LAN_NM" => "24",
            _ => "192.168.1.5",
        }
        .to_owned(),
    };
    format!("write: export {name}=\"{example}\"   (or run: harden-portsentry init)")
}

impl Lan {
    /// The network itself, without host bits: with them libwrap matches nobody (trap 2).
    pub fn network(&self) -> IpNet {
        // The prefix was checked against the family when it was read.
        IpNet::new(self.address.value, self.prefix.value).unwrap_or_else(|_| IpNet::from(self.address.value)).trunc()
    }

    /// Whether the values fit one another and the machine; what is odd but valid comes back as warnings.
    pub fn check(&self, host: &Host, network: &Network) -> Result<Vec<String>> {
        let net = self.network();
        if self.gateway.value.is_ipv4() != self.address.value.is_ipv4() || !net.contains(&self.gateway.value) {
            bail!(
                "{}: LAN_GW is {}, which is not in the LAN {net}; write a gateway inside it, or {} if this host is the gateway",
                self.gateway.origin,
                self.gateway.value,
                self.address.value
            );
        }
        if !host.is_live() {
            return Ok(Vec::new());
        }
        let on_interface: Vec<_> =
            network.addresses.iter().filter(|one| one.interface == self.interface.value).collect();
        let elsewhere = network.addresses.iter().find(|one| one.address == self.address.value);
        let Some(own) = on_interface.iter().find(|one| one.address == self.address.value) else {
            let interfaces = names(network);
            let has: Vec<String> = on_interface.iter().map(|one| one.address.to_string()).collect();
            match elsewhere {
                Some(other) => bail!(
                    "{}: LAN_IF is {}, but {} is on {}; write {}",
                    self.interface.origin,
                    self.interface.value,
                    self.address.value,
                    other.interface,
                    other.interface
                ),
                None if on_interface.is_empty() => bail!(
                    "{}: LAN_IF is {}, and no such interface has an address here; there are: {interfaces}",
                    self.interface.origin,
                    self.interface.value
                ),
                None => bail!(
                    "{}: LAN_IP is {}, but {} has {}; write the address that this host has there",
                    self.address.origin,
                    self.address.value,
                    self.interface.value,
                    has.join(", ")
                ),
            }
        };
        let mut warnings = Vec::new();
        if own.prefix != self.prefix.value {
            warnings.push(format!(
                "{}: LAN_NM says /{}, {} is configured with /{}; hosts outside {net} can be blocked",
                self.prefix.origin, self.prefix.value, self.interface.value, own.prefix
            ));
        }
        Ok(warnings)
    }

    /// Why so large or so public a network should not be trusted without a yes.
    pub fn needs_consent(&self) -> Option<String> {
        let net = self.network();
        let widest = if net.addr().is_ipv6() { 48 } else { WIDEST };
        if !is_private(net.addr()) {
            return Some(format!("the LAN {net} is public"));
        }
        (net.prefix_len() < widest).then(|| format!("the LAN {net} is wider than a /{widest}"))
    }
}

fn names(network: &Network) -> String {
    let mut names: Vec<&str> = network.addresses.iter().map(|one| one.interface.as_str()).collect();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_in_both_forms() {
        assert_eq!(parse_mask("24", false).unwrap(), 24);
        assert_eq!(parse_mask("/24", false).unwrap(), 24);
        assert_eq!(parse_mask("255.255.255.0", false).unwrap(), 24);
        assert_eq!(parse_mask("64", true).unwrap(), 64);
        for wrong in ["0", "33", "255.255.0.255", "0.0.0.0", "24 24", "", "abc"] {
            assert!(parse_mask(wrong, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_interface_name_is_one_word() {
        assert!(parse_interface("enp0s8").is_ok());
        for wrong in ["", "enp0s3 enp0s8", "a/b", "x\ny", "averyveryverylongname"] {
            assert!(parse_interface(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_doubled_address_is_called_so() {
        let error = parse_address("LAN_IP", "10.0.0.1 10.0.0.2").unwrap_err().to_string();
        assert!(error.contains("more than one value"), "{error}");
    }
}

//! Which answer a blocked host gets: what was asked for, held against what this kernel can do.

use anyhow::{Result, anyhow, bail};

use crate::blocks::{Answer, PacketFilter, ruleset};
use crate::host::{ChaosSupport, Facts, Generation, Host, secure_boot, tracks_connections};
use crate::settings::{Firewall, Policy, Response, Settings};

/// Brings the kernel module that the article's KILL_ROUTE needs.
pub const CHAOS_PACKAGE: &str = "xtables-addons-dkms";

/// The answer, and whether it is second best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Never [`Response::Auto`].
    pub response: Response,
    /// Why it is not the article's CHAOS, where nobody asked for another.
    pub fallback: Option<String>,
}

impl Chosen {
    /// Decides it.
    ///
    /// # Errors
    /// CHAOS was asked for by name, and the kernel does not take it.
    pub fn of(settings: &Settings, facts: &Facts) -> Result<Chosen> {
        let will_have = settings.install_chaos && !facts.packages.has(CHAOS_PACKAGE);
        if will_have && facts.chaos != ChaosSupport::Works && secure_boot() {
            bail!(
                "--install-chaos cannot help here: Secure Boot is on, and this kernel takes only signed modules.\n\
                 Install {CHAOS_PACKAGE} yourself, enrol dkms' key (mokutil --import /var/lib/dkms/mok.pub, then confirm it at \
                 the next boot), and apply again; or use --response drop"
            );
        }
        match (settings.response.value, &facts.chaos) {
            (Response::Auto | Response::Chaos, ChaosSupport::Works) => {
                Ok(Chosen { response: Response::Chaos, fallback: None })
            }
            (Response::Auto | Response::Chaos, _) if will_have => {
                Ok(Chosen { response: Response::Chaos, fallback: None })
            }
            (Response::Auto, ChaosSupport::Missing(why)) => Ok(Chosen {
                response: Response::Drop,
                fallback: Some(format!("{why}; --install-chaos would install {CHAOS_PACKAGE} and build it")),
            }),
            (Response::Chaos, ChaosSupport::Missing(why)) => bail!(
                "--response chaos cannot work here: {why}.\n\
                 Written all the same it would block nobody, and every failure would be logged as a block. \
                 Use --install-chaos (it installs {CHAOS_PACKAGE} and builds the module), or --response drop"
            ),
            (response, _) => Ok(Chosen { response, fallback: None }),
        }
    }

    /// What it comes to on this host: where nobody asked for another answer, noise is the next best that a host can have
    /// which tracks connections anyway.
    ///
    /// # Errors
    /// Noise was asked for, and there is none here.
    pub fn on(self, host: &Host, settings: &Settings, filter: &PacketFilter) -> Result<Chosen> {
        if *filter != PacketFilter::Nftables {
            if self.response == Response::Noise {
                bail!("--response noise is made by nftables, and iptables blocks here; use --response drop");
            }
            return Ok(self);
        }
        if self.fallback.is_some() && tracks_connections(host) && noise_works(host, settings).is_ok() {
            return Ok(Chosen { response: Response::Noise, ..self });
        }
        if self.response != Response::Noise {
            return Ok(self);
        }
        noise_works(host, settings).map_err(|said| {
            anyhow!("--response noise cannot work here: this kernel, or its nft, does not take the table: {said}\nUse --response drop")
        })?;
        Ok(self)
    }

    /// The iptables target for a family.
    pub fn target(&self, ipv6: bool) -> &'static str {
        self.response.target(ipv6).unwrap_or("DROP")
    }
}

/// Whether iptables is to block: somebody says so, or the kernel has no nftables. The embedded portsentry watches by that.
pub fn wants_iptables(host: &Host, settings: &Settings, is_embedded: bool) -> bool {
    match settings.firewall.value {
        Firewall::Iptables => true,
        Firewall::Nftables => false,
        Firewall::Auto => !is_embedded && host.is_live() && !PacketFilter::kernel_has_nftables(),
    }
}

/// By which packet filter hosts are blocked on this host.
///
/// # Errors
/// The embedded portsentry is to watch, and iptables to block.
pub fn packet_filter(host: &Host, settings: &Settings, generation: Option<Generation>) -> Result<PacketFilter> {
    let is_embedded = generation == Some(Generation::Embedded);
    if !wants_iptables(host, settings, is_embedded) {
        return Ok(PacketFilter::Nftables);
    }
    if is_embedded {
        bail!(
            "{}: firewall = \"iptables\" is for Debian's portsentry; the embedded one watches by nftables, and blocks by it. \
             Use --engine package, or take that line out",
            settings.firewall.origin
        );
    }
    Ok(PacketFilter::Iptables { after: settings.whitelist_chain.as_ref().map(|chain| chain.value.clone()) })
}

/// Whether the kernel takes the table. Where there is no nft yet it comes with apply, and verify asks again.
fn noise_works(host: &Host, settings: &Settings) -> Result<(), String> {
    if !host.is_live() || !host.exists("/usr/sbin/nft") {
        return Ok(());
    }
    let text = Policy::read(&settings.policy_path).and_then(|policy| ruleset(&policy.block, Answer::Noise, &[]));
    host.try_ruleset(&text.map_err(|error| format!("{error:#}"))?)
}

//! Where each value comes from and which one wins:
//! flags > config.env > environment > policy.toml > detected > defaults.

mod choices;
mod config_env;
mod detect;
mod lan;
mod origin;
mod policy;
mod terms;
mod writers;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use ipnet::IpNet;

use crate::host::{ChainName, Host, Network};

pub use choices::{BanTime, Engine, Firewall, Response};
pub use config_env::write as write_config_env;
pub use detect::{Proposal, is_virtual, offers, propose};
pub use lan::Lan;
pub use origin::{Origin, Sourced};
pub use policy::{POLICY, Policy, PolicyAnswers, SshClient, add_ssh_client, parse_network, write_policy};
pub use terms::{IN_ALL, Length, Noise, Terms};
pub use writers::check_writers;

/// What the command line said; `None` where it said nothing.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub config_env: PathBuf,
    pub policy: PathBuf,
    /// Files that the command line names: they must be there.
    pub named: Vec<(&'static str, PathBuf)>,
    pub lan_if: Option<String>,
    pub lan_ip: Option<String>,
    pub lan_nm: Option<String>,
    pub lan_gw: Option<String>,
    pub accept_wide_lan: bool,
    pub engine: Option<Engine>,
    pub response: Option<Response>,
    pub install_chaos: bool,
}

/// Every value that the article's steps need, each with where it came from.
#[derive(Debug, Clone)]
pub struct Settings {
    pub lan: Lan,
    pub engine: Sourced<Engine>,
    pub response: Sourced<Response>,
    /// CHAOS by a rule for each host, as the article has it, from the embedded portsentry as well.
    pub literal: Sourced<bool>,
    pub install_chaos: bool,
    /// By which packet filter hosts are blocked, and behind which chain of somebody's, where that is iptables.
    pub firewall: Sourced<Firewall>,
    pub whitelist_chain: Option<Sourced<ChainName>>,
    /// RESOLVE_HOST: look up the scanner's name, before the block (trap 5).
    pub resolve_host: Sourced<bool>,
    pub fail2ban: Sourced<bool>,
    pub bantime: Sourced<BanTime>,
    /// An action of fail2ban's own for the portsentry jail, in the place of ours, which asks for a block.
    pub banaction: Option<Sourced<String>>,
    /// Whether a stock sshd jail without a log may be given the journal (trap 6).
    pub mend_sshd_jail: Sourced<bool>,
    /// Networks that the user named: never blocked, and let in by hosts.allow.
    pub safe: Vec<Sourced<IpNet>>,
    /// Clients of ssh sessions that ran apply, confirmed: never blocked.
    pub ssh_clients: Vec<SshClient>,
    /// The clients of the ssh session that this runs in which are not safe yet: apply's yes confirms them.
    pub new_ssh_clients: Vec<SshClient>,
    /// Where policy.toml is or would be.
    pub policy_path: PathBuf,
    /// What the person should know about these values, though they are valid.
    pub warnings: Vec<String>,
}

/// What [`Settings::load`] found.
pub enum Loaded {
    Complete(Box<Settings>),
    /// The LAN's values are missing or wrong, and config.env is where they could be put right.
    WithoutLan(anyhow::Error),
}

impl Flags {
    /// Whether a value of the LAN was given: then config.env has not the last word on it.
    pub fn name_the_lan(&self) -> bool {
        [&self.lan_if, &self.lan_ip, &self.lan_nm, &self.lan_gw].into_iter().any(Option::is_some)
    }
}

impl Settings {
    /// Puts the values together for `host`, whose `network` was read before. `environment` answers for a
    /// variable of the process environment.
    ///
    /// # Errors
    /// A file that cannot be read or trusted, a value that is wrong, or values that do not fit one another;
    /// each with file, line and remedy.
    pub fn load(
        host: &Host,
        network: &Network,
        flags: &Flags,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Loaded> {
        for (flag, path) in &flags.named {
            if !path.exists() {
                bail!("{flag} names {}, and there is no such file", path.display());
            }
        }
        let policy = Policy::read(&flags.policy)?;
        let config_env = config_env::open(&flags.config_env)?;
        let lan = lan::combine(host, network, flags, config_env.as_ref(), environment, &policy)
            .and_then(|lan| Ok((lan.check(host, network)?, lan)));
        let (mut warnings, lan) = match lan {
            Ok(checked) => checked,
            Err(why) if flags.name_the_lan() => return Err(why),
            Err(why) => return Ok(Loaded::WithoutLan(why)),
        };
        if let Some(why) = lan.needs_consent()
            && !flags.accept_wide_lan
            && !policy.lan.wide.value
        {
            warnings.push(format!(
                "{why}: every host in it could scan this one unseen; apply wants a yes to this (--accept-wide-lan, or `wide = true` in [lan] of {})",
                flags.policy.display()
            ));
        }
        let engine = flag(flags.engine, "--engine").unwrap_or(policy.engine);
        Ok(Loaded::Complete(Box::new(Settings {
            lan,
            engine,
            response: flag(flags.response, "--response").unwrap_or(policy.response),
            install_chaos: flags.install_chaos,
            literal: policy.literal,
            firewall: policy.firewall,
            whitelist_chain: policy.whitelist_chain,
            resolve_host: policy.resolve_host,
            fail2ban: policy.fail2ban,
            bantime: policy.bantime,
            banaction: policy.banaction,
            mend_sshd_jail: policy.mend_sshd_jail,
            safe: policy.safe,
            ssh_clients: policy.ssh_clients,
            new_ssh_clients: Vec::new(),
            policy_path: flags.policy.clone(),
            warnings,
        })))
    }

    /// Whether apply has to ask before it trusts so large a LAN, and why.
    pub fn wide_lan_to_confirm(&self, flags: &Flags) -> Result<Option<String>> {
        let consented = flags.accept_wide_lan || Policy::read(&flags.policy)?.lan.wide.value;
        Ok(self.lan.needs_consent().filter(|_| !consented))
    }

    /// Whether `address` is already safe by the LAN, by name or as a confirmed client.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.lan.network().contains(&address)
            || self.safe.iter().any(|network| network.value.contains(&address))
            || self.ssh_clients.iter().any(|client| client.address == address)
    }
}

fn flag<T>(value: Option<T>, name: &'static str) -> Option<Sourced<T>> {
    value.map(|value| Sourced { value, origin: Origin::Flag(name) })
}

//! What every command begins with: the host, its facts, the settings.

use anyhow::Result;
use dialoguer::Confirm;

use crate::host::{Facts, Host, ssh_clients};
use crate::settings::{Flags, Loaded, Settings, SshClient, propose};

use super::arguments::Common;
use super::{Declined, attended, demand_root, init};

/// One host, looked at once.
pub struct Session {
    pub host: Host,
    pub facts: Facts,
    pub settings: Settings,
    pub flags: Flags,
}

impl Session {
    /// Reads everything. Missing and wrong LAN_* values are asked for where somebody is there to answer (`may_ask`).
    ///
    /// # Errors
    /// Not root for `/`; no Debian; settings that are wrong or missing.
    pub fn open(common: &Common, may_ask: bool) -> Result<Session> {
        let host = Host::new(&common.root)?;
        demand_root(&host)?;
        let facts = Facts::read(&host)?;
        let flags = common.flags();
        let settings = settings(&host, &facts, &flags, may_ask)?;
        Ok(Session { host, facts, settings, flags })
    }
}

/// The settings of `host`.
///
/// # Errors
/// As [`Session::open`].
pub fn settings(host: &Host, facts: &Facts, flags: &Flags, may_ask: bool) -> Result<Settings> {
    let environment = |name: &str| std::env::var(name).ok();
    let mut settings = match Settings::load(host, &facts.network, flags, &environment)? {
        Loaded::Complete(settings) => *settings,
        Loaded::WithoutLan(why) if !may_ask || !attended() => return Err(why),
        Loaded::WithoutLan(why) => {
            fill_in(flags, facts, &why)?;
            match Settings::load(host, &facts.network, flags, &environment)? {
                Loaded::Complete(settings) => *settings,
                Loaded::WithoutLan(why) => return Err(why),
            }
        }
    };
    if host.is_live() {
        let is_own = |client: &std::net::IpAddr| facts.network.addresses.iter().any(|own| own.address == *client);
        let new = ssh_clients().into_iter().filter(|client| !client.is_loopback() && !settings.covers(*client));
        settings.new_ssh_clients =
            new.filter(|client| !is_own(client)).map(|address| SshClient { address, confirmed: today() }).collect();
    }
    Ok(settings)
}

/// Offers to write the LAN's values into config.env, which lacks them or has them wrong (`why`).
fn fill_in(flags: &Flags, facts: &Facts, why: &anyhow::Error) -> Result<()> {
    let file = flags.config_env.display();
    if flags.config_env.exists() {
        eprintln!("harden-portsentry: {why:#}");
        if !Confirm::new()
            .with_prompt(format!("Put the LAN's values in {file} right now?"))
            .default(false)
            .interact()?
        {
            return Err(Declined.into());
        }
    } else {
        eprintln!("{file} is not there yet. A few questions:");
    }
    init::ask_and_write(flags, &propose(&facts.network))
}

fn today() -> String {
    let now = jiff::Timestamp::now().to_string();
    now.split('T').next().unwrap_or(&now).to_owned()
}

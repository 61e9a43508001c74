//! `init`: asks for what is missing, proposes what the machine says, writes config.env and policy.toml.

use std::net::IpAddr;

use anyhow::{Result, bail};
use dialoguer::{Input, Select};
use ipnet::IpNet;

use crate::host::{Facts, Host};
use crate::settings::{
    BanTime, Flags, Policy, PolicyAnswers, Proposal, Response, check_writers, offers, parse_network, write_config_env,
    write_policy,
};

use super::arguments::{Common, InitOptions};
use super::{Exit, attended, demand_root, print};

pub fn run(common: &Common, options: &InitOptions) -> Result<Exit> {
    common.refuse_junit()?;
    let host = Host::new(&common.root)?;
    demand_root(&host)?;
    let facts = Facts::read(&host)?;
    let flags = common.flags();
    let proposals = crate::settings::propose(&facts.network);
    let mut written = vec![&flags.config_env];
    if options.yes {
        let [only] = proposals.as_slice() else {
            bail!("cannot choose without you: {}", offers(&host, &facts.network));
        };
        write(&flags, only)?;
    } else if attended() {
        // Before any question: what cannot be read is not asked about.
        let policy = Policy::read(&flags.policy)?;
        ask_and_write(&flags, &proposals)?;
        if write_policy(&flags.policy, &ask_policy(&policy.answers())?)? {
            written.push(&flags.policy);
        }
    } else {
        bail!("there is nobody to ask (no terminal): give --yes to take what this machine offers");
    }
    let written: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    print(&format!("Written: {}. Next: {}\n", written.join(", "), host.command_line("diff")));
    Ok(Exit::Good)
}

/// Asks, and writes config.env.
///
/// # Errors
/// Nobody answers, or the file cannot be written.
pub fn ask_and_write(flags: &Flags, proposals: &[Proposal]) -> Result<()> {
    let chosen = match proposals {
        [] => None,
        [only] => Some(only.clone()),
        several => {
            let lines: Vec<String> = several
                .iter()
                .map(|one| {
                    format!("{} on {}", one.network().map_or_else(String::new, |net| net.to_string()), one.interface)
                })
                .collect();
            let index = Select::new()
                .with_prompt("Which network is the LAN (never to be blocked)")
                .items(&lines)
                .default(0)
                .interact()?;
            several.get(index).cloned()
        }
    };
    let ask = |prompt: &str, proposal: Option<String>| -> Result<String> {
        let input = Input::<String>::new().with_prompt(prompt);
        Ok(match proposal {
            Some(text) => input.default(text),
            None => input,
        }
        .interact_text()?)
    };
    let interface = ask("LAN_IF, the LAN's interface", chosen.as_ref().map(|one| one.interface.clone()))?;
    let address = ask_address("LAN_IP, this host's address there", chosen.as_ref().map(|one| one.address.to_string()))?;
    let prefix = ask_prefix(chosen.as_ref().map(|one| one.prefix.to_string()), address)?;
    let gateway = ask_address("LAN_GW, the LAN's gateway", chosen.as_ref().map(|one| one.gateway.to_string()))?;
    write(flags, &Proposal { interface, address, prefix, gateway })
}

/// What policy.toml decides, as far as most will want to; each answer proposed as it is `now`.
fn ask_policy(now: &PolicyAnswers) -> Result<PolicyAnswers> {
    let responses = [
        (Response::Auto, "auto: CHAOS where this kernel has it, else noise or drop"),
        (Response::Chaos, "chaos: now silence, now noise; needs a kernel module"),
        (Response::Noise, "noise: at random open, closed or silent, by nftables alone; for the embedded portsentry"),
        (Response::Drop, "drop: silence"),
        (Response::Reject, "reject: an ICMP error"),
    ];
    let index = Select::new()
        .with_prompt("What a blocked host meets")
        .items(responses.map(|(_, text)| text))
        .default(responses.iter().position(|(response, _)| *response == now.response).unwrap_or(0))
        .interact()?;
    let bantime: BanTime = Input::<String>::new()
        .with_prompt("How long fail2ban keeps a block (12h, 1d, 1w, forever)")
        .default(now.bantime.for_policy())
        .validate_with(|text: &String| text.parse::<BanTime>().map(drop))
        .interact_text()?
        .parse()
        .map_err(anyhow::Error::msg)?;
    let known: Vec<String> = now.safe.iter().map(IpNet::to_string).collect();
    let safe: String = Input::new()
        .with_prompt("Never to be blocked beside the LAN (addresses, networks; empty for none)")
        .with_initial_text(known.join(" "))
        .allow_empty(true)
        .validate_with(|text: &String| networks(text).map(drop))
        .interact_text()?;
    Ok(PolicyAnswers { response: responses[index].0, bantime, safe: networks(&safe)? })
}

fn networks(text: &str) -> Result<Vec<IpNet>> {
    text.split([' ', ',']).filter(|word| !word.is_empty()).map(parse_network).collect()
}

fn ask_address(prompt: &str, proposal: Option<String>) -> Result<IpAddr> {
    let input = Input::<String>::new().with_prompt(prompt).validate_with(|text: &String| -> Result<(), String> {
        text.parse::<IpAddr>().map(drop).map_err(|_| format!("{text} is no address; write one such as 192.168.1.5"))
    });
    let text = match proposal {
        Some(text) => input.default(text),
        None => input,
    }
    .interact_text()?;
    Ok(text.parse()?)
}

fn ask_prefix(proposal: Option<String>, address: IpAddr) -> Result<u8> {
    let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
    let input =
        Input::<u8>::new().with_prompt("LAN_NM, the length of its netmask in bits").validate_with(move |bits: &u8| {
            if (1..=longest).contains(bits) {
                Ok(())
            } else {
                Err(format!("write a number from 1 to {longest}, such as 24"))
            }
        });
    Ok(match proposal.and_then(|text| text.parse().ok()) {
        Some(bits) => input.default(bits),
        None => input,
    }
    .interact_text()?)
}

fn write(flags: &Flags, values: &Proposal) -> Result<()> {
    if flags.config_env.exists() {
        check_writers(&flags.config_env)?;
    }
    let rows = [
        ("LAN_IF", values.interface.clone()),
        ("LAN_IP", values.address.to_string()),
        ("LAN_NM", values.prefix.to_string()),
        ("LAN_GW", values.gateway.to_string()),
    ];
    write_config_env(&flags.config_env, &rows)
}

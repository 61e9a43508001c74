//! What can be typed. Help, man pages and completions all come from here.

use std::ffi::OsString;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::settings::{BanTime, Engine, Flags, POLICY, Response};

const STATUSES: &str = "\
Exit status:
   0  diff: nothing to do; apply: as desired; verify: all checks hold
   1  an error; what it is stands on stderr
   2  diff: there are changes; verify: a check fails
   3  apply: applied, but verify found something
  64  a mistyped command line
 130  interrupted at a question; nothing was changed, or all of it was taken back";

const CONFIRM_STATUSES: &str = "\
Exit status:
   0  it stays
   1  nothing waits to be confirmed, it is too late, or an error; what it is stands on stderr
  64  a mistyped command line";

const BLOCK_STATUSES: &str = "\
Exit status:
   0  it is blocked, or was already
   1  refused, or an error; the reason stands on stderr
  64  a mistyped command line";

const UNBLOCK_STATUSES: &str = "\
Exit status:
   0  it is free, or was not blocked
   1  an error; what it is stands on stderr
  64  a mistyped command line";

const LIST_STATUSES: &str = "\
Exit status:
   0  done
   1  an error; what it is stands on stderr
  64  a mistyped command line";

/// Provisions, checks and takes back a working portsentry on Debian 11 to 14
#[derive(Debug, Parser)]
#[command(name = "harden-portsentry", version, after_help = STATUSES, max_term_width = 100, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// The command line as clap sees it, for parsing, help and man pages.
pub fn command() -> clap::Command {
    let command = Arguments::command();
    // Blocks are the running system's, and go by policy.toml: flags about what apply makes are refused or without effect
    // there. Hidden here, a subcommand does not get them from above again.
    let settings = command.get_arguments().filter(|argument| argument.get_help_heading() == Some("Settings"));
    let hidden: Vec<clap::Arg> = settings.map(|argument| argument.clone().hide(true)).collect();
    ["block", "unblock", "blocked", "restore"]
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, |sub| sub.args(&hidden)))
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what apply would change: diffs, commands, and why. Never writes
    #[command(after_help = STATUSES)]
    Diff(DiffOptions),
    /// Show the same, ask once, do it, verify it
    #[command(after_help = STATUSES)]
    Apply(ApplyOptions),
    /// Keep what `apply --confirm-within` did
    ///
    /// Until somebody types this, from a session that still gets in, all that such an apply did is taken back when its time
    /// is over. Whoever comes too late reads that it was, and types apply again. It takes root.
    #[command(after_help = CONFIRM_STATUSES)]
    Confirm,
    /// Check the end state on the running system
    #[command(after_help = STATUSES)]
    Verify(VerifyOptions),
    /// Take back the last apply, or all from RUN on
    #[command(after_help = STATUSES)]
    Undo(UndoOptions),
    /// List the applies of this machine
    Runs,
    /// Block an address for a time
    ///
    /// It opens nothing new on this host; what is open goes on, unless policy.toml says `cut_established`. The embedded
    /// portsentry does it, or the keeper of Debian's blocks, or, where none runs, this command in their place. Debian's
    /// portsentry hands over by this whom it caught (KILL_ROUTE).
    ///
    /// Refused, with the reason, for who is never blocked: this host's own addresses, its gateways, resolvers and DHCP
    /// servers, whom `safe` of policy.toml names, ssh clients of apply, and whom the ignore list names, the LAN among them.
    ///
    /// The ledger keeps the block over restarts. It is back at boot where harden-portsentry-blocks.service is set up, as apply
    /// does it; elsewhere `restore` brings it back. It takes root.
    #[command(after_help = BLOCK_STATUSES)]
    Block(BlockOptions),
    /// Free an address that is blocked, and forget what was held against it
    ///
    /// It is free at once: for the kernel, for TCP wrappers, for fail2ban's portsentry jail, whose ban is lifted, and for the
    /// portsentry that remembers whom it blocked, and is restarted for it. Rules of iptables and lines of hosts.deny by which
    /// Debian's portsentry shut it out go, too. Its next block is a first one. It takes root.
    #[command(after_help = UNBLOCK_STATUSES)]
    Unblock(UnblockOptions),
    /// List who is blocked, until when, by whom and why, and where other lists disagree
    ///
    /// A line for each: ADDRESS; NAME, as it was looked up when it was caught, if it was; SINCE and UNTIL, in local time; TIMES,
    /// how often it was blocked, as far as that is remembered; BY, who wanted it: daemon, the embedded portsentry; portsentry,
    /// Debian's; hand; fail2ban; or kernel, where it was found in the kernel's sets; and WHY. Below it stands of whom the kernel,
    /// TCP wrappers, portsentry's memory or fail2ban say otherwise. It takes root.
    #[command(after_help = LIST_STATUSES)]
    Blocked,
    /// Have the kernel block again whom the ledger says, as at boot
    ///
    /// For after somebody took the table of blocked hosts away, as `nft flush ruleset` does, or hosts out of its sets. A daemon
    /// that runs brings back a table by itself, and hosts when it is asked by this; harden-portsentry-blocks.service does it at
    /// boot, before the network is up, whatever is wrong with policy.toml. It takes root.
    #[command(after_help = LIST_STATUSES)]
    Restore,
    /// Ask for what is missing and write config.env and policy.toml
    Init(InitOptions),
    /// Watch as a portsentry of its own; `daemon --help` lists portsentry's options
    #[command(disable_help_flag = true)]
    Daemon {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        words: Vec<OsString>,
    },
    /// Take back what nobody confirmed in time; systemd starts it
    #[command(hide = true)]
    Expire,
    /// Take out of the kernel what blocks; systemd does it
    #[command(hide = true)]
    Unload,
    /// Keep the blocks of Debian's portsentry; systemd starts it
    #[command(hide = true)]
    Keep,
    /// Do what a watcher at standard input may not; systemd starts it
    #[command(hide = true, subcommand)]
    Responder(Responder),
    /// Write the man pages into DIRECTORY
    #[command(hide = true)]
    Man { directory: PathBuf },
}

#[derive(Debug, Subcommand)]
pub enum Responder {
    /// Run what the configuration says
    Commands {
        #[arg(short, long = "configfile")]
        conf: PathBuf,
        /// Open the ports of the configuration as well
        #[arg(long)]
        connect: bool,
        /// Until standard input closes, by which connections come
        #[arg(long)]
        stay: bool,
    },
    /// Look up names, as nobody
    Names {
        /// Until standard input closes, by which connections come
        #[arg(long)]
        stay: bool,
    },
}

/// Flags of every command
#[derive(Debug, Args)]
pub struct Common {
    /// Where the LAN_* variables stand [default: /root/config.env]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    config_env: Option<PathBuf>,
    /// Where everything else stands [default: /etc/harden-portsentry/policy.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    policy: Option<PathBuf>,
    /// A mounted image or chroot to prepare instead of this system; nothing is started there
    #[arg(long, global = true, value_name = "DIR", default_value = "/", help_heading = "Settings")]
    pub root: PathBuf,
    /// Which portsentry watches
    #[arg(long, global = true, help_heading = "Settings")]
    engine: Option<Engine>,
    /// What a blocked host meets
    #[arg(long, global = true, help_heading = "Settings")]
    response: Option<Response>,
    /// Install xtables-addons-dkms, which builds the CHAOS module for this kernel
    #[arg(long, global = true, help_heading = "Settings")]
    install_chaos: bool,
    /// The LAN's interface, as LAN_IF in config.env
    #[arg(long, global = true, value_name = "NAME", help_heading = "Settings")]
    lan_if: Option<String>,
    /// This host's address in the LAN, as LAN_IP
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = "Settings")]
    lan_ip: Option<String>,
    /// The LAN's netmask, as LAN_NM: 24 or 255.255.255.0
    #[arg(long, global = true, value_name = "MASK", help_heading = "Settings")]
    lan_nm: Option<String>,
    /// The LAN's gateway, as LAN_GW
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = "Settings")]
    lan_gw: Option<String>,
    /// Trust a LAN that is public or wider than a /16
    #[arg(long, global = true, help_heading = "Settings")]
    accept_wide_lan: bool,
    /// How to answer
    #[arg(long, global = true, default_value = "text", help_heading = "Output")]
    pub format: Format,
    /// When to use colour
    #[arg(long, global = true, default_value = "auto", help_heading = "Output")]
    pub color: Color,
    /// Print only what is wrong
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
    /// Print every value with where it came from, and every step
    #[arg(short, long, global = true, help_heading = "Output")]
    pub verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// for CI (verify only)
    Junit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// on a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

impl Color {
    pub fn apply(self) {
        let on = match self {
            Color::Auto => return,
            Color::Always => true,
            Color::Never => false,
        };
        console::set_colors_enabled(on);
        console::set_colors_enabled_stderr(on);
    }
}

#[derive(Debug, Args)]
pub struct DiffOptions {
    /// Accepted for those who are used to it: diff never writes
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct ApplyOptions {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Take all of it back unless somebody confirms it within this time, 10s to 1h, by Enter or by `harden-portsentry
    /// confirm`: for whoever could lock themselves out. It is taken back also where this is killed, the connection is lost,
    /// or the host boots; Ctrl-C takes it back at once. It takes systemd
    #[arg(long, value_name = "TIME", value_parser = confirm_within)]
    pub confirm_within: Option<Duration>,
}

/// No less than it takes to log in once more, no more than anybody waits.
const CONFIRM_WITHIN: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(3_600);

fn confirm_within(text: &str) -> Result<Duration, String> {
    let length = text.parse::<BanTime>().ok().and_then(BanTime::duration);
    let length =
        length.ok_or_else(|| format!("`{text}` is no length of time; write 60s, 5m, or a number of seconds"))?;
    if CONFIRM_WITHIN.contains(&length) { Ok(length) } else { Err("not between 10 seconds and 1 hour".to_owned()) }
}

#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// A check that cannot be made here fails, too
    #[arg(long)]
    pub strict: bool,
}

#[derive(Debug, Args)]
pub struct UndoOptions {
    /// Take back this run and all later ones (`runs` lists them) [default: the last one]
    pub run: Option<u32>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Overwrite files that were edited after apply
    #[arg(long)]
    pub force: bool,
    /// Purge the packages that apply installed, with the dependencies that came along
    #[arg(long)]
    pub purge_packages: bool,
}

#[derive(Debug, Args)]
pub struct InitOptions {
    /// Take what the machine offers without asking, where there is only one answer
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct BlockOptions {
    /// Whom: an IPv4 or IPv6 address
    #[arg(value_name = "ADDRESS")]
    pub address: IpAddr,
    /// For how long: 90s, 15m, 1h, 1d, 2w, or forever [default: `term` of [block] in policy.toml, a day, longer for who was
    /// blocked before; one that is blocked stays as it is]
    #[arg(long = "for", value_name = "TIME")]
    pub length: Option<BanTime>,
    /// What to remember of it
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    pub why: String,
    /// On whose behalf
    #[arg(long, hide = true, default_value = "hand")]
    pub by: Asker,
}

/// Who asks for a block, or for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Asker {
    Hand,
    Portsentry,
    Fail2ban,
}

#[derive(Debug, Args)]
pub struct UnblockOptions {
    /// Whom
    #[arg(value_name = "ADDRESS", required_unless_present = "all", conflicts_with = "all")]
    pub address: Option<IpAddr>,
    /// Everybody
    #[arg(long)]
    pub all: bool,
    /// What to remember of it
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    pub why: String,
    /// Who asks; the jail's action says so, which needs not be told of it
    #[arg(long, hide = true, value_enum, default_value = "hand")]
    pub by: Asker,
}

impl Common {
    /// JUnit is a list of checks; commands other than verify have none.
    ///
    /// # Errors
    /// It was asked for.
    pub fn refuse_junit(&self) -> Result<()> {
        if self.format == Format::Junit {
            bail!("--format junit is for verify; use text or json here");
        }
        Ok(())
    }

    /// The flags that decide about settings. Files that are not named lie within the root.
    pub fn flags(&self) -> Flags {
        let within = |path: &str| self.root.join(path.trim_start_matches('/'));
        let named = [("--config-env", &self.config_env), ("--policy", &self.policy)];
        Flags {
            named: named.into_iter().filter_map(|(flag, path)| Some((flag, path.clone()?))).collect(),
            config_env: self.config_env.clone().unwrap_or_else(|| within("/root/config.env")),
            policy: self.policy.clone().unwrap_or_else(|| within(POLICY)),
            lan_if: self.lan_if.clone(),
            lan_ip: self.lan_ip.clone(),
            lan_nm: self.lan_nm.clone(),
            lan_gw: self.lan_gw.clone(),
            accept_wide_lan: self.accept_wide_lan,
            engine: self.engine,
            response: self.response,
            install_chaos: self.install_chaos,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_confirm_is_between_ten_seconds_and_an_hour() {
        for (text, seconds) in [("10s", 10), ("60s", 60), ("90", 90), ("5m", 300), ("1h", 3_600)] {
            assert_eq!(confirm_within(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["9s", "61m", "1d"] {
            assert!(confirm_within(wrong).unwrap_err().contains("between 10 seconds and 1 hour"), "{wrong}");
        }
        for wrong in ["", "soon", "-5", "1.5m", "forever", "0"] {
            assert!(confirm_within(wrong).unwrap_err().contains("no length of time"), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}

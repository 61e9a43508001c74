//! The kernel's side: sets of who is blocked and the rules that ask them, in nftables, or, on hosts that have only
//! iptables, in its filter table.

mod iptables;
mod nftables;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Error, Result};

use super::terms::Terms;
use crate::host::{Again, ChainName};
use crate::kernel::{Stay, is_full};
use iptables::IptablesTable;
use nftables::NftTable;
pub use nftables::{TABLE, ruleset};

/// The kernel's clock and ours may differ by so much.
const TOLERANCE: Duration = Duration::from_secs(2);

/// What a blocked host meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Silence.
    Drop,
    /// A reset, or an ICMP error.
    Reject,
    /// Any of these, or what looks like an open port and leads nowhere.
    Noise,
    /// iptables' CHAOS, by one rule for all that are marked here. IPv4 alone: silence for IPv6.
    Chaos,
}

impl Answer {
    /// As KILL_NFT has it.
    pub fn name(self) -> &'static str {
        match self {
            Answer::Drop => "drop",
            Answer::Reject => "reject",
            Answer::Noise => "noise",
            Answer::Chaos => "chaos",
        }
    }

    /// The answer of this name.
    pub fn of(name: &str) -> Option<Answer> {
        [Answer::Drop, Answer::Reject, Answer::Noise, Answer::Chaos].into_iter().find(|answer| answer.name() == name)
    }
}

/// By which of the kernel's packet filters hosts are blocked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PacketFilter {
    /// A table of our own, before everybody's rules.
    #[default]
    Nftables,
    /// A chain in the filter table of iptables, first of all, or behind the jumps to the chain that is named here, in which
    /// an administrator lets in whom he knows.
    Iptables { after: Option<ChainName> },
}

impl PacketFilter {
    /// Whether this kernel has nftables; where it does not tell, it is taken to have it.
    pub fn kernel_has_nftables() -> bool {
        NftTable::is_known().unwrap_or(true)
    }

    /// The one by which hosts are blocked now; nftables where none are. For whoever cannot read which one is wanted.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn in_use() -> Result<PacketFilter> {
        Ok(match IptablesTable::is_there()? {
            true => PacketFilter::Iptables { after: IptablesTable::stands_after()? },
            false => PacketFilter::Nftables,
        })
    }
}

/// The sets with the rules that ask them.
pub trait Table {
    /// Whether it is there, and is what would be loaded for these terms, rule for rule.
    ///
    /// # Errors
    /// The kernel refuses to tell, or nothing can be loaded for these.
    fn is_current(&self, terms: &Terms) -> Result<bool>;

    /// Loads it without anybody in it, where it is not there and that is worth doing before it is known who is to be.
    ///
    /// # Errors
    /// As [`Table::load`].
    fn begin(&mut self, terms: &Terms) -> Result<()>;

    /// Loads it with these addresses in it, in the place of one that is there, whose addresses are never out meanwhile.
    ///
    /// # Errors
    /// The program that does it is not installed, or the kernel refuses.
    fn load(&mut self, terms: &Terms, addresses: &[(IpAddr, Stay)]) -> Result<()>;

    /// Keeps what is loaded, to load it again.
    fn keep(&mut self);

    /// Loads it again, which somebody took away or took something out of, with these addresses in it. What the sets of one
    /// that is there hold is to be looked at then: it may have been loaded by somebody else.
    ///
    /// # Errors
    /// As [`Table::load`].
    fn load_again(&mut self, terms: &Terms, addresses: &[(IpAddr, Stay)]) -> Result<Again>;

    /// What a blocked host meets from the next load on; returns what it met so far.
    fn answer(&mut self, answer: Answer) -> Answer;

    /// Blocks; who is blocked already gets the new time.
    ///
    /// # Errors
    /// The sets are not there, one is full, or the kernel refuses.
    fn block(&mut self, addresses: &[(IpAddr, Stay)]) -> Result<()>;

    /// Frees; who is not blocked is no error.
    ///
    /// # Errors
    /// The sets are not there, or the kernel refuses.
    fn free(&mut self, addresses: &[IpAddr]) -> Result<()>;

    /// Whether `address` is in the sets.
    ///
    /// # Errors
    /// The sets are not there, or the kernel refuses.
    fn has(&mut self, address: IpAddr) -> Result<bool>;

    /// Who is in the sets, and for how long still.
    ///
    /// # Errors
    /// The sets are not there, or the kernel refuses.
    fn list(&mut self) -> Result<HashMap<IpAddr, Stay>>;

    /// The same, but nobody where no rule asks the sets: whom the kernel blocks.
    ///
    /// # Errors
    /// As [`Table::list`].
    fn blocked(&mut self) -> Result<HashMap<IpAddr, Stay>> {
        self.list()
    }

    /// Whether the time that the kernel has for somebody is that which he is to have.
    fn is_right(&self, known: Stay, wanted: Stay) -> bool {
        match (known, wanted) {
            (Some(known), Some(wanted)) => known.abs_diff(wanted) <= TOLERANCE,
            _ => known == wanted,
        }
    }
}

/// The table by which `filter` blocks; nothing is loaded yet.
///
/// # Errors
/// There is no netlink.
pub fn open(filter: &PacketFilter, answer: Answer) -> Result<Box<dyn Table>> {
    Ok(match filter {
        PacketFilter::Nftables => Box::new(NftTable::open(answer)?),
        PacketFilter::Iptables { after } => Box::new(IptablesTable::new(answer, after.clone())),
    })
}

/// Whether either is there.
///
/// # Errors
/// The kernel refuses to tell.
pub fn any_is_there() -> Result<bool> {
    Ok(NftTable::is_there()? || IptablesTable::is_there()?)
}

/// Whom the kernel blocks, by whichever.
///
/// # Errors
/// The kernel refuses to tell.
pub fn blocked_by_any() -> Result<HashMap<IpAddr, Stay>> {
    let mut all = HashMap::new();
    if NftTable::is_there()? {
        all.extend(NftTable::open(Answer::Drop)?.blocked()?);
    }
    if IptablesTable::is_there()? {
        all.extend(IptablesTable::new(Answer::Drop, None).blocked()?);
    }
    Ok(all)
}

/// Takes both away, where they are there: everybody is free.
///
/// # Errors
/// The kernel refuses.
pub fn remove_all() -> Result<()> {
    NftTable::remove()?;
    IptablesTable::remove()
}

/// Takes away what blocks by another one than `filter`, where hosts were blocked by that before.
///
/// # Errors
/// The kernel refuses.
pub fn remove_others(filter: &PacketFilter) -> Result<()> {
    match filter {
        PacketFilter::Nftables => IptablesTable::remove(),
        PacketFilter::Iptables { .. } => NftTable::remove(),
    }
}

/// In words, if there is no room for another one.
fn explained(error: Error) -> Error {
    match is_full(&error) {
        true => error.context(
            "there is no room for another blocked host in the kernel's set; `harden-portsentry unblock` makes room, \
             and in_all of [block] in policy.toml sets how much there is",
        ),
        false => error,
    }
}

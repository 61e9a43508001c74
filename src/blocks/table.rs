//! The kernel's side: templates/blocks.nft, filled and loaded, and its sets.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use askama::Template;

use super::terms::{Noise, Terms};
use crate::host::{Again, CHAOS_MARK, Invocation, KeptTable, Text};
use crate::kernel::{AddressSets, Stay, has_table, is_full};

/// The inet table's name.
pub const TABLE: &str = "harden_portsentry_blocks";
/// Its sets of addresses, IPv4 and IPv6.
pub const SETS: [&str; 2] = ["blocked4", "blocked6"];

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

/// What makes one machine's stable noise another one's: a number of this machine (machine-id(5)), as nft writes it.
fn seed() -> String {
    let id = std::fs::read("/etc/machine-id").unwrap_or_default();
    format!("0x{:08x}", crc32fast::hash(&id))
}

#[derive(Template)]
#[template(path = "blocks.nft", escape = "none", ext = "txt")]
struct Ruleset<'a> {
    table: &'a str,
    size: usize,
    cut_established: bool,
    reject: bool,
    noise: bool,
    chaos: bool,
    mark: &'a str,
    /// The same noise for the same source and port, by this number.
    stable: bool,
    seed: &'a str,
    /// What the rest of the text is, in one word.
    version: &'a str,
    elements4: &'a str,
    elements6: &'a str,
}

/// The table with its sets.
pub struct Table {
    table: KeptTable,
    sets: AddressSets,
    answer: Answer,
}

impl Table {
    /// Does not load it yet.
    ///
    /// # Errors
    /// There is no netlink.
    pub fn open(answer: Answer) -> Result<Table> {
        let table = KeptTable::new(TABLE, "the table of blocked hosts");
        Ok(Table { table, sets: AddressSets::open(TABLE, SETS)?, answer })
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn is_there() -> Result<bool> {
        has_table(TABLE)
    }

    /// Takes it away, if it is there: everybody is free.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove() -> Result<()> {
        if Table::is_there()? {
            Invocation::new("nft", &["delete", "table", "inet", TABLE])
                .demand()
                .context("cannot take away the table of blocked hosts")?;
        }
        Ok(())
    }

    /// Whether it is there, and is what would be loaded for these terms, rule for rule.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn is_current(&self, terms: &Terms) -> Result<bool> {
        self.table.is(&filled(terms, self.answer, &[])?)
    }

    /// Loads it without anybody in it, where it is not there.
    ///
    /// # Errors
    /// As [`Table::load`].
    pub fn begin(&mut self, terms: &Terms) -> Result<()> {
        if Table::is_there()? { Ok(()) } else { self.load(terms, &[]) }
    }

    /// Loads it with these addresses in it, in the place of one that is there, in one transaction.
    ///
    /// # Errors
    /// nft is not installed, or the kernel refuses.
    pub fn load(&mut self, terms: &Terms, addresses: &[(IpAddr, Stay)]) -> Result<()> {
        // nft takes a millisecond for a hundred addresses, so it gets them only where others would be free meanwhile.
        let is_there = Table::is_there()?;
        let (in_text, after) = if is_there { (addresses, &[][..]) } else { (&[][..], addresses) };
        self.table.load(filled(terms, self.answer, in_text)?)?;
        self.block(after)
    }

    /// Keeps what is loaded, to load it again.
    pub fn keep(&mut self) {
        self.table.keep();
    }

    /// Loads it again, which somebody took away or took something out of, with these addresses in it. What the sets of one
    /// that is there hold is to be looked at then: it may have been loaded by somebody else.
    ///
    /// # Errors
    /// As [`Table::load`].
    pub fn load_again(&mut self, terms: &Terms, addresses: &[(IpAddr, Stay)]) -> Result<Again> {
        let again = self.table.load_again(&[])?;
        match again {
            Again::Loaded => self.block(addresses)?,
            Again::Whole => {}
            Again::Missing => {
                self.load(terms, addresses)?;
                self.keep();
            }
        }
        Ok(again)
    }

    /// What a blocked host meets from the next load on; returns what it met so far.
    pub fn answer(&mut self, answer: Answer) -> Answer {
        std::mem::replace(&mut self.answer, answer)
    }

    /// Blocks; who is blocked already gets the new time.
    ///
    /// # Errors
    /// The table is not there, a set is full, or the kernel refuses.
    pub fn block(&mut self, addresses: &[(IpAddr, Stay)]) -> Result<()> {
        self.sets.put(addresses).map_err(|error| match is_full(&error) {
            true => error.context(
                "there is no room for another blocked host in the kernel's set; `harden-portsentry unblock` makes room, \
                 and in_all of [block] in policy.toml sets how much there is",
            ),
            false => error,
        })
    }

    /// Frees; who is not blocked is no error.
    ///
    /// # Errors
    /// The table is not there, or the kernel refuses.
    pub fn free(&mut self, addresses: &[IpAddr]) -> Result<()> {
        self.sets.take(addresses)
    }

    /// Whether the kernel blocks `address`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn has(&mut self, address: IpAddr) -> Result<bool> {
        self.sets.has(address)
    }

    /// Whom the kernel blocks, and for how long still.
    ///
    /// # Errors
    /// The table is not there, or the kernel refuses.
    pub fn list(&mut self) -> Result<HashMap<IpAddr, Stay>> {
        self.sets.list()
    }
}

/// The text that is loaded.
///
/// # Errors
/// The template cannot be filled.
pub fn ruleset(terms: &Terms, answer: Answer, addresses: &[(IpAddr, Stay)]) -> Result<String> {
    Ok(filled(terms, answer, addresses)?.text)
}

fn filled(terms: &Terms, answer: Answer, addresses: &[(IpAddr, Stay)]) -> Result<Text> {
    let elements = |is_ipv6: bool| {
        let of_family = addresses.iter().filter(|(address, _)| address.is_ipv6() == is_ipv6);
        let texts = of_family.map(|(address, stay)| match stay {
            Some(stay) => format!("{address} timeout {}s", stay.as_secs().max(1)),
            None => address.to_string(),
        });
        texts.collect::<Vec<_>>().join(", ")
    };
    let (elements4, elements6, seed) = (elements(false), elements(true), seed());
    Text::of(|version| {
        // The version is the same whoever is in it.
        let with = |elements| if version.is_empty() { "" } else { elements };
        let ruleset = Ruleset {
            table: TABLE,
            size: terms.in_all,
            cut_established: terms.cut_established,
            reject: answer == Answer::Reject,
            noise: answer == Answer::Noise,
            chaos: answer == Answer::Chaos,
            mark: CHAOS_MARK,
            stable: terms.noise == Noise::Stable,
            seed: &seed,
            version,
            elements4: with(&elements4),
            elements6: with(&elements6),
        };
        ruleset.render().context("cannot fill in the table of blocked hosts")
    })
}

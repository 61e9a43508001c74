//! By nftables: templates/blocks.nft, filled and loaded, and its sets.

use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;

use anyhow::{Context, Result};
use askama::Template;

use super::{Answer, Table, explained};
use crate::blocks::terms::{Noise, Terms};
use crate::host::{Again, CHAOS_MARK, Invocation, KeptTable, Text};
use crate::kernel::{AddressSets, Stay, has_table};

/// The inet table's name.
pub const TABLE: &str = "harden_portsentry_blocks";
/// Its sets of addresses, IPv4 and IPv6.
pub const SETS: [&str; 2] = ["blocked4", "blocked6"];

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
pub struct NftTable {
    table: KeptTable,
    sets: AddressSets,
    answer: Answer,
}

impl NftTable {
    /// Does not load it yet.
    ///
    /// # Errors
    /// There is no netlink.
    pub fn open(answer: Answer) -> Result<NftTable> {
        let table = KeptTable::new(TABLE, "the table of blocked hosts");
        Ok(NftTable { table, sets: AddressSets::open(TABLE, SETS)?, answer })
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn is_there() -> Result<bool> {
        has_table(TABLE).or_else(|error| if is_unheard_of(&error) { Ok(false) } else { Err(error) })
    }

    /// Whether the kernel knows what is asked.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn is_known() -> Result<bool> {
        has_table(TABLE).map(|_| true).or_else(|error| if is_unheard_of(&error) { Ok(false) } else { Err(error) })
    }

    /// Takes it away, if it is there: everybody is free.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove() -> Result<()> {
        if NftTable::is_there()? {
            Invocation::new("nft", &["delete", "table", "inet", TABLE])
                .demand()
                .context("cannot take away the table of blocked hosts")?;
        }
        Ok(())
    }
}

/// A kernel without nftables does not understand the question.
fn is_unheard_of(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::InvalidInput)
}

impl Table for NftTable {
    fn is_current(&self, terms: &Terms) -> Result<bool> {
        self.table.is(&filled(terms, self.answer, &[])?)
    }

    fn begin(&mut self, terms: &Terms) -> Result<()> {
        if NftTable::is_there()? { Ok(()) } else { self.load(terms, &[]) }
    }

    fn load(&mut self, terms: &Terms, addresses: &[(IpAddr, Stay)]) -> Result<()> {
        // nft takes a millisecond for a hundred addresses, so it gets them only where others would be free meanwhile.
        let is_there = NftTable::is_there()?;
        let (in_text, after) = if is_there { (addresses, &[][..]) } else { (&[][..], addresses) };
        self.table.load(filled(terms, self.answer, in_text)?)?;
        self.block(after)
    }

    fn keep(&mut self) {
        self.table.keep();
    }

    fn load_again(&mut self, terms: &Terms, addresses: &[(IpAddr, Stay)]) -> Result<Again> {
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

    fn answer(&mut self, answer: Answer) -> Answer {
        std::mem::replace(&mut self.answer, answer)
    }

    fn block(&mut self, addresses: &[(IpAddr, Stay)]) -> Result<()> {
        self.sets.put(addresses).map_err(explained)
    }

    fn free(&mut self, addresses: &[IpAddr]) -> Result<()> {
        self.sets.take(addresses)
    }

    fn has(&mut self, address: IpAddr) -> Result<bool> {
        self.sets.has(address)
    }

    fn list(&mut self) -> Result<HashMap<IpAddr, Stay>> {
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

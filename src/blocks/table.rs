//! The kernel's side: templates/blocks.nft, filled and loaded, and its sets.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use askama::Template;

use super::terms::Terms;
use crate::host::Invocation;
use crate::kernel::{AddressSets, Snapshot, Stay, has_chain, has_table, is_full, is_there_already};

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
}

impl Answer {
    /// As KILL_NFT has it.
    pub fn name(self) -> &'static str {
        match self {
            Answer::Drop => "drop",
            Answer::Reject => "reject",
        }
    }
}

#[derive(Template)]
#[template(path = "blocks.nft", escape = "none", ext = "txt")]
struct Ruleset<'a> {
    table: &'a str,
    size: usize,
    cut_established: bool,
    reject: bool,
    /// What the rest of the text is, in one word.
    version: &'a str,
    elements4: &'a str,
    elements6: &'a str,
}

/// The table with its sets.
pub struct Table {
    sets: AddressSets,
    answer: Answer,
    /// As it was loaded, to be loaded again at once.
    loaded: Option<Snapshot>,
}

impl Table {
    /// Does not load it yet.
    ///
    /// # Errors
    /// There is no netlink.
    pub fn open(answer: Answer) -> Result<Table> {
        Ok(Table { sets: AddressSets::open(TABLE, SETS)?, answer, loaded: None })
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

    /// Whether it is there, and is what would be loaded for these terms.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn is_current(&self, terms: &Terms) -> Result<bool> {
        has_chain(TABLE, &version(terms, self.answer)?)
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
        Invocation::new("nft", &["-f", "-"])
            .input(ruleset(terms, self.answer, in_text)?)
            .demand()
            .context("cannot load the table of blocked hosts")?;
        self.block(after)
    }

    /// Keeps what is loaded, to load it again.
    pub fn keep(&mut self) {
        self.loaded = Snapshot::take(TABLE).ok();
    }

    /// Loads it again, which somebody took away, with these addresses in it; whether it had to be.
    ///
    /// # Errors
    /// As [`Table::load`].
    pub fn load_again(&mut self, terms: &Terms, addresses: &[(IpAddr, Stay)]) -> Result<bool> {
        match self.loaded.as_ref().map(|loaded| loaded.load(TABLE, &[])) {
            Some(Ok(())) => self.block(addresses)?,
            // It went, and came back: by a load of ours.
            Some(Err(error)) if is_there_already(&error) => return Ok(false),
            // By nft, which takes longer.
            _ => self.load(terms, addresses)?,
        }
        Ok(true)
    }

    /// What a blocked host meets from the next load on.
    pub fn answer(&mut self, answer: Answer) {
        self.answer = answer;
    }

    /// Blocks; who is blocked already gets the new time.
    ///
    /// # Errors
    /// The table is not there, a set is full, or the kernel refuses.
    pub fn block(&mut self, addresses: &[(IpAddr, Stay)]) -> Result<()> {
        self.sets.put(addresses).map_err(|error| match is_full(&error) {
            true => error.context("there is no room for another blocked host in the kernel's set"),
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
    filled(terms, answer, &version(terms, answer)?, addresses)
}

/// A name for the text without addresses: another text has another one.
fn version(terms: &Terms, answer: Answer) -> Result<String> {
    let text = filled(terms, answer, "", &[])?;
    Ok(format!("version_{:08x}", crc32fast::hash(text.as_bytes())))
}

fn filled(terms: &Terms, answer: Answer, version: &str, addresses: &[(IpAddr, Stay)]) -> Result<String> {
    let elements = |is_ipv6: bool| {
        let of_family = addresses.iter().filter(|(address, _)| address.is_ipv6() == is_ipv6);
        let texts = of_family.map(|(address, stay)| match stay {
            Some(stay) => format!("{address} timeout {}s", stay.as_secs().max(1)),
            None => address.to_string(),
        });
        texts.collect::<Vec<_>>().join(", ")
    };
    Ruleset {
        table: TABLE,
        size: terms.in_all,
        cut_established: terms.cut_established,
        reject: answer == Answer::Reject,
        version,
        elements4: &elements(false),
        elements6: &elements(true),
    }
    .render()
    .context("cannot fill in the table of blocked hosts")
}

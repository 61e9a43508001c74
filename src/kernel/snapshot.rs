//! A table as the kernel holds it, kept as the messages that make it again in one transaction: some milliseconds sooner
//! than starting nft, which is what counts where somebody has flushed the ruleset.
//!
//! What a dump says of tables, sets, chains, rules and objects is, attribute by attribute, what their creation takes
//! (linux/netfilter/nf_tables.h); numbers that the kernel gave are left out.

use std::io::{Error, Result};
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{
    NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NlasIterator,
};
use netlink_sys::Socket;
use rustix::net::{RecvFlags, recv};

use super::elements::{NEW, append_attribute, append_elements, append_message, terminated};
use super::nftables::{NFTABLES, begin, end, messages, open, transact, with_socket};

/// NLM_F_DUMP_INTR: what is dumped changed meanwhile.
const INTERRUPTED: u16 = 0x10;

/// A kind of thing in a table: the messages that make and get one, and the attributes that are given when it is made, the
/// table's name first.
struct Kind {
    new: u8,
    get: u8,
    kept: &'static [u16],
}

const TABLE: Kind = Kind { new: 0, get: 1, kept: &[1, 2, 6] };
const CHAIN: Kind = Kind { new: 3, get: 4, kept: &[1, 3, 4, 5, 7, 12] };
const RULE: Kind = Kind { new: 6, get: 7, kept: &[1, 2, 4, 7] };
const SET: Kind = Kind { new: 9, get: 10, kept: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18] };
const ELEMENTS: Kind = Kind { new: NEW, get: 13, kept: &[1, 2, 3] };
const OBJECT: Kind = Kind { new: 18, get: 19, kept: &[1, 2, 3, 4, 8] };
/// NFTA_*_TABLE, which is the first of each.
const TABLE_NAME: u16 = 1;
/// NFTA_SET_NAME and, of elements, NFTA_SET_ELEM_LIST_SET; NFTA_SET_FLAGS; NFTA_SET_ID.
const NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_ID: u16 = 10;
/// NFT_SET_EVAL: packets put elements in, and so they are no part of the table as it was loaded.
const DYNAMIC: u32 = 0x20;
/// NFT_SET_TIMEOUT: somebody puts elements in, for a time.
const TIMED: u32 = 0x10;

/// The messages, without the ends of a transaction.
#[derive(Debug, Clone)]
pub struct Snapshot(Vec<u8>);

impl Snapshot {
    /// Takes one of the inet table `table`; of its sets those elements that stay, which are neither put in by packets nor
    /// for a time.
    ///
    /// # Errors
    /// There is no such table, the kernel refuses, or it changed again and again meanwhile.
    pub fn take(table: &str) -> Result<Snapshot> {
        let socket = open().map_err(Error::other)?;
        let mut taking = Taking { socket, table, out: Vec::new(), buffer: vec![0; 64 << 10] };
        for _ in 0..3 {
            taking.out.clear();
            if taking.all()? {
                return Ok(Snapshot(taking.out));
            }
        }
        Err(Error::other("the table changed while it was read"))
    }

    /// Makes the table again, which must not be there, with these ports in sets of ports, each for a time.
    ///
    /// # Errors
    /// The kernel refuses; then nothing was made.
    pub fn load(&self, table: &str, ports: &[(&str, &[u16], Duration)]) -> anyhow::Result<()> {
        let mut batch = begin();
        batch.extend_from_slice(&self.0);
        for (set, ports, time) in ports {
            let elements = ports.iter().map(|port| (port.to_be_bytes(), Some(*time)));
            append_elements(&mut batch, (NEW, NLM_F_CREATE), (table, set), elements);
        }
        end(&mut batch);
        with_socket(|socket| Ok(transact(socket, &batch, &mut vec![0; 64 << 10])?))
    }
}

/// Whether `error` says that what was to be made is there.
pub fn is_there_already(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
}

struct Taking<'a> {
    socket: Socket,
    table: &'a str,
    out: Vec<u8>,
    buffer: Vec<u8>,
}

impl Taking<'_> {
    /// Whether nothing changed meanwhile.
    fn all(&mut self) -> Result<bool> {
        let mut whole = true;
        let name = attribute(1, &terminated(self.table));
        self.get(&TABLE, 0, &name, &mut whole, &mut |_| Some(Vec::new()))?;
        let mut number = 0_u32;
        let mut lasting: Vec<Vec<u8>> = Vec::new();
        self.get(&SET, NLM_F_DUMP, &name, &mut whole, &mut |set| {
            number += 1;
            let value = |kind| find(set, kind).unwrap_or_default();
            let flags = value(SET_FLAGS).try_into().map_or(0, u32::from_be_bytes);
            if flags & (DYNAMIC | TIMED) == 0 {
                lasting.push(value(NAME));
            }
            // Which the kernel wants of each set that is made in a transaction.
            Some(attribute(SET_ID, &number.to_be_bytes()))
        })?;
        let own = terminated(self.table);
        // The kernel lists the chains of all tables.
        let is_own = |found: &[u8]| (find(found, TABLE_NAME).as_deref() == Some(&own[..])).then(Vec::new);
        self.get(&CHAIN, NLM_F_DUMP, &name, &mut whole, &mut |found| is_own(found))?;
        // Behind the chains, to which a map of verdicts leads, and before the rules: a set without a name takes none once a
        // rule uses it.
        for set in lasting {
            let of_set = [name.clone(), attribute(NAME, &set)].concat();
            self.get(&ELEMENTS, NLM_F_DUMP, &of_set, &mut whole, &mut |_| Some(Vec::new()))?;
        }
        self.get(&OBJECT, NLM_F_DUMP, &name, &mut whole, &mut |_| Some(Vec::new()))?;
        self.get(&RULE, NLM_F_DUMP, &name, &mut whole, &mut |found| is_own(found))?;
        Ok(whole)
    }

    /// Asks for things of one kind and appends the messages that make them, each with what `more` adds, or not at all.
    fn get(
        &mut self,
        kind: &Kind,
        how: u16,
        attributes: &[u8],
        whole: &mut bool,
        more: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<()> {
        let mut question = Vec::new();
        append_message(&mut question, kind.get, NLM_F_REQUEST | how, |out| out.extend_from_slice(attributes));
        self.socket.send(&question, 0)?;
        loop {
            let (length, _) = recv(self.socket.as_fd(), &mut self.buffer[..], RecvFlags::empty())?;
            for told in messages(&self.buffer[..length.min(self.buffer.len())]) {
                *whole &= told.flags & INTERRUPTED == 0;
                if let Some(verdict) = told.verdict() {
                    return verdict;
                }
                if told.kind != NFTABLES << 8 | u16::from(kind.new) {
                    continue;
                }
                let body = told.body.get(4..).unwrap_or_default();
                if let Some(more) = more(body) {
                    let kept = [kept(body, kind.kept), more].concat();
                    // A table that is there already is not added to.
                    let excl = if how & NLM_F_DUMP == 0 { NLM_F_EXCL } else { NLM_F_APPEND };
                    let flags = NLM_F_REQUEST | NLM_F_CREATE | excl | NLM_F_ACK;
                    append_message(&mut self.out, kind.new, flags, |out| out.extend(kept));
                }
                if how & NLM_F_DUMP == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// The attributes of these kinds, as they are.
fn kept(attributes: &[u8], kinds: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = attributes;
    while let Some(header) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]])).max(4);
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NLA_F_NESTED;
        let padded = length.next_multiple_of(4).min(rest.len());
        if kinds.contains(&kind) {
            out.extend_from_slice(&rest[..padded]);
        }
        rest = &rest[padded..];
    }
    out
}

fn find(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let found = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == kind);
    found.map(|attribute| attribute.value().to_vec())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    append_attribute(&mut out, kind, |out| out.extend_from_slice(value));
    out
}

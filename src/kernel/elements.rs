//! Messages of nftables, byte by byte (linux/netfilter/nf_tables.h), and those that put elements into sets or take them out,
//! written without a structure for each element: there may be ten thousand.

use std::time::Duration;

use netlink_packet_core::{NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST};

use super::nftables::NFTABLES;

/// How long an address is to stay; `None` for ever.
pub type Stay = Option<Duration>;

/// NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM and NFT_MSG_DELSETELEM.
pub const NEW: u8 = 12;
pub const GET: u8 = 13;
pub const DELETE: u8 = 14;
/// NFPROTO_INET.
const INET: u8 = 1;

/// Elements of one message: an attribute's length is counted in 16 bits.
const AT_ONCE: usize = 500;

/// Appends messages about elements of the set `set` of the inet table `table`: keys, each with how long it is to stay, if not
/// for ever. Nothing is appended where there are none.
pub fn append_elements<K: AsRef<[u8]>>(
    batch: &mut Vec<u8>,
    (kind, flags): (u8, u16),
    (table, set): (&str, &str),
    elements: impl Iterator<Item = (K, Option<Duration>)>,
) {
    const TABLE: u16 = 1;
    const SET: u16 = 2;
    const ELEMENTS: u16 = 3 | NLA_F_NESTED;
    let mut elements = elements.peekable();
    while elements.peek().is_some() {
        append_message(batch, kind, NLM_F_REQUEST | NLM_F_ACK | flags, |out| {
            for (kind, name) in [(TABLE, table), (SET, set)] {
                append_attribute(out, kind, |out| out.extend(terminated(name)));
            }
            append_attribute(out, ELEMENTS, |out| {
                elements.by_ref().take(AT_ONCE).for_each(|(key, stay)| append_element(out, key.as_ref(), stay));
            });
        });
    }
}

fn append_element(out: &mut Vec<u8>, key: &[u8], stay: Option<Duration>) {
    const ELEMENT: u16 = 1 | NLA_F_NESTED;
    const KEY: u16 = 1 | NLA_F_NESTED;
    const VALUE: u16 = 1;
    const TIMEOUT: u16 = 4;
    append_attribute(out, ELEMENT, |out| {
        append_attribute(out, KEY, |out| append_attribute(out, VALUE, |out| out.extend_from_slice(key)));
        if let Some(stay) = stay {
            // 0 would be for ever.
            let milliseconds = u64::try_from(stay.as_millis()).unwrap_or(u64::MAX).max(1);
            append_attribute(out, TIMEOUT, |out| out.extend(milliseconds.to_be_bytes()));
        }
    });
}

/// Appends a message of nftables about the inet family, with the attributes that `write` appends.
pub fn append_message(out: &mut Vec<u8>, kind: u8, flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
    append_message_of(out, (NFTABLES << 8 | u16::from(kind), INET), flags, write);
}

/// Appends a message of any part of netfilter: its kind, with that part's number in the upper byte, and its family.
pub fn append_message_of(out: &mut Vec<u8>, (kind, family): (u16, u8), flags: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([1_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat());
    out.extend([family, 0, 0, 0]);
    write(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Appends an attribute with what `write` appends, and what fills its last four bytes.
pub fn append_attribute(out: &mut Vec<u8>, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 2]);
    out.extend(kind.to_ne_bytes());
    write(out);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

/// With a NUL, as names are.
pub fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

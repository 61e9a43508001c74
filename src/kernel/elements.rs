//! Messages that put elements into sets of nftables or take them out (linux/netfilter/nf_tables.h), written without a
//! structure for each element: there may be ten thousand.

use std::time::Duration;

use netlink_packet_core::{NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST};

use super::nftables::NFTABLES;

/// NFT_MSG_NEWSETELEM and NFT_MSG_DELSETELEM.
pub const NEW: u8 = 12;
pub const DELETE: u8 = 14;
/// NFPROTO_INET.
const INET: u8 = 1;

/// Appends a message about elements of the set `set` of the inet table `table`: keys, each with how long it is to stay, if
/// not for ever. An attribute's length is counted in 16 bits, so these may be some hundreds.
pub fn append_elements<K: AsRef<[u8]>>(
    batch: &mut Vec<u8>,
    (kind, flags): (u8, u16),
    (table, set): (&str, &str),
    elements: impl Iterator<Item = (K, Option<Duration>)>,
) {
    const TABLE: u16 = 1;
    const SET: u16 = 2;
    const ELEMENTS: u16 = 3 | NLA_F_NESTED;
    const ELEMENT: u16 = 1 | NLA_F_NESTED;
    const KEY: u16 = 1 | NLA_F_NESTED;
    const VALUE: u16 = 1;
    const TIMEOUT: u16 = 4;
    let start = batch.len();
    batch.extend([0; 4]);
    batch.extend((NFTABLES << 8 | u16::from(kind)).to_ne_bytes());
    batch.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    batch.extend([1_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat());
    batch.extend([INET, 0, 0, 0]);
    for (kind, name) in [(TABLE, table), (SET, set)] {
        attribute(batch, kind, |out| {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
        });
    }
    attribute(batch, ELEMENTS, |out| {
        for (key, stay) in elements {
            attribute(out, ELEMENT, |out| {
                attribute(out, KEY, |out| attribute(out, VALUE, |out| out.extend_from_slice(key.as_ref())));
                if let Some(stay) = stay {
                    // 0 would be for ever.
                    let milliseconds = u64::try_from(stay.as_millis()).unwrap_or(u64::MAX).max(1);
                    attribute(out, TIMEOUT, |out| out.extend(milliseconds.to_be_bytes()));
                }
            });
        }
    });
    let length = u32::try_from(batch.len() - start).unwrap_or(u32::MAX);
    batch[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Appends an attribute with what `write` appends, and what fills its last four bytes.
fn attribute(out: &mut Vec<u8>, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 2]);
    out.extend(kind.to_ne_bytes());
    write(out);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

//! Elements of nftables sets, by netlink (linux/netfilter/nf_tables.h): no `nft` is started for them.

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{NfTablesMessage, SetElementList, SetElementMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// nfnetlink's number of nftables.
const NFTABLES: u16 = 10;

/// Empties `sets` of the inet table `table`, in one transaction.
///
/// # Errors
/// One of them is not there, or the kernel refuses.
pub fn empty_sets(table: &str, sets: &[&str]) -> Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER).context("cannot open a netlink socket for nftables")?;
    socket.bind_auto().context("cannot bind a netlink socket for nftables")?;
    socket.connect(&SocketAddr::new(0, 0)).context("cannot reach the kernel by netlink")?;
    let mut batch = Vec::new();
    append(&mut batch, control(ControlMessage::BatchBegin), NLM_F_REQUEST);
    for set in sets {
        let attributes = vec![SetElementList::Table(table.to_owned()), SetElementList::Set((*set).to_owned())];
        let message = NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0),
            NfTablesMessage::DeleteSetElement(SetElementMessage { attributes }),
        );
        append(&mut batch, message, NLM_F_REQUEST | NLM_F_ACK);
    }
    append(&mut batch, control(ControlMessage::BatchEnd), NLM_F_REQUEST);
    socket.send(&batch, 0).context("cannot empty the sets of nftables")?;
    // A refusal of any of them comes first and undoes all.
    for set in sets {
        let (answer, _) = socket.recv_from_full().context("the kernel did not answer about nftables")?;
        let answer =
            NetlinkMessage::<NetfilterMessage>::deserialize(&answer).context("cannot read the kernel's answer")?;
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io()).with_context(|| format!("cannot empty the set {set} of table {table}"));
        }
    }
    Ok(())
}

fn control(message: ControlMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES), message)
}

fn append(batch: &mut Vec<u8>, message: NetfilterMessage, flags: u16) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags |= flags;
    message.header.sequence_number = 1;
    message.finalize();
    let start = batch.len();
    batch.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut batch[start..]);
}

//! Elements of nftables sets, and counters, by netlink (linux/netfilter/nf_tables.h): no `nft` is started for them, which
//! reads all elements of all sets before it lists a counter.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla, NlasIterator,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetElementList, SetElementMessage,
    TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// nfnetlink's number of nftables.
pub const NFTABLES: u16 = 10;
/// The group that is told of changes to it (linux/netfilter/nfnetlink.h).
const CHANGES: u32 = 7;

/// Empties `sets` of the inet table `table`, in one transaction.
///
/// # Errors
/// One of them is not there, or the kernel refuses.
pub fn empty_sets(table: &str, sets: &[&str]) -> Result<()> {
    let socket = open()?;
    let mut batch = begin();
    for set in sets {
        let attributes = vec![SetElementList::Table(table.to_owned()), SetElementList::Set((*set).to_owned())];
        let message = NfTablesMessage::DeleteSetElement(SetElementMessage { attributes });
        append(&mut batch, inet(message), NLM_F_REQUEST | NLM_F_ACK);
    }
    end(&mut batch);
    socket.send(&batch, 0).context("cannot empty the sets of nftables")?;
    // A refusal of any of them comes first and undoes all.
    for set in sets {
        answer(&socket).with_context(|| format!("cannot empty the set {set} of table {table}"))?;
    }
    Ok(())
}

/// How many packets the counter `name` of the inet table `table` has counted.
///
/// # Errors
/// There is no such counter, or the kernel refuses.
pub fn counted_packets(table: &str, name: &str) -> Result<u64> {
    const TABLE: u16 = 1;
    const NAME: u16 = 2;
    const TYPE: u16 = 3;
    const DATA: u16 = 4;
    const COUNTER: u32 = 1;
    const PACKETS: u16 = 2;
    let text = |kind, text: &str| DefaultNla::new(kind, [text.as_bytes(), b"\0"].concat());
    let attributes = vec![text(TABLE, table), text(NAME, name), DefaultNla::new(TYPE, COUNTER.to_be_bytes().to_vec())];
    let found = ask(NfTablesMessage::GetObject(attributes))
        .with_context(|| format!("cannot read the counter {name} of table {table}"))?;
    if let NetlinkPayload::InnerMessage(message) = found
        && let NetfilterMessageInner::NfTables(NfTablesMessage::NewObject(attributes)) = message.inner
        && let Some(data) = attributes.iter().find(|attribute| attribute.kind() == DATA)
    {
        let mut bytes = vec![0; data.value_len()];
        data.emit_value(&mut bytes);
        let packets = NlasIterator::new(&bytes[..]).flatten().find(|attribute| attribute.kind() == PACKETS);
        if let Some(Ok(packets)) = packets.map(|attribute| attribute.value().try_into()) {
            return Ok(u64::from_be_bytes(packets));
        }
    }
    bail!("the kernel answered something else about the counter {name} of table {table}")
}

/// Whether there is an inet table `name`.
///
/// # Errors
/// The kernel refuses to tell.
pub fn has_table(name: &str) -> Result<bool> {
    let attributes = vec![TableAttribute::Name(name.to_owned())];
    match ask(NfTablesMessage::GetTable(TableMessage { attributes })) {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error.context(format!("cannot find out whether there is a table {name}"))),
    }
}

/// Whether the inet table `table` has a chain `name`.
///
/// # Errors
/// The kernel refuses to tell.
pub fn has_chain(table: &str, name: &str) -> Result<bool> {
    let attributes = vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(name.to_owned())];
    match ask(NfTablesMessage::GetChain(ChainMessage { attributes })) {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error.context(format!("cannot find out whether table {table} has a chain {name}"))),
    }
}

/// How many rules the inet table `table` has, in all its chains; none where there is no such table.
///
/// # Errors
/// The kernel refuses to tell.
pub fn count_rules(table: &str) -> Result<usize> {
    const NEW_RULE: u16 = NFTABLES << 8 | 6;
    let attributes = vec![RuleAttribute::Table(table.to_owned())];
    let mut question = Vec::new();
    let message = NfTablesMessage::GetRule(RuleMessage { attributes });
    append(&mut question, inet(message), NLM_F_REQUEST | NLM_F_DUMP);
    with_socket(|socket| {
        socket.send(&question, 0).context("cannot ask nftables")?;
        let mut buffer = vec![0; 64 << 10];
        let mut count = 0;
        loop {
            let (length, _) = recv(socket.as_fd(), &mut buffer[..], RecvFlags::empty())?;
            for message in messages(&buffer[..length.min(buffer.len())]) {
                match message.verdict() {
                    Some(verdict) => return verdict.map(|()| count).map_err(Into::into),
                    // Old kernels list the rules of all tables.
                    None if message.kind == NEW_RULE && table_of(&message).as_deref() == Some(table) => count += 1,
                    None => {}
                }
            }
        }
    })
    .with_context(|| format!("cannot count the rules of table {table}"))
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Hears when tables, or parts of them, are taken away in this network namespace, by whomever.
pub struct TableChanges {
    socket: Socket,
    buffer: Vec<u8>,
}

impl TableChanges {
    /// From now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn watch() -> Result<TableChanges> {
        let socket = open()?;
        socket
            .add_membership(CHANGES)
            .context("cannot hear of changes to nftables; this takes CAP_NET_ADMIN in this network namespace")?;
        Ok(TableChanges { socket, buffer: vec![0; 64 << 10] })
    }

    /// Reads what was told, and adds to `gone` which tables have gone, or lost something.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn read(&mut self, gone: &mut Gone) -> Result<()> {
        loop {
            match recv(self.socket.as_fd(), &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((bytes, _)) => gone.names.extend(tables_that_lost(&self.buffer[..bytes.min(self.buffer.len())])),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                // More was told than the socket holds.
                Err(Errno::NOBUFS) => gone.others_perhaps = true,
                Err(error) => return Err(error).context("cannot hear of changes to nftables"),
            }
        }
    }
}

/// Tables that somebody took away, or took something out of.
#[derive(Debug, Default)]
pub struct Gone {
    names: HashSet<String>,
    others_perhaps: bool,
}

impl Gone {
    /// Whether `table` may have gone, or lost something. It may be there again: whoever makes it anew has to be told that,
    /// for asking takes longer than it takes whoever flushed the ruleset to end, behind which the kernel cleans up for
    /// 20 ms (measured, 6.18).
    pub fn has(&self, table: &str) -> bool {
        self.others_perhaps || self.names.contains(table)
    }
}

impl AsFd for TableChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The tables of which something was deleted that is no element, as one datagram tells.
fn tables_that_lost(datagram: &[u8]) -> impl Iterator<Item = String> {
    const TABLE: u16 = NFTABLES << 8 | 2;
    const CHAIN: u16 = NFTABLES << 8 | 5;
    const RULE: u16 = NFTABLES << 8 | 8;
    const SET: u16 = NFTABLES << 8 | 11;
    let deleted = messages(datagram).filter(|message| [TABLE, CHAIN, RULE, SET].contains(&message.kind));
    deleted.filter_map(|message| table_of(&message))
}

/// The table that a message of nftables is about: NFTA_*_TABLE and NFTA_TABLE_NAME are the first of each.
fn table_of(message: &Message) -> Option<String> {
    const TABLE: u16 = 1;
    let mut attributes = NlasIterator::new(message.body.get(4..)?).flatten();
    let name = attributes.find(|attribute| attribute.kind() == TABLE)?;
    Some(String::from_utf8_lossy(name.value().strip_suffix(b"\0")?).into_owned())
}

/// One message of the kernel (linux/netlink.h, struct nlmsghdr).
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    /// What follows the header.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// How what was asked for ended, if this message says so (NLMSG_ERROR, NLMSG_DONE): a dump that was cut off says why in
    /// its last one.
    pub fn verdict(&self) -> Option<std::io::Result<()>> {
        const ERROR: u16 = 2;
        const DONE: u16 = 3;
        let code = self.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        match self.kind {
            ERROR | DONE if code < 0 => Some(Err(std::io::Error::from_raw_os_error(-code))),
            ERROR | DONE => Some(Ok(())),
            _ => None,
        }
    }
}

/// The messages of a datagram; what is cut off is left out.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<16>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = rest.get(16..length)?;
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: half(4), flags: half(6), body })
    })
}

/// Sends a batch. The kernel has answered all of it when it has taken it, a refusal of any of it first, so its answers are
/// read until there are no more.
///
/// # Errors
/// The kernel's first refusal; then nothing was done.
pub fn transact(socket: &Socket, batch: &[u8], buffer: &mut [u8]) -> std::io::Result<()> {
    socket.send(batch, 0)?;
    let mut outcome = None;
    loop {
        let length = match recv(socket.as_fd(), &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => length.min(buffer.len()),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        };
        for verdict in messages(&buffer[..length]).filter_map(|message| message.verdict()) {
            if verdict.is_err() && !matches!(outcome, Some(Err(_))) || outcome.is_none() {
                outcome = Some(verdict);
            }
        }
    }
    outcome.unwrap_or_else(|| Err(std::io::Error::other("the kernel did not answer")))
}

pub fn open() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER).context("cannot open a netlink socket for nftables")?;
    socket.bind_auto().context("cannot bind a netlink socket for nftables")?;
    socket.connect(&SocketAddr::new(0, 0)).context("cannot reach the kernel by netlink")?;
    Ok(socket)
}

/// A socket that is never closed: closing one waits until the kernel has cleaned up behind the last transaction, which
/// takes 20 ms and more after a flushed ruleset (measured, 6.18).
static KEPT: Mutex<Option<Socket>> = Mutex::new(None);

/// Does something with the socket that is kept, on which nothing is left of what was asked before.
pub fn with_socket<T>(work: impl FnOnce(&Socket) -> Result<T>) -> Result<T> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let socket = match &mut *kept {
        Some(socket) => socket,
        none => none.insert(open()?),
    };
    let mut rest = [0; 4096];
    while recv(socket.as_fd(), &mut rest[..], RecvFlags::DONTWAIT).is_ok() {}
    work(socket)
}

/// Asks one thing.
fn ask(message: NfTablesMessage) -> Result<NetlinkPayload<NetfilterMessage>> {
    with_socket(|socket| {
        let mut question = Vec::new();
        append(&mut question, inet(message), NLM_F_REQUEST);
        socket.send(&question, 0).context("cannot ask nftables")?;
        answer(socket)
    })
}

/// The kernel's next answer; its refusal is an error.
fn answer(socket: &Socket) -> Result<NetlinkPayload<NetfilterMessage>> {
    let (answer, _) = socket.recv_from_full().context("the kernel did not answer about nftables")?;
    let answer = NetlinkMessage::deserialize(&answer).context("cannot read the kernel's answer")?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => {
            let error = error.to_io();
            let may_not = error.kind() == std::io::ErrorKind::PermissionDenied;
            let error = anyhow::Error::from(error);
            Err(if may_not { error.context("nftables takes CAP_NET_ADMIN in this network namespace") } else { error })
        }
        payload => Ok(payload),
    }
}

/// A transaction that is still empty.
pub fn begin() -> Vec<u8> {
    let mut batch = Vec::new();
    append(&mut batch, control(ControlMessage::BatchBegin), NLM_F_REQUEST);
    batch
}

/// Ends a transaction.
pub fn end(batch: &mut Vec<u8>) {
    append(batch, control(ControlMessage::BatchEnd), NLM_F_REQUEST);
}

pub fn inet(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

fn control(message: ControlMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES), message)
}

pub fn append(batch: &mut Vec<u8>, message: NetfilterMessage, flags: u16) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags |= flags;
    message.header.sequence_number = 1;
    message.finalize();
    let start = batch.len();
    batch.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut batch[start..]);
}

//! Pairs of nftables sets that hold addresses for a time, one of IPv4 and one of IPv6, by netlink: no fork, some ten
//! microseconds an element.

use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Result, anyhow};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NlasIterator};
use netlink_packet_netfilter::nftables::{NfTablesMessage, SetElementList, SetElementMessage};
use netlink_sys::Socket;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::elements::{DELETE, GET, NEW, Stay, append_elements};
use super::ipset;
use super::nftables::{NFTABLES, append, begin, end, inet, messages, open, transact};

/// Elements of one transaction: a socket takes some 200 kB at once.
const A_BATCH: usize = 2_000;
/// Less would cut the kernel's answers (measured: a datagram of 32,440 bytes).
const BUFFER: usize = 64 << 10;

/// The sets, and a socket that is kept open.
pub struct AddressSets {
    socket: Socket,
    table: String,
    names: [&'static str; 2],
    buffer: Vec<u8>,
}

impl AddressSets {
    /// The sets `names` (IPv4, IPv6) of the inet table `table`, which need not be there yet.
    ///
    /// # Errors
    /// There is no netlink.
    pub fn open(table: &str, names: [&'static str; 2]) -> Result<AddressSets> {
        Ok(AddressSets { socket: open()?, table: table.to_owned(), names, buffer: vec![0; BUFFER] })
    }

    /// Puts addresses in, those that are there already with their new time.
    ///
    /// Before Linux 6.12 adding an element again leaves its time as it was, without an error; so one that is there is
    /// taken out and put in by one transaction. The kernel takes milliseconds for one that it refuses, so it is asked once
    /// which ones are there.
    ///
    /// # Errors
    /// The sets are not there or full ([`is_full`]), or the kernel refuses. Those before the one that failed are in.
    pub fn put(&mut self, elements: &[(IpAddr, Stay)]) -> Result<()> {
        for elements in elements.chunks(A_BATCH) {
            let put = match self.add(elements) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && elements.len() > 1 => {
                    let known = self.list()?;
                    let known: Vec<_> =
                        elements.iter().filter(|(address, _)| known.contains_key(address)).copied().collect();
                    self.replace(&known, elements)
                }
                other => other,
            };
            match put {
                // One alone; or one of many came, or ran out of its time, meanwhile.
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
                    elements.iter().try_for_each(|element| self.renew(*element))
                }
                other => other,
            }
            .map_err(|error| self.explained(error, "put addresses into"))?;
        }
        Ok(())
    }

    /// Takes addresses out; those that are not there are no error.
    ///
    /// # Errors
    /// The sets are not there, or the kernel refuses.
    pub fn take(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let elements: Vec<(IpAddr, Stay)> = addresses.iter().map(|&address| (address, None)).collect();
        for elements in elements.chunks(A_BATCH) {
            match self.delete(elements) {
                // One that is missing undoes all.
                Err(error) if error.kind() == ErrorKind::NotFound && elements.len() > 1 => {
                    for element in elements {
                        match self.delete(&[*element]) {
                            Err(error) if error.kind() == ErrorKind::NotFound => {}
                            other => other.map_err(|error| self.explained(error, "take addresses out of"))?,
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => other.map_err(|error| self.explained(error, "take addresses out of"))?,
            }
        }
        Ok(())
    }

    /// Whether `address` is in.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn has(&mut self, address: IpAddr) -> Result<bool> {
        let set = self.names[usize::from(address.is_ipv6())];
        let mut question = Vec::new();
        append_elements(&mut question, (GET, 0), (&self.table, set), std::iter::once((octets(address), None)));
        let mut found = HashMap::new();
        match self.dump(&question, &mut found) {
            // So it is, too, where there is no such set.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            other => other.map(|()| found.contains_key(&address)).map_err(|error| self.explained(error, "look into")),
        }
    }

    /// All addresses, with how long each is still to stay.
    ///
    /// # Errors
    /// The sets are not there, or the kernel refuses.
    pub fn list(&mut self) -> Result<HashMap<IpAddr, Stay>> {
        let mut found = HashMap::new();
        for name in self.names {
            let attributes = vec![SetElementList::Table(self.table.clone()), SetElementList::Set(name.to_owned())];
            let mut question = Vec::new();
            let message = NfTablesMessage::GetSetElement(SetElementMessage { attributes });
            append(&mut question, inet(message), NLM_F_REQUEST | NLM_F_DUMP);
            self.dump(&question, &mut found).map_err(|error| self.explained(error, "list"))?;
        }
        Ok(found)
    }

    fn add(&mut self, elements: &[(IpAddr, Stay)]) -> Result<(), Error> {
        let mut batch = begin();
        self.change(&mut batch, elements, Change::Add);
        self.transact(batch)
    }

    fn delete(&mut self, elements: &[(IpAddr, Stay)]) -> Result<(), Error> {
        let mut batch = begin();
        self.change(&mut batch, elements, Change::Delete);
        self.transact(batch)
    }

    /// Takes some out and puts others in, by one transaction.
    fn replace(&mut self, old: &[(IpAddr, Stay)], new: &[(IpAddr, Stay)]) -> Result<(), Error> {
        let mut batch = begin();
        self.change(&mut batch, old, Change::Delete);
        self.change(&mut batch, new, Change::Add);
        self.transact(batch)
    }

    /// Puts one in whether it is there or not; it may run out of its time between two looks.
    fn renew(&mut self, element: (IpAddr, Stay)) -> Result<(), Error> {
        for _ in 0..3 {
            match self.add(&[element]) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                other => return other,
            }
            match self.replace(&[element], &[element]) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    fn change(&self, batch: &mut Vec<u8>, elements: &[(IpAddr, Stay)], change: Change) {
        for (is_ipv6, name) in [(false, self.names[0]), (true, self.names[1])] {
            let how = match change {
                Change::Add => (NEW, NLM_F_CREATE | NLM_F_EXCL),
                Change::Delete => (DELETE, 0),
            };
            let of_family = elements.iter().filter(|(address, _)| address.is_ipv6() == is_ipv6);
            let of_family = of_family.map(|(address, stay)| (octets(*address), *stay));
            append_elements(batch, how, (&self.table, name), of_family);
        }
    }

    fn transact(&mut self, mut batch: Vec<u8>) -> Result<(), Error> {
        end(&mut batch);
        transact(&self.socket, &batch, &mut self.buffer)
    }

    fn dump(&mut self, question: &[u8], found: &mut HashMap<IpAddr, Stay>) -> Result<(), Error> {
        self.socket.send(question, 0)?;
        loop {
            let (length, _) = recv(self.socket.as_fd(), &mut self.buffer[..], RecvFlags::empty())?;
            for message in messages(&self.buffer[..length.min(self.buffer.len())]) {
                /// NFT_MSG_NEWSETELEM.
                const NEW_ELEMENTS: u16 = NFTABLES << 8 | 12;
                match message.verdict() {
                    Some(verdict) => return verdict,
                    // Behind the four bytes of struct nfgenmsg.
                    None if message.kind == NEW_ELEMENTS => {
                        read_elements(message.body.get(4..).unwrap_or_default(), found);
                    }
                    None => {}
                }
            }
        }
    }

    fn explained(&self, error: Error, what: &str) -> anyhow::Error {
        let [v4, v6] = self.names;
        let sets = format!("cannot {what} the sets {v4} and {v6} of table inet {}", self.table);
        anyhow!(error).context(sets)
    }
}

/// Whether `error` says that a set, of nftables or of ipset, has no room for another element.
pub fn is_full(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<Error>().and_then(Error::raw_os_error);
    code.is_some_and(|code| [Errno::NFILE.raw_os_error(), ipset::FULL].contains(&code))
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Delete,
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Reads NFTA_SET_ELEM_LIST_*; the crate's own parser takes seconds for 10,000 elements, for it formats the whole list
/// for each.
fn read_elements(attributes: &[u8], found: &mut HashMap<IpAddr, Stay>) {
    const ELEMENTS: u16 = 3;
    const KEY: u16 = 1;
    const VALUE: u16 = 1;
    const TIMEOUT: u16 = 4;
    const EXPIRATION: u16 = 5;
    let inner = |bytes: &[u8], wanted: u16| {
        NlasIterator::new(bytes)
            .flatten()
            .find(|attribute| attribute.kind() == wanted)
            .map(|found| found.value().to_vec())
    };
    for list in NlasIterator::new(attributes).flatten().filter(|attribute| attribute.kind() == ELEMENTS) {
        for element in NlasIterator::new(list.value()).flatten() {
            let value = inner(element.value(), KEY).and_then(|key| inner(&key, VALUE));
            let Some(address) = value.and_then(|value| address_of(&value)) else { continue };
            let milliseconds = |wanted| {
                let bytes = inner(element.value(), wanted)?;
                Some(Duration::from_millis(u64::from_be_bytes(bytes.try_into().ok()?)))
            };
            let stay = milliseconds(TIMEOUT).map(|timeout| milliseconds(EXPIRATION).unwrap_or(timeout));
            found.insert(address, stay);
        }
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

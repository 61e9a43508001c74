//! Pairs of ipsets that hold addresses for a time, one of IPv4 and one of IPv6, by netlink
//! (linux/netfilter/ipset/ip_set.h): neither a fork nor Debian's package ipset is needed, and a block takes some ten
//! microseconds.

use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use netlink_packet_core::{
    NLA_F_NESTED, NLA_F_NET_BYTEORDER, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NlaBuffer, NlasIterator,
};
use rustix::net::{RecvFlags, recv};

use super::elements::Stay;
use super::elements::{append_attribute, append_message_of, terminated};
use super::nftables::{messages, transact, with_socket};

/// nfnetlink's number of ipset.
const IPSET: u16 = 6;
/// The protocol's version that every kernel speaks.
const PROTOCOL: u8 = 6;
const KIND: &str = "hash:ip";

const CREATE: u16 = 2;
const DESTROY: u16 = 3;
const SWAP: u16 = 6;
const LIST: u16 = 7;
const ADD: u16 = 9;
const DELETE: u16 = 10;
const TEST: u16 = 11;

const NAME: u16 = 2;
/// Of a set, and of SWAP the other set's name.
const TYPE: u16 = 3;
const REVISION: u16 = 4;
const FAMILY: u16 = 5;
const FLAGS: u16 = 6;
const DATA: u16 = 7;
const ELEMENTS: u16 = 8;
const LINE: u16 = 9;
/// Within DATA.
const ADDRESS: u16 = 1;
const TIMEOUT: u16 = 6;
const MOST: u16 = 19;

/// A set that a rule still names, or one of a moment ago: the kernel forgets rules behind its answer.
const BUSY: i32 = 4100;
/// What is asked for is not in it (IPSET_ERR_EXIST).
const NOT_IN_IT: i32 = 4103;
/// There is no room for another one (IPSET_ERR_HASH_FULL).
pub const FULL: i32 = 4352;
/// How long the kernel may take to forget a rule.
const PATIENCE: Duration = Duration::from_secs(5);

/// Elements of one message: an attribute's length is counted in 16 bits.
const AT_ONCE: usize = 500;
const BUFFER: usize = 64 << 10;

/// The sets.
pub struct IpSets {
    names: [&'static str; 2],
    buffer: Vec<u8>,
}

impl IpSets {
    /// The longest time that an address can be given, some 24.8 days (IPSET_MAX_TIMEOUT).
    pub const LONGEST: Duration = Duration::from_secs(2_147_483);

    /// The sets `names` (IPv4, IPv6), which need not be there yet.
    pub fn new(names: [&'static str; 2]) -> IpSets {
        IpSets { names, buffer: vec![0; BUFFER] }
    }

    /// Whether any of them is there. A kernel that has not loaded ipset yet is not made to by this question.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn any_is_there(&mut self) -> Result<bool> {
        if !Path::new("/sys/module/ip_set").exists() {
            return Ok(false);
        }
        for name in self.all_names() {
            if self.headed(&name).map_err(|error| self.explained(error, "ask for"))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many addresses each has room for; `None` where one of them is missing or not as it is made here.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn room(&mut self) -> Result<Option<usize>> {
        let mut rooms = Vec::new();
        for name in self.names {
            rooms.push(self.headed(name).map_err(|error| self.explained(error, "ask for"))?.flatten());
        }
        Ok(rooms[0].filter(|_| rooms[0] == rooms[1]))
    }

    /// Makes them with room for so many and these addresses in them. Those that are there are exchanged for them at once,
    /// so that whoever is in both is never out, and rules go on to name them.
    ///
    /// # Errors
    /// The kernel has no ipset, one is there that is of another kind, or there are more addresses than room.
    pub fn fill(&mut self, room: usize, elements: &[(IpAddr, Stay)]) -> Result<()> {
        let filled = self.names.into_iter().try_for_each(|name| self.fill_one(name, room, elements));
        filled.map_err(|error| self.explained(error, "make"))
    }

    fn fill_one(&mut self, name: &str, room: usize, elements: &[(IpAddr, Stay)]) -> Result<(), Error> {
        let is_ipv6 = name == self.names[1];
        let new = new(name);
        self.destroy_one(&new)?;
        self.create(&new, is_ipv6, room)?;
        let filled = self.change(ADD, &new, elements.iter().filter(|(address, _)| address.is_ipv6() == is_ipv6));
        let exchanged = filled.and_then(|()| match self.create(name, is_ipv6, room) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => self.ask(SWAP, &new, |out| append_attribute(out, TYPE, |out| out.extend(terminated(name)))),
        });
        self.destroy_one(&new)?;
        exchanged
    }

    /// Puts addresses in, those that are there already with their new time. A time longer than [`IpSets::LONGEST`] is cut
    /// to it.
    ///
    /// # Errors
    /// The sets are not there or full ([`is_full`](super::is_full)), or the kernel refuses. Those before the one that
    /// failed are in.
    pub fn put(&mut self, elements: &[(IpAddr, Stay)]) -> Result<()> {
        self.change_both(ADD, elements).map_err(|error| self.explained(error, "put addresses into"))
    }

    /// Takes addresses out; those that are not there are no error.
    ///
    /// # Errors
    /// The sets are not there, or the kernel refuses.
    pub fn take(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let elements: Vec<(IpAddr, Stay)> = addresses.iter().map(|&address| (address, None)).collect();
        self.change_both(DELETE, &elements).map_err(|error| self.explained(error, "take addresses out of"))
    }

    /// Whether `address` is in them.
    ///
    /// # Errors
    /// The sets are not there, or the kernel refuses.
    pub fn has(&mut self, address: IpAddr) -> Result<bool> {
        let name = self.names[usize::from(address.is_ipv6())];
        match self.ask(TEST, name, |out| append_element(out, (address, None))) {
            Err(error) if error.raw_os_error() == Some(NOT_IN_IT) => Ok(false),
            asked => asked.map(|()| true).map_err(|error| self.explained(error, "ask for an address in")),
        }
    }

    /// All addresses, with how long each is still to stay, in whole seconds.
    ///
    /// # Errors
    /// The sets are not there, or the kernel refuses.
    pub fn list(&mut self) -> Result<HashMap<IpAddr, Stay>> {
        let mut found = HashMap::new();
        for name in self.names {
            self.dump(name, 0, |attributes| read_elements(attributes, &mut found))
                .map_err(|error| self.explained(error, "list"))?;
        }
        Ok(found)
    }

    /// Takes them away; those that are not there are no error.
    ///
    /// # Errors
    /// A rule names one of them, or the kernel refuses.
    pub fn destroy(&mut self) -> Result<()> {
        for name in self.all_names() {
            self.destroy_one(&name).map_err(|error| {
                let is_busy = error.raw_os_error() == Some(BUSY);
                let error = self.explained(error, "take away");
                if is_busy { error.context(format!("a rule of iptables still names the set {name}")) } else { error }
            })?;
        }
        Ok(())
    }

    /// Theirs, and those of what somebody who was killed in the middle left.
    fn all_names(&self) -> Vec<String> {
        self.names.iter().flat_map(|name| [(*name).to_owned(), new(name)]).collect()
    }

    fn destroy_one(&mut self, name: &str) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            match self.ask(DESTROY, name, |_| ()) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) if error.raw_os_error() == Some(BUSY) && start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => return other,
            }
        }
    }

    fn create(&mut self, name: &str, is_ipv6: bool, room: usize) -> Result<(), Error> {
        /// NFPROTO_IPV4 and NFPROTO_IPV6.
        const FAMILIES: [u8; 2] = [2, 10];
        self.ask(CREATE, name, |out| {
            append_attribute(out, TYPE, |out| out.extend(terminated(KIND)));
            append_attribute(out, REVISION, |out| out.push(0));
            append_attribute(out, FAMILY, |out| out.push(FAMILIES[usize::from(is_ipv6)]));
            append_attribute(out, DATA | NLA_F_NESTED, |out| {
                append_number(out, TIMEOUT, 0);
                append_number(out, MOST, u32::try_from(room).unwrap_or(u32::MAX));
            });
        })
    }

    /// Whether the set is there; and, if it is as it is made here, for how many it has room.
    fn headed(&mut self, name: &str) -> Result<Option<Option<usize>>, Error> {
        /// IPSET_FLAG_LIST_HEADER.
        const HEADER_ALONE: u32 = 1 << 2;
        let mut room = None;
        match self.dump(name, HEADER_ALONE, |attributes| room = room.or(read_room(attributes))) {
            Ok(()) => Ok(Some(room)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn change_both(&mut self, command: u16, elements: &[(IpAddr, Stay)]) -> Result<(), Error> {
        for (is_ipv6, name) in [(false, self.names[0]), (true, self.names[1])] {
            self.change(command, name, elements.iter().filter(|(address, _)| address.is_ipv6() == is_ipv6))?;
        }
        Ok(())
    }

    fn change<'a>(
        &mut self,
        command: u16,
        name: &str,
        elements: impl Iterator<Item = &'a (IpAddr, Stay)>,
    ) -> Result<(), Error> {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            self.ask(command, name, |out| {
                append_number(out, LINE, 0);
                append_attribute(out, ELEMENTS | NLA_F_NESTED, |out| {
                    elements.by_ref().take(AT_ONCE).for_each(|element| append_element(out, *element));
                });
            })?;
        }
        Ok(())
    }

    /// Has one thing done to the set `name`, with the attributes that `write` appends. What is so already is no error.
    fn ask(&mut self, command: u16, name: &str, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        let mut question = Vec::new();
        append_question(&mut question, command, NLM_F_REQUEST | NLM_F_ACK, name, write);
        with_socket(|socket| Ok(transact(socket, &question, &mut self.buffer))).map_err(Error::other)?
    }

    /// Gives `read` the attributes of each message about the set `name`.
    fn dump(&mut self, name: &str, flags: u32, mut read: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut question = Vec::new();
        append_question(&mut question, LIST, NLM_F_REQUEST | NLM_F_DUMP, name, |out| append_number(out, FLAGS, flags));
        let buffer = &mut self.buffer[..];
        with_socket(|socket| {
            socket.send(&question, 0)?;
            loop {
                let (length, _) = recv(socket.as_fd(), &mut *buffer, RecvFlags::empty())?;
                for message in messages(&buffer[..length.min(buffer.len())]) {
                    match message.verdict() {
                        Some(verdict) => return Ok(verdict),
                        // Behind the four bytes of struct nfgenmsg.
                        None if message.kind == IPSET << 8 | LIST => read(message.body.get(4..).unwrap_or_default()),
                        None => {}
                    }
                }
            }
        })
        .map_err(Error::other)?
    }

    fn explained(&self, error: Error, what: &str) -> anyhow::Error {
        let [v4, v6] = self.names;
        // Nobody is there who would understand the question.
        let is_unheard_of = error.kind() == ErrorKind::InvalidInput;
        let error = anyhow!(error).context(format!("cannot {what} the ipsets {v4} and {v6}"));
        match is_unheard_of {
            true => error.context("this kernel has no ipset (its modules are ip_set and ip_set_hash_ip)"),
            false => error,
        }
    }
}

/// The name of a set that is to take the place of another one.
fn new(name: &str) -> String {
    format!("{name}.new")
}

fn append_question(out: &mut Vec<u8>, command: u16, flags: u16, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    const VERSION: u16 = 1;
    append_message_of(out, (IPSET << 8 | command, 0), flags, |out| {
        append_attribute(out, VERSION, |out| out.push(PROTOCOL));
        append_attribute(out, NAME, |out| out.extend(terminated(name)));
        write(out);
    });
}

fn append_number(out: &mut Vec<u8>, kind: u16, number: u32) {
    append_attribute(out, kind | NLA_F_NET_BYTEORDER, |out| out.extend(number.to_be_bytes()));
}

fn append_element(out: &mut Vec<u8>, (address, stay): (IpAddr, Stay)) {
    append_attribute(out, DATA | NLA_F_NESTED, |out| {
        append_attribute(out, ADDRESS | NLA_F_NESTED, |out| match address {
            IpAddr::V4(address) => append_attribute(out, 1 | NLA_F_NET_BYTEORDER, |out| out.extend(address.octets())),
            IpAddr::V6(address) => append_attribute(out, 2 | NLA_F_NET_BYTEORDER, |out| out.extend(address.octets())),
        });
        append_number(out, TIMEOUT, seconds(stay));
    });
}

/// As ipset counts: 0 is for ever, and what has begun counts.
fn seconds(stay: Stay) -> u32 {
    let Some(stay) = stay else { return 0 };
    let seconds = stay.min(IpSets::LONGEST).as_millis().div_ceil(1_000).max(1);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn read_elements(attributes: &[u8], found: &mut HashMap<IpAddr, Stay>) {
    for list in of_kind(attributes, ELEMENTS) {
        for element in of_kind(list.value(), DATA) {
            let address = of_kind(element.value(), ADDRESS).next().and_then(|address| {
                let octets = NlasIterator::new(address.value()).flatten().next()?;
                address_of(octets.value())
            });
            let stay = number(element.value(), TIMEOUT).unwrap_or(0);
            if let Some(address) = address {
                found.insert(address, (stay > 0).then(|| Duration::from_secs(u64::from(stay))));
            }
        }
    }
}

/// For how many there is room in a set, if the message has its head and it is as it is made here.
fn read_room(attributes: &[u8]) -> Option<usize> {
    let kind = of_kind(attributes, TYPE).next()?;
    let head = of_kind(attributes, DATA).next()?;
    number(head.value(), TIMEOUT).filter(|_| kind.value() == terminated(KIND))?;
    usize::try_from(number(head.value(), MOST)?).ok()
}

fn of_kind(attributes: &[u8], kind: u16) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(attributes).flatten().filter(move |attribute| attribute.kind() == kind)
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    of_kind(attributes, kind).next().and_then(|found| Some(u32::from_be_bytes(found.value().try_into().ok()?)))
}

fn address_of(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds_up_to_what_the_kernel_takes() {
        let of = |milliseconds| seconds(Some(Duration::from_millis(milliseconds)));
        assert_eq!((seconds(None), of(0), of(1), of(1_000), of(1_001)), (0, 1, 1, 1, 2));
        assert_eq!(seconds(Some(Duration::from_secs(30 * 86_400))), 2_147_483);
    }
}

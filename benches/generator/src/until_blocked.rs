//! From the first SYN of a source to the moment in which the kernel has it in a set or a rule: nftables tells each change
//! to whoever listens, and iptables' rules are nftables' as well (iptables-nft). What is told is polled without a pause,
//! as in latency.rs.

use std::io;
use std::time::{Duration, Instant};

use crate::wire::Wire;
use crate::{Settings, frame, netns, pin, times};

pub fn run(settings: &Settings) -> io::Result<()> {
    pin(settings)?;
    let before = netns::enter(settings.need("host"))?;
    let changes = Changes::listen()?;
    netns::enter_file(&before)?;
    let mut wire = Wire::open(settings)?;
    let ports = settings.ports("ports");
    let limit = Duration::from_millis(settings.number("limit_ms", 2000));
    let pause = settings.number("pause_ms", 20) * 1_000;
    let count = settings.number("count", 300);
    let mut found = Vec::new();
    let mut room = vec![0; 64 << 10];
    for number in 0..count {
        let from = settings.address("from").wrapping_add(number as u32);
        frame::address(&mut wire.frames[0], from, 30_000, ports[(number % ports.len() as u64) as usize]);
        while changes.next(&mut room)?.is_some() {}
        let begin = Instant::now();
        wire.send(1)?;
        while begin.elapsed() < limit {
            if changes.next(&mut room)?.is_some_and(|told| names(told, &from.to_be_bytes())) {
                found.push(begin.elapsed());
                break;
            }
        }
        std::thread::sleep(Duration::from_micros(pause + (number * 617) % 2_000)); // the kernel's tick must not line up
    }
    times::print(count, found);
    Ok(())
}

/// What nftables tells of its changes.
struct Changes(i32);

impl Changes {
    /// linux/netfilter/nfnetlink.h
    const NFNLGRP_NFTABLES: i32 = 7;

    /// Those of this thread's network namespace.
    fn listen() -> io::Result<Self> {
        // SAFETY: plain calls; the addresses that are passed are of the sizes that are passed.
        unsafe {
            let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER);
            let mut address: libc::sockaddr_nl = std::mem::zeroed();
            address.nl_family = libc::AF_NETLINK as u16;
            let group = Self::NFNLGRP_NFTABLES;
            let size = size_of_val(&group) as u32;
            if socket < 0
                || libc::bind(socket, (&raw const address).cast(), size_of_val(&address) as u32) != 0
                || libc::setsockopt(
                    socket,
                    libc::SOL_NETLINK,
                    libc::NETLINK_ADD_MEMBERSHIP,
                    (&raw const group).cast(),
                    size,
                ) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(socket))
        }
    }

    /// A datagram, if there is one.
    fn next<'a>(&self, room: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        // SAFETY: the kernel writes into `room`, as much as it holds.
        let length = unsafe { libc::recv(self.0, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(length) {
            Ok(length) => Ok(Some(&room[..length])),
            Err(_) => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(None), // too many came at once
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error => Err(error),
            },
        }
    }
}

/// Whether an element or a rule that is told of as new has this address in it.
fn names(told: &[u8], address: &[u8]) -> bool {
    /// nfnetlink's number of nftables, and NFT_MSG_NEWRULE and NFT_MSG_NEWSETELEM (linux/netfilter/nf_tables.h).
    const NEW: [u16; 2] = [10 << 8 | 6, 10 << 8 | 12];
    let mut rest = told;
    while let Some(header) = rest.first_chunk::<16>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(body) = rest.get(16..length) else { return false };
        if NEW.contains(&u16::from_ne_bytes([header[4], header[5]])) && body.windows(4).any(|four| four == address) {
            return true;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

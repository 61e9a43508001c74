//! What is remembered of each source: a table of a fixed size, out of which no flood of forged sources pushes whom it
//! wants to hide.
//!
//! Forging a source costs one packet, so a table that only forgets the one seen longest ago is emptied by as many packets
//! as it has places. Here a source has a place in one bucket only, which its prefix chooses, and within the bucket those
//! that came back have places of their own. So a flood from one prefix meets the sources of one bucket, whatever its
//! length, and no number of sources that ask once takes the place of one that asked twice.
//!
//! What remains: a forged source that asks twice has come back as well. Pushing out by these takes two packets for each of
//! [`CAME_BACK`] places in every bucket, for nobody can tell which one it is that matters, and whoever is pushed out is a
//! stranger again with his next packet, no more.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use hashlink::linked_hash_map::{LinkedHashMap, RawEntryMut};

/// Sources that are remembered at most.
pub const SOURCES: usize = 65_536;
pub const BUCKETS: usize = SOURCES / BUCKET;
/// Sources in a bucket at most: all hosts of a /24.
pub const BUCKET: usize = 256;
/// Those of them that came back, at most; the rest is kept for whoever comes for the first time, who has to be remembered
/// until he comes again.
const CAME_BACK: usize = 192;

/// The source seen longest ago is the first.
type Part<S> = LinkedHashMap<IpAddr, S, RandomState>;

/// All sources, and what is remembered of each.
pub struct Sources<S> {
    /// With a key of this process: nobody outside knows which prefixes share a bucket.
    hasher: RandomState,
    buckets: Vec<Bucket<S>>,
}

struct Bucket<S> {
    once: Part<S>,
    again: Part<S>,
}

impl<S: Default> Sources<S> {
    /// Nobody is known; a place takes memory when it is first taken, and keeps it.
    pub fn new() -> Sources<S> {
        let hasher = RandomState::new();
        let part = || Part::with_hasher(hasher.clone());
        let buckets = (0..BUCKETS).map(|_| Bucket { once: part(), again: part() }).collect();
        Sources { hasher, buckets }
    }

    /// What is remembered of `address`, which is just now seen; where it is new, another one may be forgotten for it.
    pub fn seen(&mut self, address: IpAddr) -> &mut S {
        let hash = self.hasher.hash_one(address);
        let Bucket { once, again } = self.bucket(address);
        let came_back = match once.raw_entry_mut().from_key_hashed_nocheck(hash, &address) {
            RawEntryMut::Occupied(known) => Some(known.remove()),
            RawEntryMut::Vacant(_) => None,
        };
        if came_back.is_some() && again.len() >= CAME_BACK {
            again.pop_front();
        }
        let others = again.len();
        match (again.raw_entry_mut().from_key_hashed_nocheck(hash, &address), came_back) {
            (RawEntryMut::Occupied(mut known), _) => {
                known.to_back();
                known.into_mut()
            }
            (RawEntryMut::Vacant(place), Some(source)) => place.insert_hashed_nocheck(hash, address, source).1,
            (RawEntryMut::Vacant(_), None) => {
                if once.len() + others >= BUCKET {
                    once.pop_front();
                }
                once.raw_entry_mut().from_key_hashed_nocheck(hash, &address).or_insert(address, S::default()).1
            }
        }
    }

    /// What is remembered of `address`, if it is; this is not seeing it.
    pub fn get_mut(&mut self, address: IpAddr) -> Option<&mut S> {
        let Bucket { once, again } = self.bucket(address);
        again.get_mut(&address).or_else(|| once.get_mut(&address))
    }

    /// What is remembered of everybody, in no order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.buckets.iter_mut().flat_map(|Bucket { once, again }| once.values_mut().chain(again.values_mut()))
    }

    fn bucket(&mut self, address: IpAddr) -> &mut Bucket<S> {
        let number = self.number(address);
        &mut self.buckets[number]
    }

    fn number(&self, address: IpAddr) -> usize {
        (self.hasher.hash_one(prefix(address)) % BUCKETS as u64) as usize
    }
}

/// The network whose sources share a bucket, as large as what one party commonly holds: it can forge, or really have, all
/// addresses of it.
///
/// IPv4: /24, the longest prefix that is routed between providers.
///
/// IPv6: /48. A link has a /64, but who is connected is given more: an end site a /56 or a /48 (RIPE-690), a tunnel a /48
/// for the asking, and a /48 is the longest prefix that is routed between providers. With buckets by /64 or /56 the holder
/// of one /48 would have 65,536 or 256 prefixes, enough for all buckets. What it costs: where a /48 is shared out in
/// /64s, as some do who rent out machines, all of it shares the places of one bucket.
fn prefix(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits() >> 8),
        // Beside those of IPv4, which have 24 bits.
        IpAddr::V6(address) => (address.to_bits() >> 80) as u64 | 1 << 48,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const MILLION: u32 = 1_000_000;

    fn v4(bits: u32) -> IpAddr {
        Ipv4Addr::from_bits(bits).into()
    }

    fn v6(prefix: &str, bits: u128) -> IpAddr {
        Ipv6Addr::from_bits(prefix.parse::<Ipv6Addr>().expect("an address").to_bits() | bits).into()
    }

    /// Different numbers for different ones, from all over 32 bits: an odd factor (Knuth's, near 2^32 over the golden
    /// ratio) has an inverse.
    fn scattered(number: u32) -> u32 {
        number.wrapping_mul(2_654_435_761)
    }

    /// Counts how often each was seen.
    fn count(sources: &mut Sources<u32>, seen: impl IntoIterator<Item = IpAddr>) {
        seen.into_iter().for_each(|address| *sources.seen(address) += 1);
    }

    fn remembered(sources: &Sources<u32>) -> usize {
        let within = |bucket: &Bucket<u32>| {
            assert!(bucket.again.len() <= CAME_BACK && bucket.once.len() + bucket.again.len() <= BUCKET);
            bucket.once.len() + bucket.again.len()
        };
        sources.buckets.iter().map(within).sum()
    }

    /// A scanner asks twice, `flood` comes, each of it once, and he asks a third time.
    fn outlasts(scanner: &str, flood: impl Iterator<Item = IpAddr>) {
        let scanner = scanner.parse().expect("an address");
        let mut sources = Sources::new();
        count(&mut sources, [scanner, scanner]);
        count(&mut sources, flood.filter(|&address| address != scanner));
        assert!(remembered(&sources) <= SOURCES);
        assert_eq!(*sources.seen(scanner), 2, "{scanner}");
    }

    #[test]
    fn a_scanner_that_asked_twice_outlasts_a_million_forged_sources() {
        for scanner in ["203.0.113.9", "2001:db8::9"] {
            outlasts(scanner, (0..MILLION).map(|number| v4(scattered(number))));
        }
    }

    #[test]
    fn a_scanner_that_asked_twice_outlasts_his_neighbours() {
        let around = |mask: u32| (0..=!mask).map(move |host| v4(0xcb00_7109 & mask | host));
        outlasts("203.0.113.9", around(0xffff_0000));
        outlasts("203.0.113.9", around(0xffff_ff00));
        let addresses = || (0..MILLION).map(|number| u128::from(scattered(number)));
        outlasts("2001:db8::9", addresses().map(|host| v6("2001:db8::", host)));
        outlasts("2001:db8::9", addresses().map(|host| v6("2001:db8::", host << 48 | host)));
    }

    /// Sources that insist push out, but as far as the bucket of their prefix only.
    #[test]
    fn one_prefix_has_one_bucket() {
        let all_of_24 = |_| (0..256).map(|host| v4(0xcb00_7100 | host)).collect::<Vec<_>>();
        let of_64 = |at: u32| (0..1_000).map(|host| v6("2001:db8::", (at * 1_000 + host).into())).collect();
        let of_48 = |at: u32| (0..600).map(|host| v6("2001:db8::", u128::from(at * 600 + host) << 64)).collect();
        let floods: [&dyn Fn(u32) -> Vec<IpAddr>; 3] = [&all_of_24, &of_64, &of_48];
        for flood in floods {
            let mut sources = Sources::new();
            for round in 0..100 {
                let part = flood(round);
                count(&mut sources, part.iter().chain(&part).copied());
            }
            assert_eq!(sources.buckets.iter().filter(|bucket| bucket.once.len() + bucket.again.len() > 0).count(), 1);
            assert!(remembered(&sources) <= BUCKET);
        }
    }

    #[test]
    fn those_who_came_back_leave_room_for_newcomers() {
        let mut sources = Sources::new();
        let of_24 = |host: u32| v4(0xcb00_7100 | host);
        for host in 0..256 {
            count(&mut sources, [of_24(host); 2]);
        }
        let others = (0..).map(scattered).map(v4).filter(|&address| prefix(address) != prefix(of_24(0)));
        let same = others.filter(|&address| sources.number(address) == sources.number(of_24(0)));
        let newcomers: Vec<IpAddr> = same.take(BUCKET - CAME_BACK).collect();
        count(&mut sources, newcomers.iter().copied());
        assert_eq!(remembered(&sources), BUCKET);
        assert!(newcomers.iter().all(|&address| sources.get_mut(address) == Some(&mut 1)));
        let longest_ago = (0..256).filter(|&host| sources.get_mut(of_24(host)).is_none()).collect::<Vec<_>>();
        assert_eq!(longest_ago, (0..(BUCKET - CAME_BACK) as u32).collect::<Vec<_>>());
    }

    #[test]
    fn memory_is_bounded_and_all_of_it_is_used() {
        let mut sources = Sources::new();
        for round in 0..4 {
            let numbers = round * MILLION / 16..(round + 1) * MILLION / 16;
            let twice = numbers.flat_map(|number| [v4(scattered(number)); 2]);
            count(&mut sources, twice.chain((0..MILLION / 16).map(|number| v4(!scattered(number)))));
            assert!(remembered(&sources) <= SOURCES);
        }
        assert_eq!(remembered(&sources), SOURCES);
        assert_eq!(sources.values_mut().count(), SOURCES);
    }
}

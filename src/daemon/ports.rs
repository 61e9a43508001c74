//! Sets of ports, as portsentry.conf writes them and as nftables does.

use std::fmt;

/// Ports, as ranges that neither touch nor overlap, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// `1,7,9-20`, with blanks where people put them.
    ///
    /// # Errors
    /// The part that is no port and no range.
    pub fn parse(text: &str) -> Result<Ports, String> {
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
                (Ok(first), Ok(last)) if first <= last && last > 0 => ranges.push((first.max(1), last)),
                _ => return Err(format!("{part:?} is no port and no range of ports; write 1 to 65535, or 1-1023")),
            }
        }
        Ok(Ports::of(ranges))
    }

    /// From 1 up to, and without, `limit`: 1.2's ADVANCED_PORTS_*.
    pub fn below(limit: u16) -> Ports {
        if limit < 2 { Ports::default() } else { Ports(vec![(1, limit - 1)]) }
    }

    fn of(mut ranges: Vec<(u16, u16)>) -> Ports {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Ports(merged)
    }

    /// These without `others`.
    pub fn without(&self, others: &Ports) -> Ports {
        let mut left = Vec::new();
        for &(first, last) in &self.0 {
            let mut from = u32::from(first);
            for &(gap, end) in others.0.iter().filter(|other| other.1 >= first && other.0 <= last) {
                if u32::from(gap) > from {
                    left.push((from as u16, gap - 1));
                }
                from = u32::from(end) + 1;
            }
            if from <= u32::from(last) {
                left.push((from as u16, last));
            }
        }
        Ports(left)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every port, one by one.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|&(first, last)| first..=last)
    }
}

/// As nftables writes elements: `1-66, 69`.
impl fmt::Display for Ports {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            match first == last {
                true => write!(out, "{comma}{first}")?,
                false => write!(out, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_and_ranges() {
        assert_eq!(Ports::parse("9, 1,2-5,4-7 ,65535").unwrap().to_string(), "1-7, 9, 65535");
        assert_eq!(
            Ports::below(1024).without(&Ports::parse("113,139,1,1023").unwrap()).to_string(),
            "2-112, 114-138, 140-1022"
        );
        for wrong in ["x", "70000", "5-2", "0", "-", "1-2-3"] {
            assert!(Ports::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_one_has_and_the_other_has_not(
            some in proptest::collection::vec((1u16..300, 0u16..20), 0..12),
            others in proptest::collection::vec((1u16..300, 0u16..20), 0..12),
        ) {
            let ports = |list: &[(u16, u16)]| Ports::of(list.iter().map(|&(first, more)| (first, first + more)).collect());
            let (some, others) = (ports(&some), ports(&others));
            let wanted: Vec<u16> = some.iter().filter(|port| !others.iter().any(|other| other == *port)).collect();
            prop_assert_eq!(some.without(&others).iter().collect::<Vec<_>>(), wanted);
        }
    }
}

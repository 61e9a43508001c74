//! The list of hosts that portsentry never blocks: portsentry.ignore.static (1.2, read by Debian's
//! portsentry-build-ignore-file) and portsentry.ignore (the daemons' own).

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::lines::{Line, is_blank, join, shown, split, trim};
use super::{Dialect, ValueError, marker};

/// The list, every byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressList {
    lines: Vec<Line>,
}

/// A line that looks like an address and is without effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotHonoured {
    /// Counted from 1.
    pub line: usize,
    pub text: String,
    pub why: String,
    /// What to write instead.
    pub remedy: String,
}

impl AddressList {
    /// Any bytes are a list.
    pub fn parse(bytes: &[u8]) -> AddressList {
        AddressList { lines: split(bytes) }
    }

    /// The bytes that it came from, with what was edited since.
    pub fn to_bytes(&self) -> Vec<u8> {
        join(&self.lines)
    }

    /// Our own entries, each with what it is about.
    pub fn marked(&self) -> Vec<(IpNet, String)> {
        let mut about = String::new();
        let mut found = Vec::new();
        for line in marker::body(&self.lines) {
            let text = String::from_utf8_lossy(&line.text);
            match text.strip_prefix("# ") {
                Some(comment) => about = comment.to_owned(),
                None => found.extend(text.parse::<IpNet>().ok().map(|network| (network, std::mem::take(&mut about)))),
            }
        }
        found
    }

    /// Makes `entries` our own entries, in place; foreign lines stay as they are. A network is written with its
    /// prefix, the one form that the builder, 1.2 and 2.0 all honour; what it is about goes on a line of its own,
    /// for a comment behind an address is not safe with each of them.
    ///
    /// # Errors
    /// A comment that would not stay one line.
    pub fn set_marked(&mut self, entries: &[(IpNet, String)]) -> Result<(), ValueError> {
        let mut body = Vec::new();
        for (network, about) in entries {
            if about.contains(char::is_control) {
                return Err(ValueError::new(
                    &network.to_string(),
                    "its comment holds a line break or another control character",
                ));
            }
            if !about.is_empty() {
                body.push(format!("# {about}").into_bytes());
            }
            body.push(network.to_string().into_bytes());
        }
        marker::replace(&mut self.lines, &body, <[Line]>::len);
        Ok(())
    }

    /// The networks that the reader really honours. 1.2: IPv4 addresses and prefixes at the very beginning of a
    /// line, a comment behind them allowed, host bits masked (traps 3, 17). 2.0: IPv4 and IPv6.
    pub fn honoured(&self, dialect: Dialect) -> Vec<IpNet> {
        self.lines.iter().filter_map(|line| entry(&line.text, dialect).ok().flatten()).collect()
    }

    /// The lines that somebody meant as an address and that are without effect.
    pub fn not_honoured(&self, dialect: Dialect) -> Vec<NotHonoured> {
        self.lines
            .iter()
            .enumerate()
            .filter_map(|(index, line)| {
                let (why, remedy) = entry(&line.text, dialect).err()?;
                Some(NotHonoured { line: index + 1, text: shown(&line.text), why, remedy })
            })
            .collect()
    }
}

/// The network of a line, `None` for a line that is no address and was not meant as one.
fn entry(text: &[u8], dialect: Dialect) -> Result<Option<IpNet>, (String, String)> {
    let content = trim(text.split(|&byte| byte == b'#').next().unwrap_or_default());
    let Ok(content) = std::str::from_utf8(content) else { return Ok(None) };
    let looks =
        content.starts_with(|letter: char| letter.is_ascii_hexdigit() || letter == ':') && content.contains(['.', ':']);
    if !looks {
        return Ok(None);
    }
    let network = match parse(content) {
        Some(network) => network,
        None => {
            let remedy = match dotted(content) {
                Some(network) => format!("write {network}"),
                None => "write an address, or a network such as 192.168.1.0/24".to_owned(),
            };
            return Err(("it is neither an address nor a network with a prefix length".to_owned(), remedy));
        }
    };
    if dialect == Dialect::V1 {
        if network.addr().is_ipv6() {
            return Err(("portsentry 1.2 knows no IPv6".to_owned(), "remove it".to_owned()));
        }
        if text.first().is_some_and(|&byte| is_blank(byte)) {
            return Err((
                "portsentry 1.2 passes over an address with a blank before it".to_owned(),
                format!("write {network} at the beginning of the line"),
            ));
        }
    }
    Ok(Some(network))
}

fn parse(content: &str) -> Option<IpNet> {
    match content.parse::<std::net::IpAddr>() {
        Ok(address) => Some(address.into()),
        Err(_) => content.parse::<IpNet>().ok().map(|network| network.trunc()),
    }
}

/// `10.0.0.5/255.255.255.0`, which no reader honours.
fn dotted(content: &str) -> Option<IpNet> {
    let (address, mask) = content.split_once('/')?;
    let network = Ipv4Net::with_netmask(address.parse::<Ipv4Addr>().ok()?, mask.parse().ok()?).ok()?;
    Some(network.trunc().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_each_reader_honours() {
        let text = "127.0.0.1/32\n0.0.0.0\n10.0.0.5/255.255.255.0\nfd00::/64\n  10.1.0.0/16 # c\n203.0.113.10/32\t# c\n203.0.113.11#x\n192.168.1.5/24\n# 1.2.3.4\n";
        let list = AddressList::parse(text.as_bytes());
        let shown = |dialect| list.honoured(dialect).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            shown(Dialect::V1),
            ["127.0.0.1/32", "0.0.0.0/32", "203.0.113.10/32", "203.0.113.11/32", "192.168.1.0/24"]
        );
        assert!(shown(Dialect::V2).contains(&"fd00::/64".to_owned()));
        let lost: Vec<_> = list.not_honoured(Dialect::V1).into_iter().map(|one| (one.line, one.remedy)).collect();
        assert_eq!(lost[0], (3, "write 10.0.0.0/24".to_owned()));
        assert_eq!(lost.iter().map(|one| one.0).collect::<Vec<_>>(), [3, 4, 5]);
    }

    #[test]
    fn our_entries_are_put_in_once_updated_and_taken_out_again() {
        let original = b"127.0.0.1/32\n0.0.0.0";
        let lan = |text: &str| vec![(text.parse().unwrap(), "LAN".to_owned())];
        let mut list = AddressList::parse(original);
        list.set_marked(&lan("192.168.1.0/24")).unwrap();
        let first = list.to_bytes();
        list.set_marked(&lan("192.168.1.0/24")).unwrap();
        assert_eq!(list.to_bytes(), first);
        list.set_marked(&lan("10.0.0.0/24")).unwrap();
        assert_eq!(AddressList::parse(&list.to_bytes()).marked(), lan("10.0.0.0/24"));
        list.set_marked(&[]).unwrap();
        assert_eq!(list.to_bytes(), original);
    }

    #[test]
    fn a_comment_cannot_smuggle_in_an_address() {
        let mut list = AddressList::parse(b"");
        assert!(list.set_marked(&[("10.0.0.0/8".parse().unwrap(), "x\n0.0.0.0/1".to_owned())]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_print_as_they_were(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let list = AddressList::parse(&bytes);
            prop_assert_eq!(list.to_bytes(), bytes);
            list.honoured(Dialect::V1);
            list.not_honoured(Dialect::V2);
        }
    }
}

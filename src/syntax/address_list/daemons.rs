//! What the builder and the two daemons make of a line of an ignore list; see the table of the parent module.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::super::Dialect;
use super::super::c_text::{self, leading_number};
use super::super::lines::{DAEMON_LINE, trim};
use super::AddressList;

/// What one line is to a daemon.
#[derive(Default)]
pub(super) struct Reading {
    pub network: Option<IpNet>,
    pub complaint: Option<Complaint>,
}

pub(super) struct Complaint {
    pub why: String,
    pub remedy: String,
    pub fatal: bool,
}

impl Reading {
    fn nothing(why: &str, text: &[u8], fatal: bool) -> Reading {
        let remedy = remedy(text);
        Reading { network: None, complaint: Some(Complaint { why: why.to_owned(), remedy, fatal }) }
    }
}

impl AddressList {
    /// What the daemon reads, with the index of the line that it came from.
    pub(super) fn readings(&self, dialect: Dialect) -> Vec<(usize, Reading)> {
        let mut readings = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            let bytes = [&line.text[..], line.end.bytes()].concat();
            if dialect == Dialect::V1 && !is_copied(&line.text) {
                readings.push((index, dropped(&line.text)));
                continue;
            }
            for (number, piece) in bytes.chunks(DAEMON_LINE).enumerate() {
                let mut reading = match dialect {
                    Dialect::V1 => read_v1(piece),
                    Dialect::V2 => read_v2(piece),
                };
                // What is left of a long line is nobody's intention.
                if number > 0 && (reading.network.is_some() || reading.complaint.is_some()) {
                    let fatal = reading.complaint.is_some_and(|complaint| complaint.fatal);
                    let why =
                        format!("it is longer than {DAEMON_LINE} bytes, and the rest is read as a line of its own");
                    reading.complaint = Some(Complaint { why, remedy: "shorten it".to_owned(), fatal });
                }
                readings.push((index, reading));
            }
        }
        readings
    }
}

/// Whether the builder copies a line: `^\s*IPV4(/NN)?\s*(#|$)`, in its own words.
fn is_copied(text: &[u8]) -> bool {
    let space = |b: &u8| b" \t\r\x0b\x0c".contains(b);
    let rest = &text[text.iter().take_while(|b| space(b)).count()..];
    let address = rest.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    let mut parts = rest[..address].split(|&b| b == b'.');
    let fits = |part: &[u8]| (1..=3).contains(&part.len());
    let mut rest = &rest[address..];
    if let [b'/', prefix @ ..] = rest {
        let digits = prefix.iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=2).contains(&digits) {
            return false;
        }
        rest = &prefix[digits..];
    }
    let after = rest.iter().find(|b| !space(b));
    parts.clone().count() == 4 && parts.all(fits) && after.is_none_or(|&b| b == b'#')
}

/// A line that the builder leaves out, which it does without a word (trap 3).
fn dropped(text: &[u8]) -> Reading {
    let content = content(text);
    if content.is_empty() {
        return Reading::default();
    }
    let mut reading = Reading::nothing(
        "it is neither an IPv4 address nor such a network with a prefix length, and is left out",
        text,
        false,
    );
    if let Some(complaint) = reading.complaint.as_mut().filter(|_| content.contains(&b':')) {
        complaint.why = "portsentry 1.2 knows no IPv6 and does not see its packets".to_owned();
        complaint.remedy = "remove the line, or begin it with #".to_owned();
    }
    reading
}

/// A line of the built list, as 1.2 reads it.
fn read_v1(piece: &[u8]) -> Reading {
    let digits = piece.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    if digits == 0 {
        // The builder copied it, so there is an address behind the blanks (trap 17).
        return match content(piece).is_empty() || piece.starts_with(b"#") {
            true => Reading::default(),
            false => Reading::nothing("portsentry 1.2 passes over an address with a blank before it", piece, false),
        };
    }
    let (address, rest) = piece.split_at(digits);
    let Some(address) = c_text::address(address, 4) else {
        return Reading::nothing("it is no IPv4 address", piece, false);
    };
    let prefix = rest.strip_prefix(b"/").map_or(32, |rest| leading_number(rest).unwrap_or(0));
    if prefix > 32 {
        return Reading::nothing("its prefix length is more than 32; a warning at each packet says so", piece, false);
    }
    network(piece, IpAddr::V4(address), prefix, true)
}

/// A line as 2.0.7 reads it: it knows no blanks, no comments behind an address, and no last line without a newline.
fn read_v2(piece: &[u8]) -> Reading {
    let (text, ended) = match piece.strip_suffix(b"\n") {
        Some(text) => (text, true),
        None => (&piece[..piece.len().saturating_sub(1)], false),
    };
    if piece.starts_with(b"#") || (text.is_empty() && ended) {
        return Reading::default();
    }
    let refused =
        |why: &str| Reading::nothing(&format!("{why}, and portsentry 2.0 does not start with it"), piece, true);
    if let Some(&wrong) = text.iter().find(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'.' | b':' | b'/')) {
        return refused(match wrong {
            b' ' | b'\t' => "it has a blank in it, or a comment behind the address",
            b'\r' => "it ends in a carriage return",
            b'A'..=b'F' if text.contains(&b':') => "it has capital letters",
            _ => "it is neither an address nor a network",
        });
    }
    let (address, prefix) = match text.iter().position(|&b| b == b'/') {
        Some(slash) => (&text[..slash], Some(&text[slash + 1..])),
        None => (text, None),
    };
    let written = std::str::from_utf8(address).unwrap_or_default();
    let v6 = written.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let Some(address) = v6.or_else(|| c_text::address(address, 1).map(IpAddr::V4)) else {
        return refused("it is neither an address nor a network");
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => longest,
        Some(text) if text.is_empty() || !text.iter().all(u8::is_ascii_digit) => {
            return refused("what stands behind its / is no number of bits");
        }
        Some(text) => match leading_number(text) {
            Some(prefix) if prefix <= longest => prefix,
            _ => return refused("its prefix length is too long"),
        },
    };
    let mut reading = network(piece, address, prefix, false);
    if !ended {
        let read = String::from_utf8_lossy(text);
        let why = format!("it has no newline at its end, and portsentry 2.0 reads {read} instead");
        reading.complaint = Some(Complaint { why, remedy: "end the line with a newline".to_owned(), fatal: false });
    }
    reading
}

/// The network that a daemon takes an address and a prefix length for, which may not be what was meant.
fn network(piece: &[u8], address: IpAddr, prefix: u32, masks: bool) -> Reading {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let taken = if prefix == 0 && address.is_ipv4() { longest } else { prefix };
    let Some(network) = u8::try_from(taken).ok().and_then(|taken| IpNet::new(address, taken).ok()) else {
        return Reading::nothing("its prefix length is too long", piece, false);
    };
    if !masks && network.trunc() != network {
        // 2.0 masks the packet's address and compares it with the list's as it stands.
        return Reading::nothing(
            "it has bits behind its prefix, with which portsentry 2.0 matches nobody",
            piece,
            false,
        );
    }
    let written = content(piece).split(|&b| b == b'/').next().unwrap_or_default();
    let octal = address.is_ipv4() && std::str::from_utf8(written).is_ok_and(|text| text != address.to_string());
    let why = if prefix != taken {
        Some("a prefix length of 0 is taken for one address".to_owned())
    } else if octal {
        Some(format!("it is read as {address}: a number that begins with 0 is octal, and a missing one is filled in"))
    } else {
        None
    };
    let remedy = "write the network with its prefix length, without zeros in front".to_owned();
    let complaint = why.map(|why| Complaint { why, remedy, fatal: false });
    Reading { network: Some(network.trunc()), complaint }
}

/// `text` without its comment and the blanks around the rest.
fn content(text: &[u8]) -> &[u8] {
    let before = text.split(|&b| b == b'#').next().unwrap_or_default();
    let end = before.len() - before.iter().rev().take_while(|b| b.is_ascii_whitespace()).count();
    trim(&before[..end])
}

/// What to write instead of `text`, as far as it can be told what was meant.
fn remedy(text: &[u8]) -> String {
    let content = String::from_utf8_lossy(content(text)).to_lowercase();
    let bare = content.trim_start_matches('\u{feff}').replace(['[', ']'], "");
    // Of several words nobody knows which was meant.
    let first = if bare.split_whitespace().count() > 1 { "?" } else { bare.trim() };
    let meant = match first.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => first.parse::<IpNet>().ok().map(|network| network.trunc()).or_else(|| dotted(first)),
    };
    match meant {
        Some(network) => format!("write {network} alone on its line"),
        None if first.is_empty() => "empty the line, or begin it with #".to_owned(),
        None => "write an address, or a network such as 192.168.1.0/24; for a remark begin the line with #".to_owned(),
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
    use super::is_copied;

    /// Line by line through the builder of 1.2-14+b1.
    #[test]
    fn the_builder_copies_what_it_copied() {
        let copied = [
            "10.0.0.5",
            "10.0.0.5/24",
            "10.0.0.0/08",
            " 10.1.0.5",
            "\t10.1.0.6",
            "10.0.0.7 ",
            "10.0.0.8\t# c",
            "10.0.0.0/8#c",
            "10.0.0.10\r",
            "\r10.0.0.11",
            "\x0b10.0.0.12",
            "10.0.0.13\x0c",
            "10.0.0.256",
        ];
        let dropped = [
            "10.0.0.0/0032",
            "10.0.0.0/",
            "10.0.0.0/a",
            "10.0.0.0/8/9",
            "10.0.0.0 /8",
            "10.0.0.9 c",
            "10.0.0.14\u{85}",
            "1000.0.0.1",
            "10..0.1",
            "10.0.0.1.",
            "10.0.0.1.5",
            "\u{feff}10.0.0.16",
            "10.0.0.17\0",
            "fd00::/64",
            "abc 10.0.0.18",
            "#10.0.0.19",
            "10.0.0.0/100",
            "10.0.0.20/1 2",
            "",
        ];
        assert!(copied.iter().all(|line| is_copied(line.as_bytes())));
        assert!(!dropped.iter().any(|line| is_copied(line.as_bytes())));
    }
}

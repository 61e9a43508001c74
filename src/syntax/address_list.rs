//! The list of hosts that portsentry never blocks: portsentry.ignore.static (1.2: Debian's
//! portsentry-build-ignore-file copies it into portsentry.ignore, which the daemon reads) and portsentry.ignore of 2.0.
//!
//! One address or network a line, `#` for comments. What the readers make of it was measured on 2026-11-24 with real
//! packets (1.2-14+b1 with its builder; 2.0.7-1, which also says what it understood with `-v`):
//!
//! | line | 1.2, through the builder | 2.0.7 |
//! |---|---|---|
//! | `10.0.0.5`, `10.0.0.0/24` | honoured | honoured |
//! | `10.0.0.5/24`, host bits | honoured as 10.0.0.0/24 | **matches nobody** |
//! | `10.0.0.0/0` | that one address | that one address |
//! | `::/0`, `fd00::/64` | dropped | honoured |
//! | `10.0.0.0/33` | nothing, and a warning a packet | does not start |
//! | `10.0.0.0/255.0.0.0`, a name, garbage | dropped | does not start |
//! | a blank before the address | copied, without effect | does not start |
//! | a blank, a comment or a carriage return behind it | honoured | does not start |
//! | a line of blanks, ` # c` | nothing | does not start |
//! | `FD00::1`, `[fd00::1]` | dropped | does not start |
//! | `010.0.0.1` | 8.0.0.1 | 8.0.0.1 |
//! | no newline at the end | honoured | **loses its last character**: 10.0.0.55 is read as 10.0.0.5, /24 as /2 |
//! | more than 1022 bytes, comments too | the rest is a line of its own | same |
//!
//! `#` at the very beginning of a line is a comment to all of them, so that is where our marks stand.

mod daemons;

use ipnet::IpNet;

use self::daemons::Complaint;
use super::lines::{DAEMON_LINE, Line, join, shown, split};
use super::{Dialect, ValueError, marker};

/// The list, every byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressList {
    lines: Vec<Line>,
}

/// A line that is without the effect that it looks as if it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotHonoured {
    /// Counted from 1.
    pub line: usize,
    pub text: String,
    pub why: String,
    /// What to write instead.
    pub remedy: String,
    /// The daemon does not start with it.
    pub fatal: bool,
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
    /// prefix and without host bits, the one form that the builder, 1.2 and 2.0 all honour; what it is about goes on a
    /// line of its own, for 2.0 does not start with a comment behind an address.
    ///
    /// # Errors
    /// A comment that would not stay one line to the daemons; a prefix length of 0, which they take for one address.
    pub fn set_marked(&mut self, entries: &[(IpNet, String)]) -> Result<(), ValueError> {
        let mut body = Vec::new();
        for (network, about) in entries {
            let refuse = |message: &str| Err(ValueError::new(&network.to_string(), message));
            if about.contains(char::is_control) || about.len() > DAEMON_LINE / 2 {
                return refuse("its comment is too long, or holds a line break or another control character");
            }
            if network.prefix_len() == 0 {
                return refuse(
                    "portsentry takes a network with prefix length 0 for one address. Write a longer prefix",
                );
            }
            if !about.is_empty() {
                body.push(format!("# {about}").into_bytes());
            }
            body.push(network.trunc().to_string().into_bytes());
        }
        marker::replace(&mut self.lines, &body, <[Line]>::len);
        Ok(())
    }

    /// The networks that the daemon really honours. None at all if it does not start with this list.
    pub fn honoured(&self, dialect: Dialect) -> Vec<IpNet> {
        let readings = self.readings(dialect);
        if readings.iter().any(|(_, reading)| reading.complaint.as_ref().is_some_and(|c| c.fatal)) {
            return Vec::new();
        }
        readings.into_iter().filter_map(|(_, reading)| reading.network).collect()
    }

    /// The lines that somebody meant as an address and that have no effect or another one, in their order; with 2.0
    /// also every other line that keeps it from starting.
    pub fn not_honoured(&self, dialect: Dialect) -> Vec<NotHonoured> {
        let readings = self.readings(dialect);
        readings
            .into_iter()
            .filter_map(|(index, reading)| {
                let Complaint { why, remedy, fatal } = reading.complaint?;
                Some(NotHonoured { line: index + 1, text: shown(&self.lines[index].text), why, remedy, fatal })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Dialect::{V1, V2};
    use super::*;

    fn honoured(text: &str, dialect: Dialect) -> String {
        let networks = AddressList::parse(text.as_bytes()).honoured(dialect);
        networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// The daemons' own answers; `!`: it does not start.
    const MEASURED: &[(&str, &str, &str)] = &[
        ("10.0.0.5\n", "10.0.0.5/32", "10.0.0.5/32"),
        ("10.0.0.0/8\n", "10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.5/24\n", "10.0.0.0/24", ""),
        ("10.0.0.0/0\n", "10.0.0.0/32", "10.0.0.0/32"),
        ("0.0.0.0\n", "0.0.0.0/32", "0.0.0.0/32"),
        ("10.0.0.0/33\n", "", "!"),
        ("10.0.0.0/255.0.0.0\n", "", "!"),
        ("10.0.0.0/\n", "", "!"),
        ("10.0.0.0/a\n", "", "!"),
        ("10.0.0.0/08\n", "10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/0032\n", "", "10.0.0.0/32"),
        ("10.0.0.0/+8\n", "", "!"),
        ("10.0.0.0/ 8\n", "", "!"),
        ("10.0.0.0 /8\n", "", "!"),
        ("10.0.0.0/8/9\n", "", "!"),
        ("10.0.0.0/4294967304\n", "", "!"),
        (" 10.0.0.5\n", "", "!"),
        ("\t10.0.0.5\n", "", "!"),
        ("10.0.0.5 \n", "10.0.0.5/32", "!"),
        ("10.0.0.5\t# c\n", "10.0.0.5/32", "!"),
        ("10.0.0.0/8#c\n", "10.0.0.0/8", "!"),
        ("10.0.0.5 c\n", "", "!"),
        ("# c\n\n10.0.0.5\n", "10.0.0.5/32", "10.0.0.5/32"),
        (" # c\n10.0.0.5\n", "10.0.0.5/32", "!"),
        ("  \n10.0.0.5\n", "10.0.0.5/32", "!"),
        ("\r\n10.0.0.5\n", "10.0.0.5/32", "!"),
        ("10.0.0.5\r\n", "10.0.0.5/32", "!"),
        ("# c\r\n10.0.0.5\n", "10.0.0.5/32", "10.0.0.5/32"),
        ("10.0.0.5", "10.0.0.5/32", "!"),
        ("10.0.0.55", "10.0.0.55/32", "10.0.0.5/32"),
        ("10.0.0.0/24", "10.0.0.0/24", ""),
        ("10.0.0.0/8", "10.0.0.0/8", "!"),
        ("10.0.0.5\n# c", "10.0.0.5/32", "10.0.0.5/32"),
        ("fd00::1\n", "", "fd00::1/128"),
        ("fd00::/64\n", "", "fd00::/64"),
        ("fd00::1/64\n", "", ""),
        ("::/0\n", "", "::/0"),
        ("fd00::/0\n", "", ""),
        ("[fd00::1]\n", "", "!"),
        ("FD00::1\n", "", "!"),
        ("fd00::1/129\n", "", "!"),
        ("fd00::1.2.3.4\n", "", "fd00::102:304/128"),
        ("fd00::12", "", "fd00::1/128"),
        ("::1/128", "", ""),
        ("localhost\n", "", "!"),
        ("abcd\n", "", "!"),
        ("10\n", "", "0.0.0.10/32"),
        ("10.1\n", "", "10.0.0.1/32"),
        ("10.70000\n", "", "10.1.17.112/32"),
        ("4294967296\n", "", "!"),
        ("010.0.0.1\n", "8.0.0.1/32", "8.0.0.1/32"),
        ("08.1.1.1\n", "", "!"),
        ("10.0.0.256\n", "", "!"),
        ("10.0.0.5.\n", "", "!"),
        (":\n", "", "!"),
        ("/24\n", "", "!"),
        ("\u{feff}10.0.0.5\n", "", "!"),
        ("10.0.0.5\0\n", "", "!"),
        ("foo\n10.0.0.5\n", "10.0.0.5/32", "!"),
        ("", "", ""),
    ];

    #[test]
    fn honoured_is_what_the_daemons_honoured() {
        for (text, v1, v2) in MEASURED {
            let list = AddressList::parse(text.as_bytes());
            assert_eq!(honoured(text, V1), *v1, "1.2 on {text:?}");
            assert!(list.not_honoured(V1).iter().all(|one| !one.fatal), "1.2 starts with {text:?}");
            let starts = list.not_honoured(V2).iter().all(|one| !one.fatal);
            assert_eq!(starts, *v2 != "!", "2.0 on {text:?}: {:?}", list.not_honoured(V2));
            assert_eq!(honoured(text, V2), v2.trim_matches('!'), "2.0 on {text:?}");
        }
    }

    #[test]
    fn the_rest_of_a_long_line_is_read_as_one() {
        let long = |length: usize, text: &str| format!("#{}{text}\n", " ".repeat(length - 1));
        assert_eq!(honoured(&long(1022, "10.0.0.6"), V2), "0.0.0.6/32");
        assert_eq!(honoured(&long(1023, "10.0.0.6"), V2), "10.0.0.6/32");
        assert!(AddressList::parse(long(1024, "10.0.0.6").as_bytes()).not_honoured(V2)[0].fatal);
        assert_eq!(honoured(&long(1022, ""), V2), "");
        assert!(AddressList::parse(long(1023, "").as_bytes()).not_honoured(V2).is_empty());
    }

    #[test]
    fn every_line_without_its_effect_is_named_with_a_remedy() {
        let text =
            "# c\n10.0.0.5/255.255.255.0\nfd00::/64\n  10.1.0.0/16 # c\n10.0.0.5/24\n[FD00::1]\n \nhost\n010.0.0.1\n";
        let of = |dialect| {
            let lost = AddressList::parse(text.as_bytes()).not_honoured(dialect);
            lost.into_iter().map(|one| format!("{} {}: {}", one.line, one.why, one.remedy)).collect::<Vec<_>>()
        };
        let octal = "it is read as 8.0.0.1: a number that begins with 0 is octal, and a missing one is filled in: write the network with its prefix length, without zeros in front";
        let anything = "write an address, or a network such as 192.168.1.0/24; for a remark begin the line with #";
        assert_eq!(
            of(V1),
            [
                "2 it is neither an IPv4 address nor such a network with a prefix length, and is left out: write 10.0.0.0/24 alone on its line".to_owned(),
                "3 portsentry 1.2 knows no IPv6 and does not see its packets: remove the line, or begin it with #".to_owned(),
                "4 portsentry 1.2 passes over an address with a blank before it: write 10.1.0.0/16 alone on its line".to_owned(),
                "6 portsentry 1.2 knows no IPv6 and does not see its packets: remove the line, or begin it with #".to_owned(),
                format!("8 it is neither an IPv4 address nor such a network with a prefix length, and is left out: {anything}"),
                format!("9 {octal}"),
            ]
        );
        let refused = "and portsentry 2.0 does not start with it";
        assert_eq!(
            of(V2),
            [
                format!("2 what stands behind its / is no number of bits, {refused}: write 10.0.0.0/24 alone on its line"),
                format!("4 it has a blank in it, or a comment behind the address, {refused}: write 10.1.0.0/16 alone on its line"),
                "5 it has bits behind its prefix, with which portsentry 2.0 matches nobody: write 10.0.0.0/24 alone on its line".to_owned(),
                format!("6 it is neither an address nor a network, {refused}: write fd00::1/128 alone on its line"),
                format!("7 it has a blank in it, or a comment behind the address, {refused}: empty the line, or begin it with #"),
                format!("8 it is neither an address nor a network, {refused}: {anything}"),
                format!("9 {octal}"),
            ]
        );
    }

    fn lan(text: &str) -> Vec<(IpNet, String)> {
        vec![(text.parse().unwrap(), "LAN".to_owned())]
    }

    #[test]
    fn our_entries_are_put_in_once_updated_and_taken_out_again() {
        let original = b"127.0.0.1/32\n0.0.0.0";
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
    fn our_entries_are_honoured_by_both() {
        let mut list = AddressList::parse(b"");
        list.set_marked(&lan("192.168.1.5/24")).unwrap();
        for dialect in [V1, V2] {
            assert_eq!(list.honoured(dialect), [lan("192.168.1.0/24")[0].0]);
            assert!(list.not_honoured(dialect).is_empty());
        }
    }

    #[test]
    fn an_entry_that_would_be_read_as_another_is_refused() {
        let mut list = AddressList::parse(b"");
        for (network, about) in [("10.0.0.0/8", "x\n0.0.0.0/1"), ("0.0.0.0/0", ""), ("10.0.0.0/8", &"x".repeat(1100))] {
            assert!(list.set_marked(&[(network.parse().unwrap(), about.to_owned())]).is_err());
            assert_eq!(list.to_bytes(), b"");
        }
    }

    fn list_like() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&[u8]] = &[
            b"10.0.0.0",
            b"/24",
            b"/",
            b"8",
            b"0",
            b".",
            b":",
            b"fd00::",
            b"\n",
            b"\n",
            b"\r\n",
            b" ",
            b"\t",
            b"#",
            b"255",
            b"\xff",
            b"\0",
        ];
        let piece = prop_oneof![
            8 => proptest::sample::select(PIECES).prop_map(<[u8]>::to_vec),
            1 => Just(vec![b' '; 511]),
        ];
        proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_print_as_they_were(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let list = AddressList::parse(&bytes);
            prop_assert_eq!(list.to_bytes(), bytes);
            list.honoured(V1);
            list.not_honoured(V2);
        }

        #[test]
        fn ours_come_and_go_without_a_trace(bytes in list_like()) {
            let mut list = AddressList::parse(&bytes);
            list.honoured(V1);
            list.honoured(V2);
            list.set_marked(&lan("10.9.0.0/16")).unwrap();
            prop_assert!(list.honoured(V1).contains(&lan("10.9.0.0/16")[0].0));
            list.set_marked(&[]).unwrap();
            prop_assert_eq!(list.to_bytes(), bytes);
        }
    }
}

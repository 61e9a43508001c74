//! Numbers and addresses as C's library reads them, which the readers of these files leave it to.

use std::net::Ipv4Addr;

/// As inet_aton(3): up to four numbers, of which the last fills what is left, and at least `least` of them; a
/// leading 0 makes a number octal, a leading 0x hexadecimal.
pub(super) fn address(text: &[u8], least: usize) -> Option<Ipv4Addr> {
    let parts: Vec<u64> = text.split(|&byte| byte == b'.').map(number).collect::<Option<_>>()?;
    let (last, bytes) = parts.split_last()?;
    if parts.len() < least || parts.len() > 4 || bytes.iter().any(|&part| part > 255) {
        return None;
    }
    let left = 8 * (4 - bytes.len());
    let high = bytes.iter().fold(0u64, |sum, part| sum << 8 | part) << left;
    (*last < 1 << left).then(|| u32::try_from(high | last).ok().map(Ipv4Addr::from))?
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[..], 8),
        None => (&text[..], 10),
    };
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// The digits that `text` begins with, as a number; `None` if there are none, or too many.
pub(super) fn leading_number(text: &[u8]) -> Option<u32> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

/// As strtol(3): white space, a sign, and digits are a number, whatever stands behind them; none is 0.
pub(super) fn integer(text: &str) -> i64 {
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit);
    sign * digits.fold(0i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_inet_aton_reads_them() {
        for (text, wanted) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.0.0.1", Some("8.0.0.1")),
            ("0xc0.0.2.1", Some("192.0.2.1")),
            ("10.1", Some("10.0.0.1")),
            ("4294967295", Some("255.255.255.255")),
            ("4294967296", None),
            ("10.256.1", None),
            ("1.2.3.4.5", None),
            ("+1.2.3.4", None),
            ("09.1.1.1", None),
            ("1..2.3", None),
            ("", None),
        ] {
            assert_eq!(address(text.as_bytes(), 1).map(|one| one.to_string()).as_deref(), wanted, "{text}");
        }
        assert_eq!(address(b"10.1", 4), None);
    }

    #[test]
    fn numbers_end_where_the_digits_do() {
        assert_eq!([integer("24x"), integer(" +8"), integer("-1"), integer(""), integer("0x18")], [24, 8, -1, 0, 0]);
        assert_eq!(integer(&"9".repeat(99)), i64::MAX);
        assert_eq!(
            [leading_number(b"08/9"), leading_number(b"x"), leading_number(b"4294967296")],
            [Some(8), None, None]
        );
    }
}

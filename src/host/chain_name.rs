//! The name of a chain of iptables.

use std::fmt;
use std::str::FromStr;

/// A name that iptables takes, and that is one word wherever it stands in what iptables-restore reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainName(String);

impl FromStr for ChainName {
    type Err = String;

    /// As iptables has it, but for signs that a shell or iptables-restore would make something else of.
    fn from_str(name: &str) -> Result<ChainName, String> {
        /// Of which XT_EXTENSION_MAXNAMELEN leaves room for so many.
        const LONGEST: usize = 28;
        /// Where a jump leads that leads to no chain that somebody made.
        const OTHERS: [&str; 7] = ["ACCEPT", "DROP", "QUEUE", "RETURN", "INPUT", "FORWARD", "OUTPUT"];
        let is_sign = |letter: char| letter.is_ascii_alphanumeric() || "-_.:+@".contains(letter);
        let begins_well = name.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '_');
        if OTHERS.contains(&name) {
            return Err(format!(
                "{name:?} is a word of iptables' own; write the name of the chain with your whitelist"
            ));
        }
        if begins_well && name.len() <= LONGEST && name.chars().all(is_sign) {
            return Ok(ChainName(name.to_owned()));
        }
        Err(format!(
            "{name:?} is no name of a chain; write 1 to {LONGEST} letters, digits or any of -_.:+@, the first of them \
             a letter, a digit or _"
        ))
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_another_word_or_line_is_no_name() {
        for name in ["WHITELIST", "f2b-sshd", "ufw-before-input", "_x", "1", "a.b:c+d@e", &"x".repeat(28)] {
            assert_eq!(name.parse::<ChainName>().map(|name| name.to_string()), Ok(name.to_owned()));
        }
        for name in [
            "",
            "-j",
            "!x",
            "a b",
            "a\nCOMMIT",
            "a\tb",
            "a\"b",
            "a'b",
            "#a",
            ":a",
            "*a",
            "é",
            "a\0",
            "ACCEPT",
            "INPUT",
            &"x".repeat(29),
        ] {
            assert!(name.parse::<ChainName>().is_err(), "{name:?}");
        }
    }
}

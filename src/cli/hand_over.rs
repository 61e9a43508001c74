//! `block`, as Debian's portsentry calls it: KILL_ROUTE, one process a scanner, while nobody watches. So the words that apply
//! wrote there are taken as they stand, and the keeper is asked at once; whatever else there is to do, `block` does.

use std::ffi::OsString;
use std::net::IpAddr;

use crate::blocks::By;
use crate::blocks::control::{self, Answer, Request, Wanted};

use super::Exit;

/// What came of it, if these are those words ([`control::KILL_ROUTE`]) and somebody keeps the blocks.
pub fn answered(words: &[OsString]) -> Option<Exit> {
    let words: Vec<&str> = words.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let ["--quiet", "block", address, "--by", "portsentry", "--why", why] = words[..] else { return None };
    let address = address.parse::<IpAddr>().ok()?.to_canonical();
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let request = Request::Block { address, length: Wanted::Earned, by: By::Portsentry, why: why.to_owned() };
    match control::ask(&request) {
        Ok(Some(Answer::Blocked { .. })) => Some(Exit::Good),
        Ok(Some(Answer::Refused(why))) => {
            eprintln!("harden-portsentry: {why}");
            Some(Exit::Error)
        }
        Ok(_) => None,
        // Whoever does not answer has been waited for long enough.
        Err(error) => {
            eprintln!("harden-portsentry: {error:#}");
            Some(Exit::Error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::control::KILL_ROUTE;

    #[test]
    fn other_words_are_the_parsers() {
        let taken = |text: &str| answered(&text.split(' ').map(OsString::from).collect::<Vec<_>>()).is_some();
        let address = |word| if word == "$TARGET$" { "nonsense" } else { word };
        let ours: Vec<&str> = KILL_ROUTE.split(' ').map(address).collect();
        assert_eq!(ours[..6], ["--quiet", "block", "nonsense", "--by", "portsentry", "--why"]);
        for words in ["hp block 203.0.113.9", "hp", "hp --quiet block nonsense --by portsentry --why x", "hp --version"]
        {
            assert!(!taken(words), "{words}");
        }
    }
}

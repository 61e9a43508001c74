//! The choices that flags and policy.toml share.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;

/// Which portsentry watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// what an earlier apply set up, else Debian's package where apt has it, else the embedded one
    Auto,
    /// Debian's package
    Package,
    /// the one built into this program: sees IPv6 and what the firewall drops, on every Debian
    Embedded,
}

impl fmt::Display for Engine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Engine::Auto => "auto",
            Engine::Package => "package",
            Engine::Embedded => "embedded",
        })
    }
}

/// By which packet filter hosts are blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firewall {
    /// nftables where the kernel has it, else iptables.
    Auto,
    Nftables,
    Iptables,
}

/// What a blocked host meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// CHAOS where this kernel has it, as the article wants; else noise where connections are tracked anyway; else drop
    Auto,
    /// noise, by the CHAOS target of xtables-addons
    Chaos,
    /// noise, by nftables alone: at random open, closed, forbidden or silent, and nothing behind it
    Noise,
    /// silence
    Drop,
    /// an ICMP error
    Reject,
}

impl Response {
    /// The iptables target; `None` for [`Response::Auto`], which is no answer yet.
    pub fn target(self, ipv6: bool) -> Option<&'static str> {
        match self {
            Response::Auto => None,
            // xt_CHAOS knows IPv4 only.
            Response::Chaos if ipv6 => Some("DROP"),
            Response::Chaos => Some("CHAOS"),
            // By rules of iptables there is none.
            Response::Drop | Response::Noise => Some("DROP"),
            Response::Reject => Some("REJECT"),
        }
    }
}

impl Response {
    /// What a blocked host meets.
    pub fn in_words(self) -> &'static str {
        match self {
            Response::Auto | Response::Drop => "silence (drop)",
            Response::Chaos => "CHAOS",
            Response::Noise => "noise",
            Response::Reject => "an error (reject)",
        }
    }
}

impl fmt::Display for Response {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Response::Auto => "auto",
            Response::Chaos => "chaos",
            Response::Noise => "noise",
            Response::Drop => "drop",
            Response::Reject => "reject",
        })
    }
}

/// How long a block lasts: seconds, or for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BanTime(Option<u64>);

impl BanTime {
    /// A day.
    pub const DAY: BanTime = BanTime(Some(86_400));

    /// How long; `None` is for ever.
    pub fn duration(self) -> Option<Duration> {
        self.0.map(Duration::from_secs)
    }

    /// As fail2ban reads it: seconds, -1 for ever.
    pub fn for_fail2ban(self) -> String {
        self.0.map_or("-1".to_owned(), |seconds| seconds.to_string())
    }

    /// As policy.toml has it: `12h`, `forever`.
    pub fn for_policy(self) -> String {
        let Some(seconds) = self.0 else { return "forever".to_owned() };
        let (size, name) = unit_of(seconds);
        format!("{}{}", seconds / size, &name[..1])
    }
}

/// The largest unit of which `seconds` is a whole number: its seconds and its name.
fn unit_of(seconds: u64) -> (u64, &'static str) {
    let units = [(604_800, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute")];
    units.into_iter().find(|(size, _)| seconds.is_multiple_of(*size)).unwrap_or((1, "second"))
}

impl FromStr for BanTime {
    type Err = String;

    /// A number of seconds, or a number with s, m, h, d or w, or `forever`.
    fn from_str(text: &str) -> Result<BanTime, String> {
        let wrong = || {
            format!("`{text}` is no length of time; write \"1d\", \"12h\", \"1w\", a number of seconds, or \"forever\"")
        };
        if text == "forever" {
            return Ok(BanTime(None));
        }
        let (number, unit) = match text.char_indices().find(|(_, letter)| !letter.is_ascii_digit()) {
            Some((at, _)) => text.split_at(at),
            None => (text, "s"),
        };
        let factor = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return Err(wrong()),
        };
        let seconds =
            number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).filter(|&seconds| seconds > 0);
        // fail2ban adds it to the time of day; ten years keep that well inside what it can count.
        seconds.filter(|&seconds| seconds <= 315_360_000).map(|seconds| BanTime(Some(seconds))).ok_or_else(wrong)
    }
}

impl fmt::Display for BanTime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(seconds) = self.0 else { return out.write_str("ever") };
        let (size, name) = unit_of(seconds);
        let count = seconds / size;
        write!(out, "{count} {name}{}", if count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ban_times_in_every_form() {
        for (text, seconds, shown) in [
            ("1d", "86400", "1 day"),
            ("90", "90", "90 seconds"),
            ("12h", "43200", "12 hours"),
            ("forever", "-1", "ever"),
        ] {
            let time: BanTime = text.parse().unwrap();
            assert_eq!((time.for_fail2ban(), time.to_string()), (seconds.to_owned(), shown.to_owned()));
            assert_eq!(time.for_policy().parse(), Ok(time));
        }
        for wrong in ["", "0", "-5", "1y", "1.5d", "99999999999w", "d"] {
            assert!(wrong.parse::<BanTime>().is_err(), "{wrong}");
        }
    }
}

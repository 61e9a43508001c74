//! `[block]` of policy.toml: how long a block lasts, and how many there may be.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::choices::BanTime;

/// What `[block]` of policy.toml says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Of a source that is known only by what anyone can forge: a datagram, a lone SYN.
    pub first: Length,
    /// Of one that completed a connection, or came back.
    pub term: Length,
    /// The last term times this is the next one, each time that it comes back.
    pub growth: u32,
    /// No term is longer.
    pub limit: Length,
    /// How long after its end a block is remembered.
    pub remember: Duration,
    /// Addresses that may be blocked at once.
    pub in_all: usize,
    /// Blocks a second in the long run, and ten times as many at once.
    pub per_second: u32,
    /// Running connections of a blocked source end, too.
    pub cut_established: bool,
    /// Of `response = "noise"`.
    pub noise: Noise,
}

/// What noise a blocked host meets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Noise {
    /// Another one with each probe.
    #[default]
    Random,
    /// The same for a source and a port: a host that is not there.
    Stable,
}

/// `None` is for ever.
pub type Length = Option<Duration>;

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

impl Default for Terms {
    fn default() -> Terms {
        Terms {
            first: Some(Duration::from_secs(10 * MINUTE)),
            term: Some(Duration::from_secs(DAY)),
            growth: 2,
            limit: Some(Duration::from_secs(30 * DAY)),
            remember: Duration::from_secs(30 * DAY),
            in_all: 65_536,
            per_second: 100,
            cut_established: false,
            noise: Noise::default(),
        }
    }
}

/// A length as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "write \"1d\", \"12h\", \"1w\", a number of seconds, or \"forever\"")]
pub enum RawLength {
    Seconds(u64),
    Text(String),
}

impl fmt::Display for RawLength {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RawLength::Seconds(seconds) => seconds.fmt(out),
            RawLength::Text(text) => text.fmt(out),
        }
    }
}

/// The table as serde reads it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTerms {
    first: Option<RawLength>,
    term: Option<RawLength>,
    growth: Option<u32>,
    limit: Option<RawLength>,
    remember: Option<RawLength>,
    in_all: Option<usize>,
    per_second: Option<u32>,
    cut_established: Option<bool>,
    noise: Option<Noise>,
}

/// No more may be blocked at once, whatever policy.toml says: a set of nftables of so many addresses takes some 15 MB.
pub const IN_ALL: usize = 131_072;

impl RawTerms {
    /// The terms, with defaults where it says nothing.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub fn terms(&self) -> Result<Terms, (&'static str, String)> {
        let default = Terms::default();
        let length = |key: &'static str, raw: &Option<RawLength>, default: Length| match raw {
            None => Ok(default),
            Some(raw) => raw.to_string().parse::<BanTime>().map(BanTime::duration).map_err(|error| (key, error)),
        };
        let number = |key: &'static str, value: usize, most: usize| match value {
            value if (1..=most).contains(&value) => Ok(value),
            value => Err((key, format!("`{value}` is not between 1 and {most}"))),
        };
        let remember = length("remember", &self.remember, Some(default.remember))?;
        Ok(Terms {
            first: length("first", &self.first, default.first)?,
            term: length("term", &self.term, default.term)?,
            growth: number("growth", self.growth.unwrap_or(default.growth) as usize, 100)? as u32,
            limit: length("limit", &self.limit, default.limit)?,
            remember: remember.ok_or(("remember", "nothing is remembered for ever; write \"365d\"".to_owned()))?,
            in_all: number("in_all", self.in_all.unwrap_or(default.in_all), IN_ALL)?,
            per_second: number("per_second", self.per_second.unwrap_or(default.per_second) as usize, 10_000)? as u32,
            cut_established: self.cut_established.unwrap_or(default.cut_established),
            noise: self.noise.unwrap_or_default(),
        })
    }
}

//! Times, in words.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A length of time in seconds as people say it: `3 days`.
pub fn age(seconds: f64) -> String {
    let units = [(86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"), (1.0, "second")];
    let (size, name) = units.into_iter().find(|(size, _)| seconds >= *size).unwrap_or((1.0, "second"));
    let count = (seconds / size) as u64;
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}

/// A time as the clock on the wall shows it.
pub fn local(time: Timestamp) -> String {
    time.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_in_whole_words() {
        assert_eq!(age(1.4), "1 second");
        assert_eq!(age(260_000.0), "3 days");
    }
}

//! What is printed of times that were taken.

use std::time::Duration;

/// `sent` were tried, and these came to an end.
pub fn print(sent: u64, mut times: Vec<Duration>) {
    times.sort();
    let us = |time: Option<&Duration>| time.map_or(-1, |time| time.as_micros() as i64);
    let at = |share: f64| times.get((share * times.len() as f64) as usize);
    println!(
        "sent={sent} seen={} min_us={} median_us={} p95_us={} max_us={}",
        times.len(),
        us(times.first()),
        us(at(0.5)),
        us(at(0.95)),
        us(times.last())
    );
}

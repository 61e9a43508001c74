//! How long a block lasts, and how many there may be.

pub use crate::settings::{IN_ALL, Length, Noise, Terms};

/// What is known against a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// One packet, which anyone can send in its name.
    Forgeable,
    /// Several, for different ports or of different kinds: forgeable still, and dearer.
    Insistent,
    /// A connection, which takes somebody who gets the answers.
    Connection,
}

impl Terms {
    /// The next term of a source whose last one was `last`; `None` in place of it if there was none.
    pub fn next(&self, last: Option<Length>, evidence: Evidence) -> Length {
        let next = match last {
            None if evidence == Evidence::Connection => self.term,
            None => self.first,
            Some(None) => None,
            Some(Some(last)) => match self.term {
                Some(term) if last >= term => last.checked_mul(self.growth),
                term => term,
            },
        };
        match (next, self.limit) {
            (Some(next), Some(limit)) => Some(next.min(limit)),
            (next, None) => next,
            (None, limit) => limit,
        }
    }
}

/// So many at once, and so many a second in the long run.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    left: f64,
    /// In milliseconds of the caller's clock.
    at: i64,
}

/// The seconds' worth of blocks that may come at once.
const AT_ONCE: f64 = 10.0;

impl Bucket {
    pub fn full(per_second: u32, now: i64) -> Bucket {
        Bucket { left: f64::from(per_second) * AT_ONCE, at: now }
    }

    /// Takes one out, if there is one.
    pub fn take(&mut self, per_second: u32, now: i64) -> bool {
        let rate = f64::from(per_second);
        self.left = (self.left + (now - self.at).max(0) as f64 / 1_000.0 * rate).min(rate * AT_ONCE);
        self.at = now;
        let any = self.left >= 1.0;
        if any {
            self.left -= 1.0;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hours(hours: u64) -> Length {
        Some(Duration::from_secs(hours * 3_600))
    }

    #[test]
    fn terms_grow_with_each_return_up_to_the_limit() {
        let terms = Terms { limit: hours(100), ..Terms::default() };
        let mut last = None;
        let mut all = Vec::new();
        for _ in 0..6 {
            let next = terms.next(last, Evidence::Forgeable);
            all.push(next);
            last = Some(next);
        }
        let first = Some(Duration::from_secs(600));
        assert_eq!(all, [first, hours(24), hours(48), hours(96), hours(100), hours(100)]);
        assert_eq!(terms.next(None, Evidence::Connection), hours(24));
        assert_eq!(terms.next(None, Evidence::Insistent), first);
    }

    #[test]
    fn for_ever_is_a_term_and_a_limit() {
        let terms = Terms { term: None, limit: None, ..Terms::default() };
        assert_eq!(terms.next(None, Evidence::Connection), None);
        assert_eq!(terms.next(Some(hours(1)), Evidence::Forgeable), None);
        let limited = Terms { term: None, limit: hours(48), ..Terms::default() };
        assert_eq!(limited.next(None, Evidence::Connection), hours(48));
        // What somebody blocked by hand for an hour comes back as a scanner.
        assert_eq!(Terms::default().next(Some(hours(1)), Evidence::Forgeable), hours(24));
    }

    #[test]
    fn a_bucket_fills_again_and_not_over_its_brim() {
        let mut bucket = Bucket::full(2, 0);
        assert_eq!((0..100).filter(|_| bucket.take(2, 0)).count(), 20);
        assert_eq!((0..100).filter(|_| bucket.take(2, 1_000)).count(), 2);
        assert_eq!((0..100).filter(|_| bucket.take(2, 900)).count(), 0, "a clock that goes back");
        assert_eq!((0..100).filter(|_| bucket.take(2, 1_000_000)).count(), 20);
    }
}

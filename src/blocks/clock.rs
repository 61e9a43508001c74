//! Two clocks: one that nobody sets and that begins with the boot, by which blocks end, and that of the calendar, by which
//! they are written down.

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the boot, negative before it.
pub type Uptime = i64;

/// What both clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub boot: Uptime,
    /// Milliseconds since 1970.
    pub calendar: i64,
}

impl Now {
    /// Reads them.
    pub fn read() -> Now {
        let boot = clock_gettime(ClockId::Monotonic);
        let boot = boot.tv_sec * 1_000 + boot.tv_nsec / 1_000_000;
        Now { boot, calendar: Timestamp::now().as_millisecond() }
    }

    /// How far apart they are, in milliseconds; it changes when somebody sets the calendar.
    pub fn offset(self) -> i64 {
        self.calendar - self.boot
    }

    /// The calendar's time at `instant`, in whole seconds.
    pub fn calendar_at(self, instant: Uptime) -> Timestamp {
        let milliseconds = instant.saturating_add(self.offset());
        let earliest = Timestamp::MIN.as_second();
        let latest = Timestamp::MAX.as_second();
        Timestamp::from_second(milliseconds.div_euclid(1_000).clamp(earliest, latest)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The instant of the calendar's `time`.
    pub fn instant_of(self, time: Timestamp) -> Uptime {
        time.as_millisecond().saturating_sub(self.offset())
    }
}

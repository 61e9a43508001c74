//! From the first SYN of a source to its line in the history file. The file is polled without a pause: being told by
//! the kernel (inotify) would add a wake-up of this process to each time.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::wire::Wire;
use crate::{Settings, frame, pin, times};

pub fn run(settings: &Settings) -> io::Result<()> {
    pin(settings)?;
    let mut wire = Wire::open(settings)?;
    let history = File::open(settings.need("history"))?;
    let ports = settings.ports("ports");
    let limit = Duration::from_millis(settings.number("limit_ms", 2000));
    let count = settings.number("count", 300);
    let mut times = Vec::new();
    for number in 0..count {
        let from = settings.address("from").wrapping_add(number as u32);
        let mut seen = Tail { file: &history, at: history.metadata()?.len(), text: Vec::new() };
        frame::address(&mut wire.frames[0], from, 30_000, ports[(number % ports.len() as u64) as usize]);
        let wanted = Ipv4Addr::from(from).to_string();
        let begin = Instant::now();
        wire.send(1)?;
        while begin.elapsed() < limit {
            if seen.more()? && seen.has_line_with(wanted.as_bytes()) {
                times.push(begin.elapsed());
                break;
            }
        }
        std::thread::sleep(Duration::from_micros(2_000 + (number * 617) % 2_000)); // the kernel's tick must not line up
    }
    times::print(count, times);
    Ok(())
}

/// What was written to a file since it was opened here.
struct Tail<'a> {
    file: &'a File,
    at: u64,
    text: Vec<u8>,
}

impl Tail<'_> {
    fn more(&mut self) -> io::Result<bool> {
        let mut room = [0; 4096];
        let read = self.file.read_at(&mut room, self.at)?;
        self.at += read as u64;
        self.text.extend_from_slice(&room[..read]);
        Ok(read > 0)
    }

    /// Whether a whole line names this source: `203.0.113.1` is not in `203.0.113.10`.
    fn has_line_with(&self, wanted: &[u8]) -> bool {
        let whole = self.text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = &self.text[..whole];
        (0..text.len().saturating_sub(wanted.len())).any(|start| {
            let end = start + wanted.len();
            &text[start..end] == wanted
                && !text[end].is_ascii_digit()
                && start.checked_sub(1).is_none_or(|before| !text[before].is_ascii_digit())
        })
    }
}

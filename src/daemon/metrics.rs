//! METRICS_FILE: counts for Prometheus, as node_exporter's textfile collector reads them.
//!
//! Whoever counts adds to atomics, the hot loop once a turn. A thread of its own writes the file, at most once in
//! [`EVERY`], and sleeps without a timer while nothing has changed.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::output::Output;
use super::probe::Kind;
use super::table::REPEATS;
use super::threads::{join_soon, locked};
use crate::blocks::own_files;
use crate::kernel::counted_packets;

/// The file is written once in this time at most; Prometheus asks every 15 seconds to a minute, as it is usually set up.
pub const EVERY: Duration = Duration::from_secs(15);

/// What came of a source that was to be blocked.
#[derive(Debug, Clone, Copy)]
pub enum Outcome {
    Blocked,
    /// It was blocked already.
    Already,
    /// There are too many blocks.
    Limited,
    /// It must not be blocked, or the kernel, or a command, refused.
    Refused,
}

const OUTCOMES: [&str; 4] = ["blocked", "already", "limited", "refused"];

/// What waits between two threads.
#[derive(Debug, Clone, Copy)]
pub enum Queue {
    /// What is to be written into the ledger.
    Ledger,
    /// Scans to react to.
    Reactions,
    /// Parcels of lines to write.
    Output,
}

const QUEUES: [&str; 3] = ["ledger", "reactions", "output"];

/// A table of ours in the kernel that was taken away, and loaded again.
#[derive(Debug, Clone, Copy)]
pub enum Restored {
    /// The one that picks the packets.
    Packets,
    /// The one of blocked hosts.
    Blocks,
}

const RESTORED: [&str; 2] = ["packets", "blocks"];

/// What one turn of the hot loop brought.
#[derive(Debug, Default)]
pub struct Turn {
    pub packets: u64,
    /// Times that the socket was full.
    pub losses: u64,
    /// Scans of hosts that are blocked already, where a command blocked them.
    pub already: u64,
    scans: [u64; Kind::NAMES.len()],
}

impl Turn {
    pub fn scan(&mut self, kind: Kind) {
        self.scans[kind.index()] += 1;
    }
}

/// All counts, since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    packets: AtomicU64,
    losses: AtomicU64,
    scans: [AtomicU64; Kind::NAMES.len()],
    blocks: [AtomicU64; OUTCOMES.len()],
    blocked_hosts: AtomicU64,
    lines_left_out: AtomicU64,
    lines_lost: AtomicU64,
    waiting: [AtomicU64; QUEUES.len()],
    ledger_failing: AtomicBool,
    restores: [AtomicU64; RESTORED.len()],
    /// What the kernel's counter said last, and the sum over all tables that had one.
    repeats: Mutex<(u64, u64)>,
    /// Something is not in the file yet.
    changed: AtomicBool,
    /// Whether the thread that writes is to end.
    ending: Mutex<bool>,
    news: Condvar,
}

impl Metrics {
    /// Adds what a turn brought, and how things stand after it.
    pub fn add(&self, turn: &Turn, blocked_hosts: usize, lines_left_out: u64) {
        let mut changed = false;
        let already = &self.blocks[Outcome::Already as usize];
        let counters = self.scans.iter().chain([&self.packets, &self.losses, already]);
        for (counter, &more) in counters.zip(turn.scans.iter().chain([&turn.packets, &turn.losses, &turn.already])) {
            if more > 0 {
                counter.fetch_add(more, Relaxed);
                changed = true;
            }
        }
        changed |= self.blocked_hosts.swap(blocked_hosts as u64, Relaxed) != blocked_hosts as u64;
        changed |= self.lines_left_out.swap(lines_left_out, Relaxed) != lines_left_out;
        if changed {
            self.touch();
        }
    }

    pub fn block(&self, outcome: Outcome) {
        self.blocks[outcome as usize].fetch_add(1, Relaxed);
        self.touch();
    }

    pub fn lines_lost(&self, lines: u64) {
        self.lines_lost.fetch_add(lines, Relaxed);
        self.touch();
    }

    pub fn enter(&self, queue: Queue) {
        self.waiting[queue as usize].fetch_add(1, Relaxed);
    }

    pub fn leave(&self, queue: Queue, count: usize) {
        self.waiting[queue as usize].fetch_sub(count as u64, Relaxed);
    }

    pub fn ledger_fails(&self, fails: bool) {
        if self.ledger_failing.swap(fails, Relaxed) != fails {
            self.touch();
        }
    }

    /// A table is there again. The counter in the one of packets begins anew.
    pub fn restored(&self, table: Restored) {
        if let Restored::Packets = table {
            locked(&self.repeats).0 = 0;
        }
        self.restores[table as usize].fetch_add(1, Relaxed);
        self.touch();
    }

    /// The kernel's counter of packets that were not handed up says `count`; how many that makes since the start.
    pub fn repeats(&self, count: u64) -> u64 {
        let mut repeats = locked(&self.repeats);
        let (last, sum) = *repeats;
        *repeats = (count, sum + count.checked_sub(last).unwrap_or(count));
        repeats.1
    }

    /// Wakes the thread that writes, the first time after it wrote.
    fn touch(&self) {
        if !self.changed.load(Relaxed) && !self.changed.swap(true, SeqCst) {
            // Under the lock, so that it either sees the change or hears the news.
            let _ending = locked(&self.ending);
            self.news.notify_all();
        }
    }

    /// Waits until there is something to write and `since` the last time is long enough ago; whether it is the last time.
    fn due(&self, since: Option<Instant>) -> bool {
        let mut ending = locked(&self.ending);
        while !*ending && since.is_some() && !self.changed.load(SeqCst) {
            ending = self.news.wait(ending).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        while !*ending
            && let Some(left) = since.map(|since| EVERY.saturating_sub(since.elapsed())).filter(|left| !left.is_zero())
        {
            ending = self.news.wait_timeout(ending, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        self.changed.store(false, SeqCst);
        *ending
    }

    /// In the text format of Prometheus, version 0.0.4.
    fn text(&self) -> String {
        let mut text = Text(String::new());
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        text.one("packets_total", COUNTER, "Packets that the kernel handed up.", of(&self.packets));
        let help = "Times that packets were lost on the way up, for they came faster than they were read.";
        text.one("packet_losses_total", COUNTER, help, of(&self.losses));
        let help = "Packets that were not handed up, for their like had been.";
        text.one("repeats_total", COUNTER, help, locked(&self.repeats).1);
        text.several(
            "scans_total",
            COUNTER,
            "Probes that have a line, by their kind.",
            "kind",
            &Kind::NAMES,
            &self.scans,
        );
        let help = "Probes whose source was to be blocked, by what came of it.";
        text.several("blocks_total", COUNTER, help, "outcome", &OUTCOMES, &self.blocks);
        text.one("blocked_hosts", GAUGE, "Hosts that are blocked.", of(&self.blocked_hosts));
        // One that is told later after all is taken away again.
        let help = "Probes that have no line, for there were too many of one source or of sources that asked once.";
        text.one("lines_left_out", GAUGE, help, of(&self.lines_left_out));
        let help = "Lines that could not be written as fast as they came.";
        text.one("lines_lost_total", COUNTER, help, of(&self.lines_lost));
        let help = "What waits to be written into the ledger, to be reacted to, to be told.";
        text.several("queue_length", GAUGE, help, "queue", &QUEUES, &self.waiting);
        let help = "1 while the ledger of blocks cannot be written.";
        text.one("ledger_failing", GAUGE, help, u64::from(self.ledger_failing.load(Relaxed)));
        let help = "Times that somebody took away a table of nftables and it was loaded again.";
        text.several("table_restores_total", COUNTER, help, "table", &RESTORED, &self.restores);
        text.0
    }

    fn anything_waits(&self) -> bool {
        self.waiting.iter().any(|queue| queue.load(Relaxed) > 0)
    }
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // To a string that cannot fail.
        let _ = writeln!(self.0, "# HELP harden_portsentry_{name} {help}\n# TYPE harden_portsentry_{name} {kind}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "harden_portsentry_{name} {value}");
    }

    fn several(&mut self, name: &str, kind: &str, help: &str, label: &str, values: &[&str], counts: &[AtomicU64]) {
        self.head(name, kind, help);
        for (value, count) in values.iter().zip(counts) {
            let _ = writeln!(self.0, "harden_portsentry_{name}{{{label}=\"{value}\"}} {}", count.load(Relaxed));
        }
    }
}

/// The thread that writes the file.
pub struct Reporter {
    path: PathBuf,
    output: Output,
    thread: JoinHandle<()>,
}

impl Reporter {
    /// Writes `path` now, and again when something has changed. `table` has the kernel's counter of repeats.
    pub fn start(path: &Path, table: Option<String>, output: &Output) -> Reporter {
        *locked(&output.metrics().ending) = false;
        let mut file = File { path: path.to_owned(), failing: false };
        let spoken = output.clone();
        let thread = std::thread::spawn(move || {
            let metrics = spoken.metrics();
            let mut since = None;
            loop {
                let is_last = metrics.due(since);
                if let Some(Ok(count)) = table.as_ref().map(|table| counted_packets(table, REPEATS)) {
                    metrics.repeats(count);
                }
                if let Some(problem) = file.write(&metrics.text()) {
                    spoken.say(&problem);
                }
                if is_last {
                    return;
                }
                since = Some(Instant::now());
                // What waits now will not for ever, and then nobody may be there to say so.
                if metrics.anything_waits() {
                    metrics.touch();
                }
            }
        });
        Reporter { path: path.to_owned(), output: output.clone(), thread }
    }

    /// Which file it writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a last time, and ends.
    pub fn end(self) {
        let metrics = Arc::clone(self.output.metrics());
        *locked(&metrics.ending) = true;
        metrics.news.notify_all();
        join_soon(self.thread);
    }
}

struct File {
    path: PathBuf,
    failing: bool,
}

impl File {
    /// Writes it; the problem, the first time that there is one, in words.
    fn write(&mut self, text: &str) -> Option<String> {
        let done = replace(&self.path, text);
        let was_failing = std::mem::replace(&mut self.failing, done.is_err());
        let path = self.path.display();
        match done {
            Err(error) if !was_failing => {
                Some(format!("adminalert: ERROR: cannot write the metrics {path}: {error}; it is tried again"))
            }
            Ok(()) if was_failing => Some(format!("adminalert: the metrics {path} can be written again")),
            _ => None,
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The collector reads what ends with .prom.
    own_files::replace(path, &path.with_file_name(format!(".{name}.new")), text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::probe::{FIN, SYN};
    use super::*;

    #[test]
    fn the_text_has_every_count_with_its_type_and_its_value() {
        let metrics = Metrics::default();
        let mut turn = Turn { packets: 7, losses: 1, ..Turn::default() };
        for kind in [Kind::Tcp(SYN), Kind::Tcp(SYN), Kind::Tcp(FIN | SYN), Kind::Udp] {
            turn.scan(kind);
        }
        metrics.add(&turn, 3, 5);
        metrics.add(&Turn { packets: 1, ..Turn::default() }, 2, 4);
        metrics.block(Outcome::Blocked);
        metrics.block(Outcome::Limited);
        metrics.enter(Queue::Reactions);
        metrics.enter(Queue::Reactions);
        metrics.leave(Queue::Reactions, 1);
        metrics.ledger_fails(true);
        metrics.lines_lost(9);
        metrics.restored(Restored::Blocks);
        let text = metrics.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0")).collect();
        let of = |rest: &str| format!("harden_portsentry_{rest}");
        assert_eq!(
            lines,
            [
                "packets_total 8",
                "packet_losses_total 1",
                "scans_total{kind=\"syn\"} 2",
                "scans_total{kind=\"other\"} 1",
                "scans_total{kind=\"udp\"} 1",
                "blocks_total{outcome=\"blocked\"} 1",
                "blocks_total{outcome=\"limited\"} 1",
                "blocked_hosts 2",
                "lines_left_out 4",
                "lines_lost_total 9",
                "queue_length{queue=\"reactions\"} 1",
                "ledger_failing 1",
                "table_restores_total{table=\"blocks\"} 1",
            ]
            .map(of)
        );
        let kinds = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(kinds, text.lines().filter(|line| line.starts_with("# HELP ")).count());
        assert!(
            text.contains("# TYPE harden_portsentry_blocked_hosts gauge\nharden_portsentry_blocked_hosts 2\n"),
            "{text}"
        );
    }

    #[test]
    fn the_man_page_names_every_count_and_label() {
        let page = include_str!("../../templates/harden-portsentry-daemon.8");
        let list = page.split("packets_total ").nth(1).map_or("", |rest| rest.split(".fi").next().unwrap_or_default());
        let list = format!("packets_total {list}");
        for line in Metrics::default().text().lines().filter(|line| !line.starts_with('#')) {
            let (name, _) = line["harden_portsentry_".len()..].split_once(' ').unwrap();
            let (family, label) = name.trim_end_matches("\"}").split_once('{').unwrap_or((name, ""));
            let (label, value) = label.split_once("=\"").unwrap_or_default();
            let shown = if label.is_empty() { format!("{family} ") } else { format!("{family}{{{label}}} ") };
            let told = list.lines().find(|line| line.starts_with(&shown)).unwrap_or_else(|| panic!("{shown}"));
            assert!(told.contains(value), "{value}: {told}");
        }
    }

    /// The table, and the counter in it, may have been loaded anew in between.
    #[test]
    fn repeats_are_counted_over_all_tables() {
        let metrics = Metrics::default();
        assert_eq!([10, 15, 3].map(|count| metrics.repeats(count)), [10, 15, 18]);
        metrics.restored(Restored::Packets);
        assert_eq!(metrics.repeats(40), 58);
    }

    #[test]
    fn the_file_is_replaced_and_a_link_in_its_way_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("precious"), "kept").unwrap();
        std::os::unix::fs::symlink(at("precious"), at(".m.prom.new")).unwrap();
        std::os::unix::fs::symlink(at("precious"), at("m.prom")).unwrap();
        let mut file = File { path: at("m.prom"), failing: false };
        for text in ["first\n", "second\n"] {
            assert_eq!(file.write(text), None);
            assert_eq!(std::fs::read_to_string(at("m.prom")).unwrap(), text);
        }
        assert_eq!(std::fs::read_to_string(at("precious")).unwrap(), "kept");
        assert_eq!(std::fs::symlink_metadata(at("m.prom")).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        file.path = at("missing/m.prom");
        assert!(file.write("x").is_some_and(|said| said.contains("cannot write the metrics")));
        assert_eq!(file.write("x"), None, "once");
        std::fs::create_dir(at("missing")).unwrap();
        assert!(file.write("x").is_some_and(|said| said.contains("can be written again")));
    }
}

//! Long work, made visible: a live line on a terminal, one line when it ends elsewhere.

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use console::Term;

use crate::plan::Event;

/// Shows events on stderr.
pub struct Progress {
    quiet: bool,
    live: bool,
    running: Option<(Instant, Sender<()>, Option<JoinHandle<()>>)>,
}

impl Progress {
    /// Silent if `quiet`.
    pub fn new(quiet: bool) -> Progress {
        Progress { quiet, live: Term::stderr().is_term(), running: None }
    }

    /// Takes one event.
    pub fn show(&mut self, event: Event) {
        if self.quiet {
            return;
        }
        match event {
            Event::Begun(what) => {
                let (sender, receiver) = channel();
                let ticker = if self.live {
                    Some(std::thread::spawn(move || tick(&what, &receiver)))
                } else {
                    eprintln!("  {what}");
                    None
                };
                self.running = Some((Instant::now(), sender, ticker));
            }
            Event::Ended(what) => {
                let Some((start, sender, ticker)) = self.running.take() else { return };
                drop(sender);
                if let Some(ticker) = ticker {
                    let _ = ticker.join();
                }
                let seconds = start.elapsed().as_secs();
                if self.live {
                    eprintln!("  {what}: {seconds} s");
                } else if seconds > 0 {
                    eprintln!("  {what}: done after {seconds} s");
                }
            }
        }
    }
}

fn tick(what: &str, stop: &Receiver<()>) {
    let term = Term::stderr();
    let start = Instant::now();
    loop {
        let line = format!("  {what} … {} s", start.elapsed().as_secs());
        let _ = write!(&term, "\r{}", console::truncate_str(&line, 79, "…"));
        match stop.recv_timeout(Duration::from_secs(1)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
    }
    let _ = term.clear_line();
}

//! What `apply --confirm-within` does at a terminal once all is done: waits for Enter, or for `confirm` from elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use console::Term;
use rustix::termios::{QueueSelector, tcflush};

use crate::host::{Host, Lock, uptime};
use crate::plan::{Confirmation, Run, RunState, Runs};

use super::Exit;
use super::arguments::Common;
use super::confirm::{keep, take_back_unasked};

/// How long it may take, once the time is over, until it is taken back.
const BACK_WITHIN: Duration = Duration::from_secs(600);

/// Waits until `run` is confirmed or taken back. `stop` is set by Ctrl-C.
///
/// # Errors
/// It was not confirmed.
pub fn for_confirmation(common: &Common, host: &Host, run: &Run, stop: &AtomicBool, done: Exit) -> Result<Exit> {
    let number = run.number;
    let term = Term::stderr();
    let lines = typed();
    let mut over: Option<Instant> = None;
    loop {
        let run = run.read_again()?;
        let left = run.confirmation().time_left(uptime());
        match settled(&run) {
            Some(true) => {
                let _ = term.clear_line();
                eprintln!("Run {number} is confirmed and stays.");
                return Ok(done);
            }
            Some(false) => {
                let _ = term.clear_line();
                bail!("{}", why_it_went(&run));
            }
            None => {}
        }
        if stop.load(Ordering::Relaxed) {
            let _ = term.clear_line();
            eprintln!("Interrupted; run {number} is taken back.");
            let back = undo(common, host, number)?;
            return Ok(if back == Exit::Good { Exit::Interrupted } else { back });
        }
        let line = match left {
            Some(left) => {
                format!("Enter keeps it; it is taken back in {} s, or by Ctrl-C at once.", left.as_secs() + 1)
            }
            None => format!("Nobody confirmed it in time: run {number} is being taken back …"),
        };
        let _ = write!(&term, "\r{}", console::truncate_str(&line, 79, "…"));
        if left.is_none() && over.get_or_insert_with(Instant::now).elapsed() > BACK_WITHIN {
            bail!(
                "run {number} was not confirmed in time, and is still not taken back: `systemctl status harden-portsentry-confirm` says why, `harden-portsentry undo` does it by hand"
            );
        }
        match lines.recv_timeout(Duration::from_millis(250)) {
            Ok(line) if line.trim().is_empty() => match keep(host) {
                Ok(_) => {}
                Err(error) => eprintln!("\n{error:#}"),
            },
            Ok(_) => eprintln!("Enter alone keeps it."),
            Err(RecvTimeoutError::Timeout) => {}
            // The terminal is gone; the timer is not.
            Err(RecvTimeoutError::Disconnected) => bail!("nobody is there any more to confirm run {number}"),
        }
    }
}

/// The lines that are typed from now on: what was typed while the changes were made was meant for nobody.
fn typed() -> Receiver<String> {
    let (sender, receiver) = channel();
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let _ = tcflush(&stdin, QueueSelector::IFlush);
    }
    std::thread::spawn(move || {
        for line in stdin.lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Whether it stays; `None` while that is open.
fn settled(run: &Run) -> Option<bool> {
    match (run.state(), run.confirmation()) {
        (RunState::Undone, _) => Some(false),
        (_, Confirmation::Given | Confirmation::Unasked) => Some(true),
        (_, Confirmation::Awaited { .. } | Confirmation::Missed) => None,
    }
}

fn why_it_went(run: &Run) -> String {
    let number = run.number;
    match run.confirmation() {
        Confirmation::Missed => {
            format!("nobody confirmed run {number} in time, and it was taken back: this host is as it was before")
        }
        _ => format!("run {number} was taken back by somebody else"),
    }
}

fn undo(common: &Common, host: &Host, number: u32) -> Result<Exit> {
    let _lock = Lock::take(host, "undo", |holder| eprintln!("waiting for {holder} to finish with this host"))?;
    take_back_unasked(common, host, &Runs::read(host)?, number)
}

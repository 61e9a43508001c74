//! The command line: what can be typed, and which exit status comes of it.

mod apply;
mod arguments;
mod blocks;
mod confirm;
mod daemon;
mod diff;
mod hand_over;
mod init;
mod man;
mod progress;
mod runs;
mod session;
mod undo;
mod verify;
mod wait;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::FromArgMatches;

use crate::daemon::keep;
use crate::daemon::responder::serve;
use crate::host::Host;
use crate::report::Report;

pub use arguments::command;
use arguments::{Arguments, Command, Format, Responder};

/// What a command ended with; the numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// As desired, all checks hold, done.
    Good = 0,
    /// Something went wrong, or was refused.
    Error = 1,
    /// diff: there are changes. verify: a check fails.
    Found = 2,
    /// apply: applied, but verify found something.
    AppliedWithFindings = 3,
    /// A mistyped command line (EX_USAGE of sysexits.h).
    Usage = 64,
    /// Ctrl-C at a question.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Somebody answered no.
#[derive(Debug, thiserror::Error)]
#[error("nothing was changed")]
struct Declined;

/// Runs the command that `words` (the program's name first) ask for.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    if let Some(behind) = daemon::asked_for(&words) {
        return daemon::main(&behind, &words);
    }
    if let Some(exit) = hand_over::answered(&words) {
        return exit.into();
    }
    let parsed = command().try_get_matches_from(words);
    let arguments = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, and are no error.
            let usage = error.use_stderr();
            let _ = error.print();
            return if usage { Exit::Usage.into() } else { Exit::Good.into() };
        }
    };
    arguments.common.color.apply();
    // What is written and installed has the modes that it is given, not what root's shell leaves of them: the watcher, who
    // is not root, has to reach its files.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // A Ctrl-C ends the program while nothing is being changed; apply and undo then take the signal over.
    let may_end = Arc::new(AtomicBool::new(true));
    // That takes a thread, and whoever gives up rights must not have another one, which would keep them.
    if !matches!(arguments.command, Command::Responder(_) | Command::Keep) {
        end_on_interrupt(Arc::clone(&may_end));
    }
    let common = &arguments.common;
    let (name, result) = match &arguments.command {
        Command::Diff(_) => ("diff", diff::run(common)),
        Command::Apply(options) => ("apply", apply::run(common, options, &may_end)),
        Command::Confirm => ("confirm", confirm::run(common)),
        Command::Expire => ("expire", confirm::expire(common)),
        Command::Verify(options) => ("verify", verify::run(common, options)),
        Command::Undo(options) => ("undo", undo::run(common, options, &may_end)),
        Command::Runs => ("runs", runs::run(common)),
        Command::Block(options) => ("block", blocks::block(common, options)),
        Command::Unblock(options) => ("unblock", blocks::unblock(common, options)),
        Command::Blocked => ("blocked", blocks::list(common)),
        Command::Restore => ("restore", blocks::restore(common)),
        Command::Init(options) => ("init", init::run(common, options)),
        // Its words are portsentry's, and were taken above.
        Command::Daemon { .. } => ("daemon", Ok(Exit::Usage)),
        Command::Unload => ("unload", blocks::unload(common)),
        Command::Keep => ("keep", keep().map(|()| Exit::Good)),
        Command::Responder(which) => ("responder", respond(which).map(|()| Exit::Good)),
        Command::Man { directory } => ("man", man::run(directory)),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            let interrupted = error.chain().any(is_interrupt);
            if interrupted {
                say_interrupted();
                return Exit::Interrupted.into();
            }
            if common.format == Format::Json {
                print!("{}", Report::error(name, &common.root.display().to_string(), format!("{error:#}")).to_json());
            }
            eprintln!("harden-portsentry: {error:#}");
            Exit::Error.into()
        }
    }
}

fn respond(which: &Responder) -> Result<()> {
    match which {
        Responder::Commands { conf, connect, stay } => {
            serve::commands(&serve::CommandServer { conf: conf.clone(), connects: *connect }, *stay)
        }
        Responder::Names { stay } => serve::names(*stay),
    }
}

/// How long a question has to end by itself after a Ctrl-C, which it hears as well.
const QUESTION_ENDS: Duration = Duration::from_millis(300);

/// Ends the program on Ctrl-C while `may_end` is set.
fn end_on_interrupt(may_end: Arc<AtomicBool>) {
    let Ok(mut signals) = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT]) else { return };
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if may_end.load(Ordering::Relaxed) {
                std::thread::sleep(QUESTION_ENDS);
                say_interrupted();
                std::process::exit(Exit::Interrupted as i32);
            }
        }
    });
}

/// Whether an error is a question's answer to Ctrl-C.
fn is_interrupt(cause: &(dyn std::error::Error + 'static)) -> bool {
    let asked = cause.downcast_ref::<dialoguer::Error>().map(|dialoguer::Error::IO(error)| error);
    let error = asked.or_else(|| cause.downcast_ref::<std::io::Error>());
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::Interrupted)
}

/// The last words after a Ctrl-C, with the cursor back that a question had hidden.
fn say_interrupted() {
    let _ = console::Term::stderr().show_cursor();
    eprintln!("\nInterrupted; nothing was changed.");
}

/// Prints without a panic when the reader is gone (`diff | head`).
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Whether a person can be asked.
fn attended() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Changing, and even looking at, the running system takes root: its packet filter answers nobody else.
fn demand_root(host: &Host) -> Result<()> {
    if host.is_live() && !rustix::process::geteuid().is_root() {
        bail!("this needs root for the running system; run it with sudo, or give --root DIR for an image");
    }
    Ok(())
}

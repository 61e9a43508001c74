//! `undo`: show what goes back, ask once, do it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dialoguer::Confirm;

use crate::blocks::{self, Busy};
use crate::host::{Host, Lock};
use crate::plan::{Runs, Undo, UndoOutcome};
use crate::report::{Page, unified};

use super::arguments::{Common, Format, UndoOptions};
use super::progress::Progress;
use super::{Declined, Exit, attended, demand_root, print};

/// How long whoever keeps the blocks may take to end.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

pub fn run(common: &Common, options: &UndoOptions, may_end: &AtomicBool) -> Result<Exit> {
    common.refuse_junit()?;
    let host = Host::new(&common.root)?;
    demand_root(&host)?;
    let runs = Runs::read(&host)?;
    let undo = Undo::plan(&host, &runs, options.run)?;
    let text = common.format == Format::Text;
    if text && !common.quiet {
        print(shown(&undo, options, host.is_live()).text());
    }
    if !undo.edited().is_empty() && !options.force {
        let paths: Vec<String> = undo.edited().iter().map(|one| one.path.display().to_string()).collect();
        bail!(
            "edited after apply: {}; nothing was changed. --force overwrites these edits with what was there before apply",
            paths.join(", ")
        );
    }
    let purge = options.purge_packages || consent(common, options, &undo)?;
    if purge {
        undo.check_purge()?;
    }
    let _lock = Lock::take(&host, "undo", |holder| eprintln!("waiting for {holder} to finish with this host"))?;
    if Runs::read(&host)?.0.iter().map(|run| run.state()).ne(runs.0.iter().map(|run| run.state())) {
        bail!("this host was changed while undo was waiting; run it again");
    }
    may_end.store(false, Ordering::Relaxed);
    take_back(common, &host, undo, options.force, purge)
}

/// Does it, and says so. Once it is done, nothing waits any more to be confirmed.
pub fn take_back(common: &Common, host: &Host, undo: Undo, force: bool, purge: bool) -> Result<Exit> {
    let mut progress = Progress::new(common.quiet || common.format != Format::Text);
    let numbers = undo.numbers();
    let packages_stay = !purge && !undo.packages().is_empty();
    let outcome = undo.carry_out(force, purge, end_blocks, &mut |event| progress.show(event))?;
    tell(common, &numbers, &outcome, packages_stay);
    if !outcome.problems.is_empty() {
        return Ok(Exit::Error);
    }
    if Runs::read(host)?.unconfirmed().is_none() {
        host.disarm()?;
    }
    Ok(Exit::Good)
}

/// Frees everybody and forgets all of them. A daemon that was told to end, and who blocks by hand just now, are waited for.
///
/// # Errors
/// A daemon runs on, the kernel refuses, or a file cannot be removed.
pub fn end_blocks() -> Result<()> {
    let start = Instant::now();
    loop {
        match blocks::end() {
            Err(error) if error.is::<Busy>() && start.elapsed() < BUSY_LIMIT => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

fn shown(undo: &Undo, options: &UndoOptions, is_live: bool) -> Page {
    let mut page = Page::new();
    let numbers: Vec<String> = undo.numbers().iter().map(u32::to_string).collect();
    page.line(format!("Taking back run {}", numbers.join(", ")));
    page.line("");
    let edited = |path: &std::path::Path| undo.edited().iter().any(|one| one.path == path);
    for file in undo.files().iter().filter(|file| !edited(&file.path)) {
        page.file(file);
    }
    for one in undo.edited() {
        page.wrapped("  edited      ", &format!("{}, after apply, by somebody:", one.path.display()));
        for line in unified(&one.path, one.applied.as_deref(), one.now.as_deref()).lines() {
            page.line(format!("    {line}"));
        }
    }
    let blocked = if undo.is_complete() && is_live { blocks::look().map_or(0, |listed| listed.len()) } else { 0 };
    if blocked > 0 {
        let hosts = if blocked == 1 { "one host that is".to_owned() } else { format!("{blocked} hosts that are") };
        page.wrapped("  blocks      ", &format!("free {hosts} blocked, and forget them"));
    }
    for rule in undo.rules() {
        page.wrapped("  rule        ", &format!("delete {rule}"));
    }
    for (unit, state) in undo.services(options.purge_packages) {
        page.wrapped("  service     ", &format!("{unit}: {state}"));
    }
    if !undo.packages().is_empty() {
        let verb = if options.purge_packages { "purge" } else { "stay" };
        page.wrapped(
            &format!("  {verb:<12}"),
            &format!(
                "{}{}",
                undo.packages().join(" "),
                if options.purge_packages { "" } else { "   (--purge-packages purges them)" }
            ),
        );
    }
    page
}

/// Whether the packages are to go as well; an error where the answer is no, or nobody is there to give one.
fn consent(common: &Common, options: &UndoOptions, undo: &Undo) -> Result<bool> {
    if options.yes {
        return Ok(false);
    }
    if common.format == Format::Json || !attended() {
        bail!("there is nobody to ask (no terminal): give --yes to undo. Nothing was changed");
    }
    if !Confirm::new().with_prompt("Take this back?").default(false).interact()? {
        return Err(Declined.into());
    }
    if undo.packages().is_empty() {
        return Ok(false);
    }
    Ok(Confirm::new()
        .with_prompt(format!("Purge the {} packages that came with it, too?", undo.packages().len()))
        .default(false)
        .interact()?)
}

fn tell(common: &Common, numbers: &[u32], outcome: &UndoOutcome, packages_stay: bool) {
    if common.format == Format::Json {
        let report = serde_json::json!({
            "schema": "harden-portsentry/undo/1",
            "runs": numbers,
            "files": outcome.files,
            "rules": outcome.rules,
            "services": outcome.services,
            "purged": outcome.purged,
            "problems": outcome.problems,
        });
        print(&format!("{report:#}\n"));
    } else if !common.quiet {
        let mut page = Page::new();
        page.wrapped("  restored    ", &format!("{} files", outcome.files));
        if outcome.rules > 0 {
            page.wrapped("  unblocked   ", &format!("{} firewall rules deleted", outcome.rules));
        }
        if !outcome.services.is_empty() {
            page.wrapped("  services    ", &format!("{}, as before", outcome.services.join(" ")));
        }
        if !outcome.purged.is_empty() {
            page.wrapped("  purged      ", &outcome.purged.join(" "));
        }
        if outcome.problems.is_empty() {
            page.line(if packages_stay {
                "This host is as it was before, but for the packages, which stay."
            } else {
                "This host is as it was before."
            });
        }
        print(page.text());
    }
    for problem in &outcome.problems {
        eprintln!("harden-portsentry: {problem}");
    }
}

//! `confirm`: what `apply --confirm-within` did stays. `expire`: nobody said so.

use anyhow::{Result, bail};

use crate::host::{Host, Lock, ServiceManager, local, uptime};
use crate::plan::{Confirmation, Run, RunState, Runs, Undo};

use super::arguments::{Common, Format};
use super::undo::take_back;
use super::{Exit, demand_root, print};

/// `confirm`.
pub fn run(common: &Common) -> Result<Exit> {
    common.refuse_junit()?;
    let host = Host::new(&common.root)?;
    demand_root(&host)?;
    let (number, already) = keep(&host)?;
    if common.format == Format::Json {
        let report = serde_json::json!({ "schema": "harden-portsentry/confirm/1", "run": number, "already": already });
        print(&format!("{report:#}\n"));
    } else if !common.quiet {
        let is = if already { "was confirmed already" } else { "is confirmed and stays" };
        print(&format!("Run {number} {is}. Take it back with: {}\n", host.command_line("undo")));
    }
    Ok(Exit::Good)
}

/// Confirms the run that waits for it: its number, and whether it was confirmed before.
///
/// # Errors
/// There is none, it is too late, or it is half an apply.
pub fn keep(host: &Host) -> Result<(u32, bool)> {
    // Whoever has nothing to confirm writes nothing, not even a lock.
    if Runs::read(host)?.unconfirmed().is_none() {
        return without_one(&Runs::read(host)?);
    }
    let _lock = Lock::take(host, "confirm", |holder| eprintln!("waiting for {holder} to finish with this host"))?;
    let runs = Runs::read(host)?;
    let Some(run) = runs.unconfirmed() else { return without_one(&runs) };
    if run.confirmation().time_left(uptime()).is_none() {
        bail!("run {} was not confirmed in time, and is being taken back; it is too late to keep it", run.number);
    }
    if run.state() == RunState::Unfinished {
        bail!(
            "run {} was cut short, and half an apply is nothing to keep: {}; `{}` does it at once",
            run.number,
            taken_back_at(run),
            host.command_line("undo")
        );
    }
    run.confirm()?;
    host.disarm()?;
    Ok((run.number, false))
}

/// Nothing waits: it was confirmed before, taken back, or never asked for.
fn without_one(runs: &Runs) -> Result<(u32, bool)> {
    let Some(run) = runs.0.iter().rev().find(|run| run.confirmation() != Confirmation::Unasked) else {
        bail!("nothing waits to be confirmed: only `apply --confirm-within TIME` asks for it");
    };
    let number = run.number;
    match (run.confirmation(), run.state()) {
        (Confirmation::Given, RunState::Applied) => Ok((number, true)),
        (Confirmation::Missed, _) => bail!(
            "run {number} was not confirmed in time and was taken back: it is too late. `harden-portsentry apply` does it again"
        ),
        (_, RunState::Undone) => bail!("nothing waits to be confirmed: run {number} was taken back"),
        _ => bail!("nothing waits to be confirmed"),
    }
}

/// When a run that waits is taken back, in words.
pub fn taken_back_at(run: &Run) -> String {
    match run.confirm_by() {
        Some(until) => format!("it is taken back at {}", local(until)),
        None => "it is being taken back".to_owned(),
    }
}

/// Refuses where nothing would take back what nobody confirms.
///
/// # Errors
/// Says why, and what to do instead.
pub fn demand_timer(host: &Host) -> Result<()> {
    if !host.is_live() {
        bail!(
            "--confirm-within is for the running system: nothing is started in {}, and so it locks nobody out; leave it out",
            host.root().display()
        );
    }
    if host.service_manager() != ServiceManager::Systemd {
        bail!(
            "--confirm-within needs systemd, whose timer takes back what nobody confirms, and here process 1 is something else; \
             nothing was changed. Leave it out, and keep a session open in which `harden-portsentry undo` can be typed"
        );
    }
    Ok(())
}

/// Refuses while an earlier run waits: what is done on top of it would be taken back with it.
///
/// # Errors
/// Names the run and both ways out.
pub fn demand_settled(host: &Host, runs: &Runs) -> Result<()> {
    let Some(run) = runs.unconfirmed() else { return Ok(()) };
    let (number, when, undo) = (run.number, taken_back_at(run), host.command_line("undo"));
    if run.confirmation() == Confirmation::Missed {
        bail!(
            "run {number} was not confirmed in time and is not taken back yet: `systemctl status harden-portsentry-confirm` says what it waits for, `{undo}` does it by hand; nothing was changed by this one"
        );
    }
    if run.state() == RunState::Unfinished {
        bail!(
            "run {number} was cut short before anybody could confirm it: {when}, or by `{undo}` at once; nothing was changed by this one"
        );
    }
    bail!(
        "run {number} waits to be confirmed: {when}, and what is applied now would be taken back with it. Type `{}` to keep it, or `{undo}`, and then apply again; nothing was changed by this one",
        host.command_line("confirm")
    );
}

/// `expire`, which the timer starts, and a boot: takes back what nobody confirmed.
///
/// Whoever changes this host just now is waited for, and may have given more time meanwhile.
pub fn expire(common: &Common) -> Result<Exit> {
    let host = Host::new(&common.root)?;
    demand_root(&host)?;
    let _lock = Lock::take(&host, "undo", |holder| eprintln!("waiting for {holder} to finish with this host"))?;
    let runs = Runs::read(&host)?;
    let Some(run) = runs.unconfirmed() else {
        host.disarm()?;
        return Ok(Exit::Good);
    };
    // Without its timer this was started by a boot, after which nobody waits any more.
    if run.confirmation().time_left(uptime()).is_some() && host.is_armed() {
        host.rearm()?;
        return Ok(Exit::Good);
    }
    run.miss()?;
    take_back_unasked(common, &host, &runs, run.number)
}

/// Takes back run `number` whole, what was edited since included, of which a copy is kept: nobody is asked, and half an undo
/// may be what locks out.
pub fn take_back_unasked(common: &Common, host: &Host, runs: &Runs, number: u32) -> Result<Exit> {
    let undo = Undo::plan(host, runs, Some(number))?;
    for kept in undo.keep_edits()? {
        eprintln!("harden-portsentry: {kept}");
    }
    take_back(common, host, undo, true, false)
}

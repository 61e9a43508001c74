//! `apply`: show, ask once, do, verify.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use dialoguer::Confirm;

use crate::article::{BUILT_IGNORE_LIST, Described, HOSTS_DENY, describe, ends_blocks, is_safe, leaves, safe_networks};
use crate::blocks::{self, end_metrics};
use crate::checks::{self, Outcome};
use crate::host::{EMBEDDED_USER, Facts, Generation, Host, Lock, ServiceManager, age, local, ssh_clients};
use crate::plan::{Execution, FileChange, FileKind, Plan, Run, RunState, Runs, Stopped, UnitAction, execute};
use crate::report::{AppliedReport, Page, Report, ago};
use crate::settings::Settings;

use super::arguments::{ApplyOptions, Common, Format};
use super::blocks::{follow_the_ledger, take_over};
use super::confirm::{demand_settled, demand_timer, taken_back_at};
use super::progress::Progress;
use super::session::{Session, settings};
use super::undo::end_blocks;
use super::{Declined, Exit, attended, print, wait};

pub fn run(common: &Common, options: &ApplyOptions, may_end: &AtomicBool) -> Result<Exit> {
    common.refuse_junit()?;
    if options.confirm_within.is_some() {
        demand_timer(&Host::new(&common.root)?)?;
    }
    let session = Session::open(common, !options.yes && common.format == Format::Text)?;
    let described = describe(&session.host, &session.settings, &session.facts)?;
    let runs = Runs::read(&session.host)?;
    if described.plan.is_empty() {
        // A run that was killed between its last change and its last word is ended here; that is a write.
        let unfinished = to_be_ended(&runs).is_some();
        let _lock = unfinished.then(|| lock(&session.host)).transpose()?;
        return nothing_to_do(common, &session, &described, &Runs::read(&session.host)?);
    }
    demand_settled(&session.host, &runs)?;
    if common.format == Format::Text && !common.quiet {
        let mut page = Page::new();
        page.host(&described, &session.host);
        page.settings(&described, common.verbose);
        page.plan(&described.plan, common.verbose);
        page.totals(&described.plan);
        if let Some(last) = runs.0.last().filter(|run| run.state() == RunState::Unfinished) {
            page.line(format!("Run {} was cut short {}; this goes on with it.", last.number, ago(last.started())));
        }
        if let Some(within) = options.confirm_within {
            let within = age(within.as_secs_f64());
            page.line(format!(
                "All of it is taken back by itself, unless it is confirmed within {within} of being done."
            ));
        }
        print(page.text());
    }
    consent(common, options, &session)?;
    let held = lock(&session.host)?;
    may_end.store(false, Ordering::Relaxed);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch for Ctrl-C")?;
    }
    // Whoever held the lock may have changed the host since it was looked at.
    let facts = Facts::read(&session.host)?;
    let now = describe(&session.host, &session.settings, &facts)?;
    if now.plan.is_empty() {
        return nothing_to_do(common, &session, &now, &Runs::read(&session.host)?);
    }
    demand_settled(&session.host, &Runs::read(&session.host)?)?;
    if now.plan.files() != described.plan.files() || now.plan.units() != described.plan.units() {
        bail!("this host was changed while apply was waiting; nothing was changed by this one, run it again");
    }
    let applied = carry_out(common, options, &session, &now, &stop).and_then(|done| {
        let run = done.run.clone();
        Ok((run, report(common, options, &session, &described, done)?))
    });
    drop(held);
    let (run, exit) = applied.map_err(|error| with_its_end(error, &session.host))?;
    if options.confirm_within.is_some() && common.format == Format::Text && attended() {
        return wait::for_confirmation(common, &session.host, &run, &stop, exit);
    }
    Ok(exit)
}

/// The error that an apply ended with, and what becomes of what it did, where somebody was to confirm that.
fn with_its_end(error: anyhow::Error, host: &Host) -> anyhow::Error {
    let runs = Runs::read(host).ok();
    let Some(run) = runs.as_ref().and_then(Runs::unconfirmed) else { return error };
    let (number, when, undo) = (run.number, taken_back_at(run), host.command_line("undo"));
    if error.is::<Stopped>() {
        return anyhow!(
            "stopped between two steps, as asked; run {number} cannot be confirmed: {when}, or by `{undo}`"
        );
    }
    anyhow!("{error:#}\nRun {number} is not confirmed: {when}, or by `{undo}`")
}

/// The run that was killed and that this apply ends; none that is taken back by itself.
fn to_be_ended(runs: &Runs) -> Option<&Run> {
    runs.last_in_force().filter(|run| run.state() == RunState::Unfinished && runs.unconfirmed().is_none())
}

fn lock(host: &Host) -> Result<Lock> {
    Lock::take(host, "apply", |holder| eprintln!("waiting for {holder} to finish with this host"))
}

/// Second time, nothing: no write, no restart, no question.
fn nothing_to_do(common: &Common, session: &Session, described: &Described, runs: &Runs) -> Result<Exit> {
    let mut last = runs.last_in_force().cloned();
    let waits = runs.unconfirmed();
    if to_be_ended(runs).is_some() {
        // Everything was done, and then the run was killed before it could say so.
        let stop = AtomicBool::new(false);
        let run = runs.next(&session.host);
        execute(&session.host, &run, &stop, &mut |_| {})?.finish()?;
        last = Some(run);
    }
    if common.format == Format::Json {
        let confirm_by = waits.and_then(Run::confirm_by).map(|until| until.to_string());
        let applied = AppliedReport { run: last.map(|run| run.number), confirm_by, ..AppliedReport::default() };
        print(&Report::new("apply", &session.host, described).applied(applied).to_json());
    } else if !common.quiet {
        let mut page = Page::new();
        page.plan(&described.plan, common.verbose);
        if !page.text().is_empty() {
            page.line("");
        }
        let when =
            last.map_or(String::new(), |run| format!(" Last apply: run {}, {}.", run.number, ago(run.started())));
        page.line(format!("Nothing to change: this host is as described.{when}"));
        if let Some(run) = waits {
            let confirm = session.host.command_line("confirm");
            page.line(format!(
                "Run {} is not confirmed: {}, unless you type: {confirm}",
                run.number,
                taken_back_at(run)
            ));
        }
        print(page.text());
    }
    Ok(Exit::Good)
}

fn consent(common: &Common, options: &ApplyOptions, session: &Session) -> Result<()> {
    let wide = session.settings.wide_lan_to_confirm(&session.flags)?;
    if options.yes {
        if let Some(why) = wide {
            bail!(
                "{why}; --yes alone does not cover that: add --accept-wide-lan if every host in it may scan this one, or correct LAN_NM. Nothing was changed"
            );
        }
        return Ok(());
    }
    if common.format == Format::Json || !attended() {
        bail!(
            "there is nobody to ask (no terminal): give --yes to apply what `{}` shows. Nothing was changed",
            session.host.command_line("diff")
        );
    }
    if let Some(why) = wide
        && !Confirm::new().with_prompt(format!("{why}. Trust every host in it?")).default(false).interact()?
    {
        return Err(Declined.into());
    }
    let by_ssh =
        session.host.is_live() && session.facts.manager == ServiceManager::Systemd && !ssh_clients().is_empty();
    if by_ssh && options.confirm_within.is_none() {
        eprintln!("You are here by ssh: `apply --confirm-within 60s` takes it back by itself, should it lock you out.");
    }
    if !Confirm::new().with_prompt("Apply this?").default(false).interact()? {
        return Err(Declined.into());
    }
    Ok(())
}

/// What carrying out ended with.
struct Done {
    run: Run,
    facts: Facts,
    settings: Settings,
    applied: AppliedReport,
}

fn carry_out(
    common: &Common,
    options: &ApplyOptions,
    session: &Session,
    shown: &Described,
    stop: &AtomicBool,
) -> Result<Done> {
    let host = &session.host;
    let described = shown;
    let run = Runs::read(host)?.next(host);
    let mut applied = AppliedReport { run: Some(run.number), ..AppliedReport::default() };
    let mut progress = Progress::new(common.quiet || common.format == Format::Json);
    let mut tell = |event| progress.show(event);
    if let Some(within) = options.confirm_within {
        host.arm(within)?;
    }
    let mut execution = execute(host, &run, stop, &mut tell)?;
    if let Some(within) = options.confirm_within {
        execution.await_confirmation(within)?;
    }
    if let Some(program) = described.plan.program() {
        execution.program(program)?;
        applied.files = 1;
    }
    let packages: Vec<_> = described.plan.packages().cloned().collect();
    for change in &packages {
        applied.installed = execution.packages(change)?;
    }
    // The packages brought files, units and processes: look again, and do what is left to do.
    let facts = if packages.is_empty() { shown.context.facts.clone() } else { Facts::read(host)? };
    let settings = settings(host, &facts, &session.flags, false)?;
    let described = describe(host, &settings, &facts)?;
    if !packages.is_empty() {
        tell_differences(common, &shown.plan, &described.plan);
    }
    write_and_restart(&mut execution, &described, &facts, &mut applied)?;
    execution.finish()?;
    let up_within = Duration::from_secs(20);
    checks::settle(&described.context, up_within);
    // fail2ban brings back bans whose blocks are over. What cannot be lifted the checks say.
    let _ = host.unban_others(blocks::blocked);
    drop(described);
    // Looked at afresh: what was confirmed just now stands in policy.toml by now.
    let facts = Facts::read(host)?;
    let settings = self::settings(host, &facts, &session.flags, false)?;
    Ok(Done { run, facts, settings, applied })
}

fn write_and_restart(
    execution: &mut Execution,
    described: &Described,
    facts: &Facts,
    applied: &mut AppliedReport,
) -> Result<()> {
    let plan = &described.plan;
    let Some(generation) = described.context.generation.filter(|_| plan.packages().next().is_none()) else {
        bail!(
            "the packages are still not as they should be after the installation; run `harden-portsentry diff` to see what is missing"
        );
    };
    let observed = [(Path::new(HOSTS_DENY), FileKind::Blocks), (Path::new(BUILT_IGNORE_LIST), FileKind::Generated)];
    // Only 1.2 has a builder: elsewhere the list is edited itself.
    let observed = if generation.is_1_2() { &observed[..] } else { &observed[..1] };
    execution.observe(observed, Path::new(generation.history()))?;
    let units = plan.units();
    // How a unit is stopped stands in its file, which may go.
    let (stops, others): (Vec<_>, Vec<_>) = units.iter().cloned().partition(|unit| unit.action == UnitAction::Stop);
    execution.units(&stops, facts)?;
    if described.context.host.is_live() {
        end_embedded(described)?;
    }
    let moved = plan.blocks();
    if !moved.is_empty() {
        // What says how they are blocked first, and then they, for the lines and the jail that say who they are go with the rest.
        execution.files_of(plan, &[blocks::CONF, Generation::Embedded.conf()])?;
        let safe = safe_networks(&described.context);
        for why in take_over(described.context.host, &moved, |address| is_safe(&safe, address))? {
            eprintln!("harden-portsentry: {why}");
        }
    }
    execution.files(plan)?;
    execution.units(&others, facts)?;
    if plan.mends_lists() {
        follow_the_ledger(described.context.host, described.context.package())?;
    }
    applied.files += plan.files().len();
    let services: std::collections::BTreeSet<_> = units.into_iter().map(|change| change.unit).collect();
    applied.services = services.into_iter().collect();
    Ok(())
}

/// Frees whom the built-in portsentry blocked, once it no longer blocks by itself, and removes its user where it goes. Before
/// its files: whether it is to be done is read off these.
fn end_embedded(described: &Described) -> Result<()> {
    let host = described.context.host;
    if ends_blocks(&described.plan) {
        host.release_bans();
        end_blocks()?;
    }
    if leaves(&described.plan) {
        end_metrics()?;
        host.remove_user(EMBEDDED_USER)?;
    }
    Ok(())
}

/// The diff is the truth; where the packages turned out otherwise than their archives said, say so.
fn tell_differences(common: &Common, shown: &Plan, real: &Plan) {
    if common.quiet || common.format == Format::Json {
        return;
    }
    let known: Vec<FileChange> = shown.files();
    let other: Vec<FileChange> = real
        .files()
        .into_iter()
        .filter(|file| !known.iter().any(|old| old.path == file.path && old.after == file.after))
        .collect();
    if other.is_empty() {
        return;
    }
    let mut page = Page::new();
    page.line("Known only now that the packages are there:");
    for file in &other {
        page.file(file);
    }
    print(page.text());
}

fn report(
    common: &Common,
    options: &ApplyOptions,
    session: &Session,
    shown: &Described,
    mut done: Done,
) -> Result<Exit> {
    let host: &Host = &session.host;
    let described = describe(host, &done.settings, &done.facts)?;
    let found = checks::run(&described)?;
    let failed = found.iter().any(|check| check.outcome == Outcome::Fail);
    if let Some(within) = options.confirm_within {
        // Only now is there something to confirm: all of the time begins.
        done.run.await_confirmation(within)?;
        host.rearm()?;
        done.run = done.run.read_again()?;
    }
    let until = done.run.confirm_by();
    done.applied.confirm_by = until.map(|until| until.to_string());
    if common.format == Format::Json {
        print(&Report::new("apply", host, shown).applied(done.applied).checks(found).to_json());
    } else {
        let mut page = Page::new();
        if !common.quiet {
            let run = done.applied.run.unwrap_or_default();
            page.line("");
            if !done.applied.installed.is_empty() {
                page.wrapped("  installed   ", &done.applied.installed.join(" "));
            }
            page.wrapped(
                "  written     ",
                &format!("{} files; originals in /var/lib/harden-portsentry/runs/{run}", done.applied.files),
            );
            if !done.applied.services.is_empty() {
                page.wrapped("  services    ", &done.applied.services.join(" "));
            }
            page.line("");
        }
        page.checks(&found, common.quiet, false);
        if let Some(until) = until.filter(|_| !common.quiet) {
            page.line(format!(
                "Run {} is taken back at {}, unless you confirm it by then:",
                done.run.number,
                local(until)
            ));
            page.line(format!("  {}", host.command_line("confirm")));
        } else if !failed && !common.quiet {
            let undo = host.command_line("undo");
            let context = &described.context;
            let runs = context.generation.is_some_and(|one| context.facts.daemons(one).next().is_some());
            if host.is_live() && runs {
                page.line(format!("This host now blocks port scans. Take it back with: {undo}"));
            } else {
                page.line(format!("Prepared; it blocks port scans once it is started. Take it back with: {undo}"));
            }
        }
        print(page.text());
    }
    Ok(if failed { Exit::AppliedWithFindings } else { Exit::Good })
}

//! `runs`: the applies of this machine.

use anyhow::Result;

use crate::host::{Host, local};
use crate::plan::{Confirmation, Record, Run, RunState, Runs};
use crate::report::{Page, ago};

use super::arguments::{Common, Format};
use super::{Exit, demand_root, print};

pub fn run(common: &Common) -> Result<Exit> {
    common.refuse_junit()?;
    let host = Host::new(&common.root)?;
    demand_root(&host)?;
    let runs = Runs::read(&host)?;
    if common.format == Format::Json {
        let rows: Vec<serde_json::Value> = runs.0.iter().map(json).collect();
        print(&format!("{:#}\n", serde_json::json!({ "schema": "harden-portsentry/runs/1", "runs": rows })));
        return Ok(Exit::Good);
    }
    let mut page = Page::new();
    if runs.0.is_empty() {
        page.line("No apply of this machine yet.");
    }
    for run in &runs.0 {
        let when = if common.verbose { run.started().to_owned() } else { ago(run.started()) };
        page.wrapped(&format!("  run {:<8}", run.number), &format!("{when}: {}; {}", state(run), what(run)));
    }
    print(page.text());
    Ok(Exit::Good)
}

fn state(run: &Run) -> String {
    let state = match (run.state(), run.confirmation()) {
        (RunState::Undone, Confirmation::Missed) => "taken back, for nobody confirmed it",
        (RunState::Undone, _) => "taken back",
        (_, Confirmation::Missed) => "being taken back, for nobody confirmed it",
        (RunState::Applied, Confirmation::Awaited { until, .. }) => {
            return format!("applied, waits to be confirmed until {}", local(until));
        }
        (RunState::Unfinished, Confirmation::Awaited { until, .. }) => {
            return format!("cut short, taken back at {}", local(until));
        }
        (RunState::Unfinished, _) => "cut short (apply goes on with it, undo takes it back)",
        (RunState::Applied, _) => "applied",
    };
    state.to_owned()
}

fn files(run: &Run) -> Vec<String> {
    let mut paths: Vec<String> = run
        .records
        .iter()
        .filter_map(|record| match record {
            Record::File { path, after: Some(_), .. } => Some(path.display().to_string()),
            _ => None,
        })
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn installed(run: &Run) -> Vec<String> {
    run.records
        .iter()
        .filter_map(|record| match record {
            Record::PackagesDone { installed } => Some(installed.clone()),
            _ => None,
        })
        .next_back()
        .unwrap_or_default()
}

fn what(run: &Run) -> String {
    format!("{} files, {} packages", files(run).len(), installed(run).len())
}

fn json(run: &Run) -> serde_json::Value {
    let state = match run.state() {
        RunState::Unfinished => "unfinished",
        RunState::Applied => "applied",
        RunState::Undone => "undone",
    };
    let confirmation = match run.confirmation() {
        Confirmation::Unasked => None,
        Confirmation::Awaited { .. } if run.state() == RunState::Undone => None,
        Confirmation::Awaited { .. } => Some("awaited"),
        Confirmation::Given => Some("given"),
        Confirmation::Missed => Some("missed"),
    };
    serde_json::json!({
        "run": run.number,
        "started": run.started(),
        "state": state,
        "confirmation": confirmation,
        "confirm_by": run.confirm_by().map(|until| until.to_string()),
        "files": files(run),
        "installed": installed(run),
    })
}

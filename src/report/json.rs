//! The JSON report: one versioned form for diff, apply and verify, described in docs/report.md and by
//! docs/report.schema.json.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use crate::article::Described;
use crate::blocks::Difference;
use crate::checks::Check;
use crate::host::{Generation, Host, ServiceManager};
use crate::plan::{Change, Note, Plan};

use super::unified;

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    program: &'static str,
    command: &'static str,
    root: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<HostReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    settings: Vec<SettingReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<ChoiceReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<ChoiceReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepReport>,
    files: Vec<FileReport>,
    /// How many changes there are (diff) or were (apply).
    changes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<AppliedReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Vec<Check>>,
    /// What went wrong; then the other parts may be missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct HostReport {
    release: String,
    portsentry_installed: Option<String>,
    portsentry_offered: Option<String>,
    generation: Option<&'static str>,
    firewall: &'static str,
    input_drops: bool,
    services: &'static str,
}

#[derive(Debug, Serialize)]
struct SettingReport {
    name: &'static str,
    value: String,
    from: String,
}

#[derive(Debug, Serialize)]
struct ChoiceReport {
    asked: String,
    chosen: String,
    fallback: Option<String>,
}

#[derive(Debug, Serialize)]
struct StepReport {
    id: &'static str,
    title: &'static str,
    section: &'static str,
    summary: String,
    notes: Vec<NoteReport>,
    changes: Vec<ChangeReport>,
}

#[derive(Debug, Serialize)]
struct NoteReport {
    level: &'static str,
    text: String,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum ChangeReport {
    Packages {
        install: Vec<String>,
        reinstall: Vec<String>,
        with: Vec<String>,
        update_first: bool,
        finish_configuring: bool,
        why: String,
    },
    File {
        path: String,
        diff: String,
        why: String,
    },
    Program {
        path: String,
        bytes: u64,
    },
    Unit {
        unit: String,
        action: &'static str,
        why: String,
    },
    Blocks {
        addresses: Vec<IpAddr>,
    },
    Lists {
        differences: BTreeMap<IpAddr, BTreeSet<Difference>>,
    },
    Later {
        path: String,
        why: String,
    },
}

#[derive(Debug, Serialize)]
struct FileReport {
    path: String,
    before: Option<Text>,
    after: Option<Text>,
    /// Octal permission bits of a new file.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    diff: String,
}

/// A file's content, whole: UTF-8, or each byte as one letter (latin-1) where it is not UTF-8.
#[derive(Debug, Serialize)]
struct Text {
    encoding: &'static str,
    text: String,
}

/// What apply did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AppliedReport {
    pub run: Option<u32>,
    pub installed: Vec<String>,
    pub files: usize,
    pub services: Vec<String>,
    /// Until when it is to be confirmed; RFC 3339, UTC.
    pub confirm_by: Option<String>,
}

impl Report {
    /// The report of `command` on `host`.
    pub fn new(command: &'static str, host: &Host, described: &Described) -> Report {
        let context = &described.context;
        let settings = context.settings;
        let mut report = Report::empty(command, host);
        report.host = Some(HostReport {
            release: context.facts.release.shown(),
            portsentry_installed: context.facts.packages.get("portsentry").map(|package| package.version.clone()),
            portsentry_offered: context.offer.portsentry(),
            generation: context.generation.map(generation),
            firewall: context.facts.firewall.name(),
            input_drops: context.facts.firewall.input_drops,
            services: match context.facts.manager {
                ServiceManager::Systemd => "systemd",
                ServiceManager::Sysv => "sysv",
                ServiceManager::Forbidden(_) => "none",
            },
        });
        let row = |name, value: String, from: String| SettingReport { name, value, from };
        report.settings = vec![
            row("lan_if", settings.lan.interface.value.clone(), settings.lan.interface.origin.to_string()),
            row("lan_ip", settings.lan.address.value.to_string(), settings.lan.address.origin.to_string()),
            row("lan_nm", settings.lan.prefix.value.to_string(), settings.lan.prefix.origin.to_string()),
            row("lan_gw", settings.lan.gateway.value.to_string(), settings.lan.gateway.origin.to_string()),
            row("resolve_host", settings.resolve_host.value.to_string(), settings.resolve_host.origin.to_string()),
            row("fail2ban", settings.fail2ban.value.to_string(), settings.fail2ban.origin.to_string()),
            row("bantime", settings.bantime.value.for_fail2ban(), settings.bantime.origin.to_string()),
        ];
        report.engine = Some(ChoiceReport {
            asked: settings.engine.value.to_string(),
            chosen: context.offer.engine.to_string(),
            fallback: context.offer.fallback.map(|why| why.to_string()),
        });
        report.response = Some(ChoiceReport {
            asked: settings.response.value.to_string(),
            chosen: context.chosen.response.to_string(),
            fallback: context.chosen.fallback.clone(),
        });
        report.take_plan(&described.plan);
        report
    }

    /// A report that says only what went wrong.
    pub fn error(command: &'static str, root: &str, error: String) -> Report {
        let mut report = Report::bare(command, root.to_owned());
        report.error = Some(error);
        report
    }

    fn empty(command: &'static str, host: &Host) -> Report {
        Report::bare(command, host.root().display().to_string())
    }

    fn bare(command: &'static str, root: String) -> Report {
        Report {
            schema: "harden-portsentry/report/1",
            program: env!("CARGO_PKG_VERSION"),
            command,
            root,
            host: None,
            settings: Vec::new(),
            engine: None,
            response: None,
            steps: Vec::new(),
            files: Vec::new(),
            changes: 0,
            applied: None,
            checks: None,
            error: None,
        }
    }

    fn take_plan(&mut self, plan: &Plan) {
        self.changes = plan.changes().count();
        self.steps = plan
            .steps
            .iter()
            .map(|step| StepReport {
                id: step.id,
                title: step.title,
                section: step.section,
                summary: step.summary.clone(),
                notes: step.notes.iter().map(note).collect(),
                changes: step.changes.iter().map(change).collect(),
            })
            .collect();
        self.files = plan
            .files()
            .iter()
            .map(|file| FileReport {
                path: file.path.display().to_string(),
                before: file.before.as_deref().map(text),
                after: file.after.as_deref().map(text),
                mode: file.before.is_none().then(|| format!("{:04o}", file.mode)),
                diff: unified(&file.path, file.before.as_deref(), file.after.as_deref()),
            })
            .collect();
    }

    /// The same, with what apply did.
    pub fn applied(mut self, applied: AppliedReport) -> Report {
        self.applied = Some(applied);
        self
    }

    /// The same, with what the checks found.
    pub fn checks(mut self, checks: Vec<Check>) -> Report {
        self.checks = Some(checks);
        self
    }

    /// As JSON, ending in a newline.
    pub fn to_json(&self) -> String {
        // Strings and numbers only: nothing in it can fail to be written.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"));
        text.push('\n');
        text
    }
}

fn generation(generation: Generation) -> &'static str {
    match generation {
        Generation::SysvModes => "1.2-sysv",
        Generation::UnitModes => "1.2-units",
        Generation::OneProcess => "2.0",
        Generation::Embedded => "embedded",
    }
}

fn note(note: &Note) -> NoteReport {
    match note {
        Note::Info(text) => NoteReport { level: "info", text: text.clone() },
        Note::Warning(text) => NoteReport { level: "warning", text: text.clone() },
    }
}

fn change(change: &Change) -> ChangeReport {
    match change {
        Change::Packages(packages) => ChangeReport::Packages {
            install: packages.install.clone(),
            reinstall: packages.reinstall.clone(),
            with: packages.candidates.iter().map(|one| format!("{}={}", one.name, one.version)).collect(),
            update_first: packages.update_first,
            finish_configuring: packages.finish_configuring,
            why: packages.why.clone(),
        },
        Change::File(file) => ChangeReport::File {
            path: file.path.display().to_string(),
            diff: unified(&file.path, file.before.as_deref(), file.after.as_deref()),
            why: file.why.clone(),
        },
        Change::Program(program) => {
            ChangeReport::Program { path: program.to.display().to_string(), bytes: program.size }
        }
        Change::Unit(unit) => {
            ChangeReport::Unit { unit: unit.unit.clone(), action: unit.action.verb(), why: unit.why.clone() }
        }
        Change::Blocks(addresses) => ChangeReport::Blocks { addresses: addresses.iter().copied().collect() },
        Change::Lists(differences) => ChangeReport::Lists { differences: differences.clone() },
        Change::Later(later) => ChangeReport::Later { path: later.path.display().to_string(), why: later.why.clone() },
    }
}

fn text(bytes: &[u8]) -> Text {
    match std::str::from_utf8(bytes) {
        Ok(text) => Text { encoding: "utf-8", text: text.to_owned() },
        Err(_) => Text { encoding: "latin-1", text: bytes.iter().map(|&byte| char::from(byte)).collect() },
    }
}

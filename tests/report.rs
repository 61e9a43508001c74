//! The JSON reports keep to docs/report.schema.json, and the schema is strict enough to notice when they do not.

mod fixture;

use boon::{Compiler, SchemaIndex, Schemas};
use fixture::{ALL, Fixture};
use serde_json::{Value, json};

/// docs/report.schema.json, ready to judge.
struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Schema {
    fn read() -> Schema {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/report.schema.json");
        let text = std::fs::read_to_string(path).expect("the schema is there");
        let document: Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(document["$schema"], "https://json-schema.org/draft/2020-12/schema");
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.add_resource("file:///report.schema.json", document).expect("it has an address of its own");
        let index = compiler
            .compile("file:///report.schema.json", &mut schemas)
            .unwrap_or_else(|error| panic!("docs/report.schema.json is no schema: {error:#}"));
        Schema { schemas, index }
    }

    #[track_caller]
    fn accepts(&self, report: &Value) {
        if let Err(error) = self.schemas.validate(report, self.index) {
            panic!("docs/report.schema.json does not accept this: {error:#}\n{report:#}");
        }
    }

    fn refuses(&self, report: &Value) -> bool {
        self.schemas.validate(report, self.index).is_err()
    }
}

fn report(fixture: &Fixture, words: &[&str]) -> Value {
    fixture.run(&[words, &["--format", "json"]].concat()).json()
}

#[test]
fn diff_apply_and_verify_keep_to_the_schema() {
    let schema = Schema::read();
    for debian in ALL {
        let fixture = Fixture::debian(debian);
        for (words, command) in [
            (&["diff"][..], "diff"),
            (&["verify"], "verify"),
            (&["apply", "--yes"], "apply"),
            (&["diff"], "diff"),
            (&["verify"], "verify"),
            (&["apply", "--yes"], "apply"),
        ] {
            let report = report(&fixture, words);
            schema.accepts(&report);
            assert_eq!(report["command"], command);
            assert_eq!(report["root"], fixture.root().to_str().expect("test paths are UTF-8"));
        }
    }
}

#[test]
fn an_error_keeps_to_the_schema_and_stands_on_stderr_too() {
    let schema = Schema::read();
    let fixture = Fixture::debian(12);
    fixture.write("/root/config.env", "LAN_IF=enp0s8\n");
    for words in [&["diff"][..], &["apply", "--yes"], &["verify"], &["undo", "--yes"]] {
        let output = fixture.run(&[words, &["--format", "json"]].concat()).exits(1);
        let report = output.json();
        schema.accepts(&report);
        assert_eq!(report["command"], words[0]);
        let error = report["error"].as_str().expect("an error");
        assert_eq!(output.stderr, format!("harden-portsentry: {error}\n"));
    }
}

#[test]
fn the_report_says_what_the_files_hold_before_and_after_and_what_each_step_does() {
    let fixture = Fixture::debian(13);
    let before = fixture.text("/etc/portsentry/portsentry.conf");
    let report = report(&fixture, &["diff"]);
    fixture.apply();
    let files = report["files"].as_array().expect("files");
    for file in files {
        let path = file["path"].as_str().expect("a path");
        assert_eq!(file["after"]["text"], fixture.text(path), "{path} is what the report said");
    }
    let conf = files.iter().find(|file| file["path"] == "/etc/portsentry/portsentry.conf").expect("it changes");
    assert_eq!(conf["before"], json!({ "encoding": "utf-8", "text": before }));
    assert_eq!(report["host"]["generation"], "1.2-units");
    assert_eq!(report["host"]["portsentry_installed"], "1.2-16");
    let steps = report["steps"].as_array().expect("steps");
    let counted: usize = steps.iter().map(|step| step["changes"].as_array().expect("changes").len()).sum();
    assert_eq!(report["changes"], counted);
    let units: Vec<&Value> = steps
        .iter()
        .flat_map(|step| step["changes"].as_array().expect("changes"))
        .filter(|change| change["kind"] == "unit")
        .map(|change| &change["unit"])
        .collect();
    assert_eq!(
        units,
        [
            "portsentry@atcp.service",
            "portsentry@audp.service",
            "harden-portsentry-blocks.service",
            "harden-portsentry-keeper.service"
        ]
    );
}

/// Another run that waits to be confirmed is told by an apply that has nothing to do, and by verify.
#[test]
fn a_run_that_waits_to_be_confirmed_keeps_to_the_schema() {
    let schema = Schema::read();
    let fixture = Fixture::debian(12);
    assert_eq!(report(&fixture, &["apply", "--yes"])["applied"]["confirm_by"], Value::Null);
    let waits = "{\"record\":\"awaits-confirmation\",\"until\":\"2099-01-01T00:00:00Z\",\"uptime\":1,\"within\":60}\n";
    fixture.append("/var/lib/harden-portsentry/runs/1/journal", waits);
    let apply = report(&fixture, &["apply", "--yes"]);
    schema.accepts(&apply);
    assert_eq!(apply["applied"]["confirm_by"], "2099-01-01T00:00:00Z");
    let verify = report(&fixture, &["verify"]);
    schema.accepts(&verify);
    let checks = verify["checks"].as_array().expect("checks");
    assert!(checks.iter().any(|check| check["id"] == "confirmed" && check["outcome"] == "skip"), "{verify:#}");
    schema.accepts(&report(&Fixture::debian(12), &["confirm"]));
}

#[test]
fn a_file_that_is_not_utf_8_comes_byte_for_byte_as_latin_1() {
    let fixture = Fixture::debian(12);
    let mut bytes = b"# caf\xe9\r\n".to_vec();
    bytes.extend(fixture.read("/etc/hosts.allow"));
    fixture.write("/etc/hosts.allow", &bytes);
    let report = report(&fixture, &["diff"]);
    Schema::read().accepts(&report);
    let files = report["files"].as_array().expect("files");
    let allow = files.iter().find(|file| file["path"] == "/etc/hosts.allow").expect("it changes");
    assert_eq!(allow["before"]["encoding"], "latin-1");
    let text = allow["before"]["text"].as_str().expect("a text");
    let back: Vec<u8> = text.chars().map(|letter| u8::try_from(u32::from(letter)).expect("latin-1")).collect();
    assert_eq!(back, bytes);
}

#[test]
fn a_fallback_is_told_and_a_chosen_response_is_none() {
    let fixture = Fixture::debian(12);
    let auto = report(&fixture, &["diff"]);
    assert_eq!((&auto["response"]["asked"], &auto["response"]["chosen"]), (&json!("auto"), &json!("drop")));
    assert!(auto["response"]["fallback"].is_string());
    let drop = report(&fixture, &["diff", "--response", "drop"]);
    assert_eq!(drop["response"], json!({ "asked": "drop", "chosen": "drop", "fallback": null }));
}

/// Every part of a real report, spoiled in turn: a name that nobody declared, a part that is missing, a type that is
/// another one.
#[test]
fn the_schema_refuses_what_no_report_is() {
    let schema = Schema::read();
    let fixture = Fixture::debian(13);
    let diff = report(&fixture, &["diff"]);
    let apply = report(&fixture, &["apply", "--yes"]);
    let verify = report(&fixture, &["verify"]);
    fixture.write("/root/config.env", "");
    let error = report(&fixture, &["diff"]);
    for whole in [&diff, &apply, &verify, &error] {
        schema.accepts(whole);
        for pointer in objects(whole, "") {
            let mut more = whole.clone();
            more.pointer_mut(&pointer).and_then(Value::as_object_mut).expect("an object").insert("x".into(), json!(1));
            assert!(schema.refuses(&more), "an undeclared name in {pointer:?}");
        }
    }
    for (whole, name) in [
        (&diff, "host"),
        (&diff, "engine"),
        (&diff, "steps"),
        (&apply, "applied"),
        (&apply, "checks"),
        (&verify, "checks"),
    ] {
        let mut less = (*whole).clone();
        less.as_object_mut().expect("an object").remove(name);
        assert!(schema.refuses(&less), "{} without {name}", whole["command"]);
    }
    for (pointer, wrong) in [
        ("/schema", json!("harden-portsentry/report/2")),
        ("/command", json!("aply")),
        ("/changes", json!(-1)),
        ("/host/generation", json!("1.3")),
        ("/engine/chosen", json!("auto")),
        ("/host/input_drops", json!("no")),
        ("/settings", json!([])),
        ("/steps/0/id", json!("chaos")),
        ("/files/0/path", json!("etc/x")),
        ("/files/0/before", json!("text")),
        ("/response/chosen", json!("auto")),
    ] {
        let mut spoiled = diff.clone();
        *spoiled.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}: not there")) = wrong;
        assert!(schema.refuses(&spoiled), "{pointer}");
    }
    let mut unexplained = verify.clone();
    unexplained["checks"][0] = json!({ "id": "package", "says": "it is not there", "outcome": "fail" });
    assert!(schema.refuses(&unexplained), "a failure says what was seen and what to do");
}

/// The JSON pointers of every object in it.
fn objects(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(members) => std::iter::once(at.to_owned())
            .chain(members.iter().flat_map(|(name, member)| objects(member, &format!("{at}/{name}"))))
            .collect(),
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(index, item)| objects(item, &format!("{at}/{index}"))).collect()
        }
        _ => Vec::new(),
    }
}

//! `verify`: the end state, checked on the running system.

use anyhow::Result;

use crate::article::describe;
use crate::checks::{self, Check, Outcome};
use crate::plan::Runs;
use crate::report::{Page, Report, junit};

use super::arguments::{Common, Format, VerifyOptions};
use super::session::Session;
use super::{Exit, print};

pub fn run(common: &Common, options: &VerifyOptions) -> Result<Exit> {
    let session = Session::open(common, false)?;
    let described = describe(&session.host, &session.settings, &session.facts)?;
    let mut found = checks::run(&described)?;
    found.extend(checks::confirmed(&Runs::read(&session.host)?));
    match common.format {
        Format::Json => print(&Report::new("verify", &session.host, &described).checks(found.clone()).to_json()),
        Format::Junit => print(&junit(&found)?),
        Format::Text => {
            let mut page = Page::new();
            page.checks(&found, common.quiet, options.strict);
            print(page.text());
        }
    }
    Ok(if fails(&found, options.strict) { Exit::Found } else { Exit::Good })
}

fn fails(checks: &[Check], strict: bool) -> bool {
    checks.iter().any(|check| check.outcome == Outcome::Fail || strict && check.outcome == Outcome::Skip)
}

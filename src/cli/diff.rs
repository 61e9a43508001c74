//! `diff`: what apply would change. Never writes.

use anyhow::Result;

use crate::article::describe;
use crate::report::{Page, Report};

use super::arguments::{Common, Format};
use super::session::Session;
use super::{Exit, print};

pub fn run(common: &Common) -> Result<Exit> {
    common.refuse_junit()?;
    let session = Session::open(common, false)?;
    let described = describe(&session.host, &session.settings, &session.facts)?;
    let empty = described.plan.is_empty();
    if common.format == Format::Json {
        print(&Report::new("diff", &session.host, &described).to_json());
    } else if !common.quiet {
        let mut page = Page::new();
        page.host(&described, &session.host);
        page.settings(&described, common.verbose);
        page.plan(&described.plan, common.verbose);
        if empty {
            page.line("");
            page.line("Nothing to change: this host is as described.");
        } else {
            page.totals(&described.plan);
            page.line(format!("Nothing has been changed; `{}` does it.", session.host.command_line("apply")));
        }
        print(page.text());
    }
    Ok(if empty { Exit::Good } else { Exit::Found })
}

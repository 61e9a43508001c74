//! Checks as JUnit XML: a test case a check.

use anyhow::{Context, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::checks::{Check, Outcome};

/// The XML document.
///
/// # Errors
/// The document cannot be written (it is all in memory: only for want of it).
pub fn junit(checks: &[Check]) -> Result<String> {
    let mut suite = TestSuite::new("verify");
    for check in checks {
        let mut status = match check.outcome {
            Outcome::Ok => TestCaseStatus::success(),
            Outcome::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
            Outcome::Skip => TestCaseStatus::skipped(),
        };
        if check.outcome != Outcome::Ok {
            status.set_message(check.says.clone());
        }
        if check.outcome == Outcome::Fail {
            let seen = check.seen.as_deref().unwrap_or_default();
            let remedy = check.remedy.as_deref().unwrap_or_default();
            status.set_description(format!("seen: {seen}\ndo: {remedy}"));
        }
        let mut case = TestCase::new(format!("{}: {}", check.id, check.says), status);
        case.set_classname("harden-portsentry.verify");
        suite.add_test_case(case);
    }
    let mut report = Report::new("harden-portsentry");
    report.add_test_suite(suite);
    report.to_string().context("cannot write JUnit XML")
}

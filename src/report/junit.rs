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
    for (index, check) in checks.iter().enumerate() {
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
        // The name stays the same from run to run: sentences hold addresses, ages and process numbers.
        let earlier = checks[..index].iter().filter(|other| other.id == check.id).count();
        let name = if earlier == 0 { check.id.to_owned() } else { format!("{}-{}", check.id, earlier + 1) };
        let mut case = TestCase::new(name, status);
        case.set_system_out(check.says.clone());
        case.set_classname("harden-portsentry.verify");
        suite.add_test_case(case);
    }
    let mut report = Report::new("harden-portsentry");
    report.add_test_suite(suite);
    report.to_string().context("cannot write JUnit XML")
}

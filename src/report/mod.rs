//! The same result as text for people, JSON for programs, JUnit for CI.

mod json;
mod junit;
mod text;
mod unified;

pub use json::{AppliedReport, Report};
pub use junit::junit;
pub use text::{Page, ago};
pub use unified::unified;

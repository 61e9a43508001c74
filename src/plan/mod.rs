//! What would change, as data: typed changes with before, after and why; executed with a journal; taken back.

mod change;
mod confirmation;
mod draft;
mod execute;
mod journal;
mod runs;
mod undo;

pub use change::{
    Change, FileChange, FileKind, Later, Note, PackageChange, Plan, ProgramChange, Step, UnitAction, UnitChange,
};
pub use confirmation::Confirmation;
pub use draft::{Content, Draft};
pub use execute::{Event, Execution, Stopped, execute};
pub use journal::{Journal, Record};
pub use runs::{Run, RunState, Runs};
pub use undo::{Edited, Undo, UndoOutcome};

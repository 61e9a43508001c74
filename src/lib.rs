//! Provisions, checks and takes back portsentry on Debian.
//!
//! The house, top floor first; a room uses only rooms below it (`tests/house.rs` checks it):
//!
//! | floor | room | |
//! |---|---|---|
//! | 7 | [`cli`] | what can be typed; one short file a subcommand |
//! | 6 | [`report`] | the same result as text, diff, JSON, JUnit |
//! | 5 | [`checks`] | what only the running system can answer |
//! | 4 | [`article`] | the end state, a file a section, compared with the host |
//! | 3 | [`plan`] | changes as data; executed with a journal; taken back |
//! | 3 | [`daemon`] | the embedded portsentry: which packets, whose, and what is done about them |
//! | 3 | [`blocks`] | who is blocked until when: a ledger, the kernel's sets, hosts.deny; who never is |
//! | 3 | [`settings`] | where each value comes from and which one wins |
//! | 2 | [`host`] | files, commands, packages, units, facts: all that touches the machine |
//! | 1 | [`kernel`] | addresses, routes, packets that a rule hands up, by netlink |
//! | 1 | [`syntax`] | lossless documents: parse, edit one key, print |
//! | 1 | [`history`] | the lines in which a portsentry says whom it caught |

pub mod article;
pub mod blocks;
pub mod checks;
pub mod cli;
pub mod daemon;
pub mod history;
pub mod host;
pub mod kernel;
pub mod plan;
pub mod report;
pub mod settings;
pub mod syntax;

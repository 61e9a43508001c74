//! `block`, `unblock`, `blocked`: by the daemon that runs, or, where none does, in its place.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::blocks::control::{self, Answer, Listed, Request, Wanted};
use crate::blocks::{self, Blocks, Busy, By, Guard, IgnoreList, Now};
use crate::daemon::{Config, Mode};
use crate::host::{Generation, Host};
use crate::settings::{POLICY, Policy, Response};
use crate::syntax::Dialect;

use super::arguments::{Asker, BlockOptions, Common, Format, UnblockOptions};
use super::{Exit, demand_root, print};

/// A daemon that starts holds the lock for a while before it can be asked, and so does whoever blocks just now.
const PATIENCE: Duration = Duration::from_secs(5);

/// `block ADDRESS`.
pub fn block(common: &Common, options: &BlockOptions) -> Result<Exit> {
    live(common)?;
    let length = match options.length.map(|length| length.duration()) {
        None => Wanted::Earned,
        Some(None) => Wanted::Ever,
        Some(Some(length)) => Wanted::Seconds(length.as_secs()),
    };
    let address = options.address.to_canonical();
    let by = match options.by {
        Asker::Hand => By::Hand,
        Asker::Fail2ban => By::Fail2ban,
    };
    let answer = ask(Request::Block { address, length, by, why: options.why.clone() })?;
    if let Answer::Blocked { until, already } = &answer {
        let until = until.map_or("for ever".to_owned(), |until| format!("until {}", local(until)));
        let is = if *already { "is blocked already" } else { "is blocked" };
        say(common, &answer, &format!("{address} {is}, {until}."));
    }
    Ok(Exit::Good)
}

/// `unblock ADDRESS` or `unblock --all`.
pub fn unblock(common: &Common, options: &UnblockOptions) -> Result<Exit> {
    live(common)?;
    let why = options.why.clone();
    let request = match options.address {
        Some(address) => Request::Unblock { address: address.to_canonical(), why },
        None => Request::UnblockAll { why },
    };
    let answer = ask(request)?;
    if let Answer::Freed(freed) = &answer {
        let text = match (options.address, freed.len()) {
            (Some(address), 0) => format!("{address} was not blocked."),
            (Some(address), _) => format!("{address} is free."),
            (None, 0) => "No host was blocked.".to_owned(),
            (None, 1) => "One host is free.".to_owned(),
            (None, count) => format!("{count} hosts are free."),
        };
        say(common, &answer, &text);
    }
    Ok(Exit::Good)
}

/// `blocked`.
pub fn list(common: &Common) -> Result<Exit> {
    live(common)?;
    let listed = match control::ask(&Request::List)? {
        Some(Answer::List(listed)) => listed,
        Some(other) => bail!("the daemon answered something else: {other:?}"),
        None => blocks::look()?,
    };
    if common.format == Format::Json {
        let document = serde_json::json!({ "schema": "harden-portsentry/blocked/1", "blocked": listed });
        print(&format!("{document:#}\n"));
    } else {
        print(&table(&listed));
    }
    Ok(Exit::Good)
}

/// At boot, before the network is up, and after somebody flushed the ruleset: a daemon that runs does it by itself.
pub fn restore(common: &Common) -> Result<Exit> {
    live(common)?;
    match open() {
        Ok((blocks, _, told)) => {
            told.iter().for_each(|line| eprintln!("harden-portsentry: {line}"));
            if !common.quiet {
                print(&format!("{} hosts are blocked.\n", blocks.len()));
            }
            Ok(Exit::Good)
        }
        Err(error) if error.is::<Busy>() => Ok(Exit::Good),
        Err(error) => Err(error),
    }
}

fn live(common: &Common) -> Result<()> {
    common.refuse_junit()?;
    let host = Host::new(&common.root)?;
    if !host.is_live() {
        bail!("blocks are the running system's; leave --root out");
    }
    if let Some((flag, path)) = common.flags().named.first() {
        bail!("{flag} {} does not count here: blocks go by {POLICY}, as the daemon does", path.display());
    }
    demand_root(&host)
}

/// Asks the daemon, or does it in its place if none runs.
fn ask(request: Request) -> Result<Answer> {
    let start = Instant::now();
    let answer = loop {
        if let Some(answer) = control::ask(&request)? {
            break answer;
        }
        match open() {
            Ok((mut blocks, mut book, told)) => {
                told.iter().for_each(|line| eprintln!("harden-portsentry: {line}"));
                let (answer, records) = blocks.serve(request, Now::read());
                book.write(&records, &[])?;
                break answer;
            }
            Err(error) if error.is::<Busy>() && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.is::<Busy>() => {
                bail!("another process keeps the blocks and does not answer at {}; is it stuck?", control::SOCKET)
            }
            Err(error) => return Err(error),
        }
    };
    match answer {
        Answer::Refused(why) => bail!("{why}"),
        answer => Ok(answer),
    }
}

/// As the daemon of this host would.
fn open() -> Result<(Blocks, blocks::Book, Vec<String>)> {
    let policy = Policy::read(Path::new(POLICY))?;
    let conf = Path::new(Generation::Embedded.conf());
    let answer = Config::read(conf, Mode::Stealth).ok().and_then(|config| config.kill_nft);
    let answer = answer.unwrap_or(match policy.response.value {
        Response::Reject => blocks::Answer::Reject,
        _ => blocks::Answer::Drop,
    });
    let ignore_files = [Generation::Embedded.ignore_list(), Generation::OneProcess.ignore_list()];
    let ignore_file = ignore_files.map(Path::new).into_iter().find(|path| path.exists());
    let ignored = ignore_file.and_then(|path| IgnoreList::read(path, Dialect::V2).ok()).unwrap_or_default().0;
    let guard = Guard::read(&policy, ignored, ignore_file.unwrap_or(Path::new("")))?;
    Blocks::open(policy.block, answer, guard)
}

fn say(common: &Common, answer: &Answer, text: &str) {
    if common.format == Format::Json {
        let name = match answer {
            Answer::Freed(_) => "unblock",
            _ => "block",
        };
        print(&format!(
            "{:#}\n",
            serde_json::json!({ "schema": format!("harden-portsentry/{name}/1"), "result": answer })
        ));
    } else if !common.quiet {
        print(&format!("{text}\n"));
    }
}

fn local(time: Timestamp) -> String {
    time.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn table(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "No host is blocked.\n".to_owned();
    }
    let mut rows = vec![["ADDRESS", "SINCE", "UNTIL", "TIMES", "BY", "WHY"].map(str::to_owned)];
    rows.extend(listed.iter().map(|one| {
        let until = one.until.map_or("for ever".to_owned(), local);
        let why = if one.in_kernel { one.why.clone() } else { format!("{} (not blocked by the kernel)", one.why) };
        [one.address.to_string(), local(one.since), until, one.times.to_string(), one.by.to_string(), why]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(&row[5]);
        text.push('\n');
    }
    let missing: Vec<IpAddr> = listed.iter().filter(|one| !one.in_kernel).map(|one| one.address).collect();
    if !missing.is_empty() {
        text.push_str("\nSomebody took what the kernel does not block out of its sets; `harden-portsentry restore` puts it back.\n");
    }
    text
}

//! `block`, `unblock`, `blocked`: by the daemon that runs, or, where none does, in its place.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;

use crate::blocks::control::{self, Answer, Listed, Request, Wanted};
use crate::blocks::package::{self, Freed};
use crate::blocks::{self, Blocks, Busy, By, Guard, IgnoreList, Ledger, Now};
use crate::daemon::{Config, Mode};
use crate::host::{Generation, Host, local};
use crate::settings::{POLICY, Policy, Response};
use crate::syntax::Dialect;

use super::arguments::{Asker, BlockOptions, Common, Format, UnblockOptions};
use super::{Exit, print};

/// A daemon that starts holds the lock for a while before it can be asked, and so does whoever blocks just now.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was done before fail2ban was asked.
const FREED_ALREADY: &str = "free in the kernel, but its ban is not lifted; try it again";

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
        let is_over = until.is_some_and(|until| until <= Timestamp::now());
        let until = until.map_or("for ever".to_owned(), |until| format!("until {}", local(until)));
        let is = match (already, is_over) {
            (true, true) => "was blocked, and this is taken for an echo of that",
            (true, false) => "is blocked already",
            (false, _) => "is blocked",
        };
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
    // Where nobody was ever blocked by us, there is nothing to be opened for it.
    let answer = if is_ours()? { ask(request)? } else { Answer::Freed(Vec::new()) };
    let Answer::Freed(freed) = &answer else { return Ok(Exit::Good) };
    let (package, unbanned) = match options.by {
        Asker::Hand => free_elsewhere(options.address.map(|address| address.to_canonical()))?,
        Asker::Fail2ban => (Freed::default(), 0),
    };
    let text = match (options.address, freed.len()) {
        (Some(address), 0) if !package.is_nothing() => format!("{address} is free: {}.", package.in_words()),
        (None, 0) if !package.is_nothing() => format!("Everybody is free: {}.", package.in_words()),
        (Some(address), 0) => format!("{address} was not blocked."),
        (Some(address), _) => format!("{address} is free."),
        (None, 0) => "No host was blocked.".to_owned(),
        (None, 1) => "One host is free.".to_owned(),
        (None, count) => format!("{count} hosts are free."),
    };
    let bans = match unbanned {
        0 => String::new(),
        1 => " fail2ban's portsentry jail has lifted its ban.".to_owned(),
        bans => format!(" fail2ban's portsentry jail has lifted {bans} bans."),
    };
    say(common, &answer, &(text + &bans));
    Ok(Exit::Good)
}

fn has_embedded() -> bool {
    Path::new(Generation::Embedded.conf()).exists()
}

/// Whether the ledger can have anybody.
fn is_ours() -> Result<bool> {
    Ok(has_embedded() || blocks::is_begun()?)
}

/// Frees `address`, or everybody, of what else blocks here: what Debian's portsentry blocks by, and how many bans
/// fail2ban's jail has lifted. It would count a ban that is nothing any more, and not ban anew whom it takes for banned.
fn free_elsewhere(address: Option<IpAddr>) -> Result<(Freed, usize)> {
    let host = Host::new(Path::new("/"))?;
    let mut banned = host.banned().context(FREED_ALREADY)?;
    banned.retain(|one| address.is_none_or(|address| *one == address));
    let generation = if has_embedded() { None } else { package::installed(&host)? };
    let whom = |generation| match address {
        Some(address) => Ok([address].into()),
        None => package::everybody(&host, generation, &banned),
    };
    // Before the rest: its own rules go with it, and whoever is banned is blocked again by a ban that is brought back.
    host.unban(&banned).context(FREED_ALREADY)?;
    let freed = match generation {
        Some(generation) => package::free(&host, generation, &whom(generation)?)?,
        None => Freed::default(),
    };
    Ok((freed, banned.len()))
}

/// `blocked`.
pub fn list(common: &Common) -> Result<Exit> {
    live(common)?;
    let listed = match control::ask(&Request::List)? {
        Some(Answer::List(listed)) => listed,
        Some(other) => return Err(refusal(other)),
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

/// Has the kernel block whom the ledger says: at boot, before the network is up, and after somebody flushed the ruleset. A
/// daemon that runs does it by itself, and when it is asked.
pub fn restore(common: &Common) -> Result<Exit> {
    live(common)?;
    if !blocks::is_begun()? {
        // With CHAOS nobody needs a table.
        return Ok(Exit::Good);
    }
    let blocked = match open(false) {
        Ok((blocks, _, told)) => {
            tell(&told);
            if let Err(error) = blocks.publish(Now::read()) {
                tell(&[format!("{error:#}")]);
            }
            blocks.len()
        }
        Err(error) if error.is::<Busy>() => match control::ask(&Request::Restore)? {
            Some(Answer::Restored(blocked)) => blocked,
            Some(other) => return Err(refusal(other)),
            // It is about to start, or to end, or somebody blocks: whoever it is has restored them.
            None => return Ok(Exit::Good),
        },
        Err(error) => return Err(error),
    };
    if !common.quiet {
        print(&match blocked {
            1 => "One host is blocked.\n".to_owned(),
            blocked => format!("{blocked} hosts are blocked.\n"),
        });
    }
    Ok(Exit::Good)
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
    if !rustix::process::geteuid().is_root() {
        bail!("blocks are root's business; run it with sudo");
    }
    Ok(())
}

/// Asks the daemon, or does it in its place if none runs.
fn ask(request: Request) -> Result<Answer> {
    let start = Instant::now();
    let answer = loop {
        if let Some(answer) = control::ask(&request)? {
            break answer;
        }
        match open(matches!(request, Request::Block { .. })) {
            Ok((blocks, ledger, told)) => {
                tell(&told);
                break serve(request, blocks, ledger)?;
            }
            Err(error) if error.is::<Busy>() && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.is::<Busy>() => bail!(
                "another process keeps the blocks and does not answer at {}; if it is the daemon, \
                 `systemctl restart harden-portsentry` starts it anew",
                control::SOCKET
            ),
            Err(error) => return Err(error),
        }
    };
    match answer {
        Answer::Refused(_) => Err(refusal(answer)),
        answer => Ok(answer),
    }
}

/// Does what is asked for in the daemon's place.
fn serve(request: Request, mut blocks: Blocks, mut ledger: Ledger) -> Result<Answer> {
    let now = Now::read();
    let (answer, records) = blocks.serve(request, now);
    if let Answer::Refused(_) = answer {
        return Ok(answer);
    }
    let done = "it is done in the kernel";
    let all = || blocks.records(now);
    let written = if ledger.is_behind() { ledger.write_anew(&all()) } else { ledger.append(&records) };
    if !records.is_empty() {
        written.context("a restart would forget it, for it is not written down").context(done)?;
    }
    if ledger.is_long() {
        // A long one serves as well.
        let _ = ledger.write_anew(&all());
    }
    blocks.publish(now).context("TCP wrappers do not know of it").context(done)?;
    Ok(answer)
}

fn refusal(answer: Answer) -> anyhow::Error {
    match answer {
        Answer::Refused(why) => anyhow!("{why}"),
        other => anyhow!("the daemon answered something else: {other:?}"),
    }
}

fn tell(told: &[String]) {
    told.iter().for_each(|line| eprintln!("harden-portsentry: {line}"));
}

/// As the daemon of this host would. Who is never blocked has to be known to block somebody, and to nobody else: what is
/// blocked comes back and is freed whatever is wrong with the configuration.
fn open(is_to_block: bool) -> Result<(Blocks, Ledger, Vec<String>)> {
    let policy = Policy::read(Path::new(POLICY))?;
    let (answer, guard, problem) = match of_configuration(&policy) {
        Ok((answer, guard)) => (answer, guard, None),
        Err(error) if is_to_block => return Err(error),
        Err(error) => (None, Guard::read(&policy, IgnoreList::default(), Path::new(""))?, Some(format!("{error:#}"))),
    };
    let answer = answer.unwrap_or(match policy.response.value {
        Response::Reject => blocks::Answer::Reject,
        Response::Noise => blocks::Answer::Noise,
        _ => blocks::Answer::Drop,
    });
    let (blocks, ledger, mut told) = Blocks::open(policy.block, answer, guard)?;
    told.extend(problem);
    Ok((blocks, ledger, told))
}

/// What a blocked host meets and who is never blocked, as the embedded portsentry's configuration says; where there is
/// none, Debian's ignore list is asked.
fn of_configuration(policy: &Policy) -> Result<(Option<blocks::Answer>, Guard)> {
    let conf = Path::new(Generation::Embedded.conf());
    let (answer, ignore_file) = if conf.exists() {
        let config = Config::read(conf, Mode::Stealth)?;
        (config.kill_nft, config.ignore_file)
    } else {
        let list = Path::new(Generation::OneProcess.ignore_list());
        (None, list.exists().then(|| list.to_owned()))
    };
    let ignored = match &ignore_file {
        Some(path) => IgnoreList::read(path, Dialect::V2)?.0,
        None => IgnoreList::default(),
    };
    Ok((answer, Guard::read(policy, ignored, &ignore_file.unwrap_or_default())?))
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

//! `block`, `unblock`, `blocked`: by the daemon that runs, or, where none does, in its place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::blocks::control::{self, Answer, Listed, Request, Wanted};
use crate::blocks::package::{self, Freed};
use crate::blocks::{self, Blocks, Busy, By, Difference, Guard, IgnoreList, Ledger, Now, PacketFilter};
use crate::daemon::Config;
use crate::host::{Generation, Host, local};
use crate::settings::{IN_ALL, POLICY, Policy, Response, Terms};

use super::arguments::{Asker, BlockOptions, Common, Format, UnblockOptions};
use super::{Exit, print};

/// A daemon that starts holds the lock for a while before it can be asked, and so does whoever blocks just now.
const PATIENCE: Duration = Duration::from_secs(5);

/// TCP wrappers know of it by then.
const PUBLISHED: Duration = Duration::from_secs(3);

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
        Asker::Portsentry => By::Portsentry,
        Asker::Fail2ban => By::Fail2ban,
    };
    let answer = ask(Request::Block { address, length, by, why: options.why.clone() })?;
    // Reading the zone of the local time takes longer than the block.
    let is_shown = common.format == Format::Json || !common.quiet;
    if let Answer::Blocked { until, already } = &answer
        && is_shown
    {
        let is_over = until.is_some_and(|until| until <= Timestamp::now());
        let until = until.map_or("for ever".to_owned(), |until| format!("until {}", local(until)));
        let is = match (already, is_over) {
            (true, true) => "was blocked, and this is taken for an echo of that",
            (true, false) => "is blocked already",
            (false, _) => "is blocked",
        };
        say(
            common,
            &json!({ "schema": "harden-portsentry/block/1", "result": answer }),
            &format!("{address} {is}, {until}."),
        );
    }
    Ok(Exit::Good)
}

/// `unblock ADDRESS` or `unblock --all`.
pub fn unblock(common: &Common, options: &UnblockOptions) -> Result<Exit> {
    live(common)?;
    let why = options.why.clone();
    let whom = options.address.map(|address| address.to_canonical());
    let request = match whom {
        Some(address) => Request::Unblock { address, why },
        None => Request::UnblockAll { why },
    };
    // Where nobody was ever blocked by us, there is nothing to be opened for it. A ban of somebody who is free already says
    // nothing of how often he came.
    let is_late = || match (options.by, whom) {
        (Asker::Fail2ban, Some(address)) => Ok(!blocks::blocked()?.contains(&address)),
        _ => anyhow::Ok(false),
    };
    let answer = if is_ours()? && !is_late()? { ask(request)? } else { Answer::Freed(Vec::new()) };
    let Answer::Freed(freed) = &answer else { return Ok(Exit::Good) };
    let (package, unbanned) = match options.by {
        Asker::Hand => free_elsewhere(whom, true)?,
        // fail2ban waits for this, and has lifted its ban by itself.
        Asker::Fail2ban if !freed.is_empty() => free_elsewhere(whom, false)?,
        Asker::Portsentry | Asker::Fail2ban => (Freed::default(), 0),
    };
    wait_for_wrappers(|denied| !freed.iter().any(|address| denied.contains(address)));
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
    let document = json!({
        "schema": "harden-portsentry/unblock/1", "result": answer, "portsentry": package, "bans_lifted": unbanned,
    });
    say(common, &document, &(text + &bans));
    Ok(Exit::Good)
}

/// Waits until the file that hosts.deny names is as it is to be, which happens once a second at most; for whoever tries at once. A
/// disk that is full holds up nobody.
fn wait_for_wrappers(is_right: impl Fn(&BTreeSet<IpAddr>) -> bool) {
    let start = Instant::now();
    while start.elapsed() < PUBLISHED && !is_right(&blocks::denied_now()) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn has_embedded() -> bool {
    Path::new(Generation::Embedded.conf()).exists()
}

/// Debian's portsentry, where that is what watches.
fn package_of(host: &Host) -> Result<Option<Generation>> {
    if has_embedded() { Ok(None) } else { package::installed(host) }
}

/// Whether the ledger can have anybody.
fn is_ours() -> Result<bool> {
    Ok(has_embedded() || Path::new(blocks::CONF).exists() || blocks::is_begun()?)
}

/// Frees `address`, or everybody, of what else blocks here: what Debian's portsentry blocks by, and, where it `lifts_bans`, how
/// many bans fail2ban's jail has lifted. It would count a ban that is nothing any more, and not ban anew whom it takes for banned.
fn free_elsewhere(address: Option<IpAddr>, lifts_bans: bool) -> Result<(Freed, usize)> {
    let host = Host::new(Path::new("/"))?;
    let mut banned = if lifts_bans { host.banned().context(FREED_ALREADY)? } else { Vec::new() };
    banned.retain(|one| address.is_none_or(|address| *one == address));
    let generation = package_of(&host)?;
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

/// Blocks whom others block by rules of their own, for the term of who came back, but for those who are `safe`, and takes these
/// rules away. What is refused is said.
///
/// # Errors
/// The ledger or the kernel refuses, or iptables does; what was moved by then is.
pub fn take_over(host: &Host, addresses: &BTreeSet<IpAddr>, is_safe: impl Fn(IpAddr) -> bool) -> Result<Vec<String>> {
    let term = Policy::read(Path::new(POLICY))?.block.term;
    let length = term.map_or(Wanted::Ever, |term| Wanted::Seconds(term.as_secs()));
    // Who is in the ledger has a term of his own.
    let blocked = blocks::blocked()?;
    let new: Vec<IpAddr> = addresses.difference(&blocked).copied().filter(|&address| !is_safe(address)).collect();
    let why = "blocked before, by a rule, a line or a ban of its own";
    let block = |&address| Request::Block { address, length, by: By::Portsentry, why: why.to_owned() };
    let answers = answers_to(&new.iter().map(block).collect::<Vec<_>>())?;
    let mut refused = Vec::new();
    let mut moved = addresses.clone();
    for (address, answer) in new.iter().zip(answers) {
        if let Answer::Refused(why) = answer {
            // A rule that shuts out somebody for whom there is no room stays.
            moved.remove(address);
            refused.push(format!("{why}; a rule of the firewall that blocks it is left as it is"));
        }
    }
    package::free_of_rules(host, &moved)?;
    Ok(refused)
}

/// Has the kernel, TCP wrappers, fail2ban and Debian's portsentry, if that is one of `generation`, hold for blocked whom the
/// ledger does, and nobody else.
///
/// # Errors
/// One of them refuses.
pub fn follow_the_ledger(host: &Host, generation: Option<Generation>) -> Result<()> {
    restored()?;
    let blocked = blocks::blocked()?;
    wait_for_wrappers(|denied| *denied == blocked);
    host.unban_others(blocks::blocked)?;
    if let Some(generation) = generation {
        let blocked = blocks::blocked()?;
        package::forget(host, generation, |address| blocked.contains(&address))?;
    }
    Ok(())
}

/// `blocked`.
pub fn list(common: &Common) -> Result<Exit> {
    live(common)?;
    let listed = match control::ask(&Request::List)? {
        Some(Answer::List(listed)) => listed,
        Some(other) => return Err(refusal(other)),
        None => blocks::look()?,
    };
    let host = Host::new(Path::new("/"))?;
    let generation = package_of(&host)?;
    let differences = blocks::differences(&host, generation, &listed)?;
    let names = package::names(&host, generation.unwrap_or(Generation::Embedded));
    if common.format == Format::Json {
        let rows: Vec<Named> =
            listed.iter().map(|one| Named { one, name: names.get(&one.address).map(String::as_str) }).collect();
        let document = json!({
            "schema": "harden-portsentry/blocked/1", "blocked": rows, "differences": differences,
        });
        print(&format!("{document:#}\n"));
    } else {
        print(&table(&listed, &names));
        print(&disagreements(&differences));
    }
    Ok(Exit::Good)
}

/// Has the kernel block whom the ledger says: at boot, before the network is up, and after somebody flushed the ruleset. A
/// daemon that runs does it by itself, and when it is asked.
pub fn restore(common: &Common) -> Result<Exit> {
    live(common)?;
    if !blocks::is_begun()? {
        // With the literal CHAOS nobody needs a table.
        return Ok(Exit::Good);
    }
    let blocked = restored()?;
    if !common.quiet {
        print(&match blocked {
            1 => "One host is blocked.\n".to_owned(),
            blocked => format!("{blocked} hosts are blocked.\n"),
        });
    }
    Ok(Exit::Good)
}

/// Frees everybody until they are restored.
pub fn unload(common: &Common) -> Result<Exit> {
    live(common)?;
    blocks::unload()?;
    Ok(Exit::Good)
}

/// Has the kernel block whom the ledger says; how many these are.
fn restored() -> Result<usize> {
    match open(false) {
        Ok((blocks, _, told)) => {
            tell(&told);
            if let Err(error) = blocks.publish(Now::read()) {
                tell(&[format!("{error:#}")]);
            }
            Ok(blocks.len())
        }
        Err(error) if error.is::<Busy>() => match control::ask(&Request::Restore)? {
            Some(Answer::Restored(blocked)) => Ok(blocked),
            Some(other) => Err(refusal(other)),
            // It is about to start, or to end, or somebody blocks: whoever it is has restored them.
            None => Ok(blocks::look()?.len()),
        },
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
    if !rustix::process::geteuid().is_root() {
        bail!("blocks are root's business; run it with sudo");
    }
    Ok(())
}

/// Asks the daemon, or does it in its place if none runs.
fn ask(request: Request) -> Result<Answer> {
    match answers_to(&[request])?.pop() {
        Some(Answer::Refused(why)) => Err(anyhow!("{why}")),
        answer => answer.context("nobody answered"),
    }
}

/// The same for many, an answer for each; what is refused is one as well.
fn answers_to(requests: &[Request]) -> Result<Vec<Answer>> {
    let start = Instant::now();
    let mut answers = Vec::new();
    loop {
        while let Some(request) = requests.get(answers.len()) {
            let Some(answer) = control::ask(request)? else { break };
            answers.push(answer);
        }
        let left = &requests[answers.len()..];
        if left.is_empty() {
            return Ok(answers);
        }
        match open(left.iter().any(|request| matches!(request, Request::Block { .. }))) {
            Ok((blocks, ledger, told)) => {
                tell(&told);
                answers.extend(serve(left, blocks, ledger)?);
            }
            Err(error) if error.is::<Busy>() && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.is::<Busy>() => bail!(
                "another process keeps the blocks and does not answer at {}; if it is the daemon, \
                 `systemctl restart {}` starts it anew",
                control::SOCKET,
                control::unit()
            ),
            Err(error) => return Err(error),
        }
    }
}

/// Does what is asked for in the daemon's place.
fn serve(requests: &[Request], mut blocks: Blocks, mut ledger: Ledger) -> Result<Vec<Answer>> {
    let now = Now::read();
    let (answers, records): (Vec<_>, Vec<_>) =
        requests.iter().map(|request| blocks.serve(request.clone(), now)).unzip();
    if answers.iter().all(|answer| matches!(answer, Answer::Refused(_))) {
        return Ok(answers);
    }
    let records = records.concat();
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
    Ok(answers)
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
    let mut problems = Vec::new();
    let policy = match Policy::read(Path::new(POLICY)) {
        Err(error) if !is_to_block => {
            problems.push(format!("{error:#}"));
            // Nobody is freed for want of room.
            Policy { block: Terms { in_all: IN_ALL, ..Terms::default() }, ..Policy::of_nobody()? }
        }
        policy => policy?,
    };
    let (answer, guard) = match of_configuration(&policy) {
        Err(error) if !is_to_block => {
            problems.push(format!("{error:#}"));
            (None, Guard::read(&policy, IgnoreList::default(), Path::new(""))?)
        }
        known => known?,
    };
    let answer = answer.unwrap_or(match policy.response.value {
        Response::Reject => blocks::Answer::Reject,
        Response::Noise => blocks::Answer::Noise,
        _ => blocks::Answer::Drop,
    });
    let (blocks, ledger, mut told) = Blocks::open(policy.block, answer, &packet_filter()?, guard)?;
    told.extend(problems);
    Ok((blocks, ledger, told))
}

/// What a blocked host meets and who is never blocked, as the configuration of whoever keeps the blocks says; where there is
/// none, Debian's ignore list is asked.
fn of_configuration(policy: &Policy) -> Result<(Option<blocks::Answer>, Guard)> {
    let config = match configuration() {
        Some(conf) => Config::of_blocks(conf)?,
        None => {
            let list = Path::new(Generation::OneProcess.ignore_list());
            Config { ignore_file: list.exists().then(|| list.to_owned()), ..Config::default() }
        }
    };
    let (ignored, _) = config.ignored()?;
    Ok((config.kill_nft, Guard::read(policy, ignored, &config.ignore_file.unwrap_or_default())?))
}

/// By what this host blocks, as that configuration says; where it cannot be read, as it blocks now.
fn packet_filter() -> Result<PacketFilter> {
    match configuration() {
        Some(conf) => Config::of_blocks(conf).map(|config| config.packet_filter).or_else(|_| PacketFilter::in_use()),
        None => Ok(PacketFilter::default()),
    }
}

/// That of whoever keeps the blocks.
fn configuration() -> Option<&'static Path> {
    let confs = [Generation::Embedded.conf(), blocks::CONF];
    confs.into_iter().map(Path::new).find(|conf| conf.exists())
}

fn say(common: &Common, document: &Value, text: &str) {
    if common.format == Format::Json {
        print(&format!("{document:#}\n"));
    } else if !common.quiet {
        print(&format!("{text}\n"));
    }
}

/// One blocked address, with the name that it had when it was caught, if anybody looked that up.
#[derive(Serialize)]
struct Named<'a> {
    #[serde(flatten)]
    one: &'a Listed,
    name: Option<&'a str>,
}

/// Whom the lists disagree about, and what mends it.
fn disagreements(differences: &BTreeMap<IpAddr, BTreeSet<Difference>>) -> String {
    if differences.is_empty() {
        return String::new();
    }
    let mut text = "\nThe lists disagree:\n".to_owned();
    let width = differences.keys().map(|address| address.to_string().len()).max().unwrap_or(0);
    for (address, differences) in differences {
        let words: Vec<String> = differences.iter().map(ToString::to_string).collect();
        text.push_str(&format!("{:<width$}  {}\n", address.to_string(), words.join("; ")));
    }
    text + "`harden-portsentry apply` has them say what the ledger says.\n"
}

fn table(listed: &[Listed], names: &HashMap<IpAddr, String>) -> String {
    if listed.is_empty() {
        return "No host is blocked.\n".to_owned();
    }
    let mut rows = vec![["ADDRESS", "NAME", "SINCE", "UNTIL", "TIMES", "BY", "WHY"].map(str::to_owned)];
    rows.extend(listed.iter().map(|one| {
        let name = names.get(&one.address).map_or("-", String::as_str).to_owned();
        let until = one.until.map_or("for ever".to_owned(), local);
        let times = one.times.to_string();
        [one.address.to_string(), name, local(one.since), until, times, one.by.to_string(), one.why.clone()]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(&row[6]);
        text.push('\n');
    }
    text
}

//! KILL_NFT: the response that is built in. The kernel's set first, all else afterwards and elsewhere.

use std::collections::HashSet;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use super::alarms::Alarm;
use super::config::Config;
use super::decide::Scan;
use super::keeper::{Entry, Keeper, Publish, Then};
use super::lookout::{Lookout, Named};
use super::metrics;
use super::output::Output;
use super::probe::Kind;
use super::reactions::{Entrance, Job};
use super::threads::locked;
use crate::blocks::control::{self, Request};
use crate::blocks::{
    Answer, Blocks, Busy, By, Evidence, Guard, IgnoreList, Ledger, Length, Now, Outcome, Record, Safe,
};
use crate::kernel::Gone;
use crate::settings::{POLICY, Policy};

/// Whoever blocks by hand, or at boot, is done by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that may wait.
const QUESTIONS: usize = 64;
/// How often it is looked who must not be blocked, where nothing tells that this may have changed: a resolver, say.
const LOOK: Duration = Duration::from_secs(60);
/// How often it is asked whether those are in the kernel's sets who are heard though they are blocked.
const ASK: Duration = Duration::from_secs(1);
/// Of those who are free at once so many are named.
const TOLD: usize = 10;

/// What is said, apart from a scan's own lines.
pub enum Handled {
    /// The rest is somebody else's.
    HandedOver,
    /// Its source is blocked already.
    Already,
    /// It is not blocked, for this reason.
    Not(Alarm, String),
}

/// Blocks, and keeps account of it.
pub struct Blocking {
    blocks: Blocks,
    keeper: Keeper,
    output: Output,
    answer: Answer,
    questions: Receiver<Question>,
    bell: UnixStream,
    clock: OwnedFd,
    lookout: Lookout,
    looked: Instant,
    /// Who is blocked and was heard all the same, since the kernel was asked about them last.
    heard: HashSet<IpAddr>,
    asked: Instant,
}

/// What somebody wants, and, where that is a block, who must not be blocked as of now.
struct Question {
    stream: UnixStream,
    request: Request,
    guard: Option<Guard>,
}

/// Blocks and ledger, taken over before it is said that anybody watches.
pub struct Opened(Blocks, Ledger, Vec<String>);

impl Opened {
    /// Takes over the blocks, if the configuration wants the built-in response.
    ///
    /// # Errors
    /// Another process keeps them, policy.toml or the ledger cannot be read, or the kernel refuses.
    pub fn of(config: &Config, ignored: &IgnoreList) -> Result<Option<Opened>> {
        let Some(answer) = config.kill_nft else { return Ok(None) };
        let policy = Policy::read(Path::new(POLICY))?;
        let named = named(config, ignored.clone());
        let start = Instant::now();
        loop {
            match Blocks::open(policy.block, answer, &config.packet_filter, named.guard()?) {
                Ok((mut blocks, ledger, told)) => {
                    blocks.keep_table();
                    return Ok(Some(Opened(blocks, ledger, told)));
                }
                Err(error) if error.is::<Busy>() && start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) if error.is::<Busy>() => {
                    return Err(error.context("KILL_NFT: only one daemon of a host can have it"));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What is to be told of it.
    pub fn told(&self) -> &[String] {
        &self.2
    }
}

impl Blocking {
    /// Starts the threads.
    ///
    /// # Errors
    /// The socket for `block` and its like cannot be made.
    pub fn start(
        opened: Opened,
        config: &Config,
        ignored: IgnoreList,
        entrance: Entrance,
        output: Output,
        publish: Publish,
    ) -> Result<Blocking> {
        let Opened(blocks, ledger, _) = opened;
        let listener = control::listen()?;
        let (bell, ringing) = UnixStream::pair().context("cannot make a pipe")?;
        bell.set_nonblocking(true).context("cannot make a pipe")?;
        ringing.set_nonblocking(true).context("cannot make a pipe")?;
        let keepers_bell = ringing.try_clone().context("cannot make a pipe")?;
        let (sender, questions) = sync_channel(QUESTIONS);
        let lookout = Lookout::start(named(config, ignored), ringing.try_clone().context("cannot make a pipe")?)?;
        let named = lookout.named();
        std::thread::spawn(move || listen(&listener, &named, &sender, &ringing));
        Ok(Blocking {
            blocks,
            keeper: Keeper::start(ledger, entrance, output.clone(), publish, keepers_bell),
            output,
            answer: config.kill_nft.unwrap_or(Answer::Drop),
            questions,
            bell,
            clock: clock_that_is_set()?,
            lookout,
            looked: Instant::now(),
            heard: HashSet::new(),
            asked: Instant::now(),
        })
    }

    /// What is to be polled: somebody asks; somebody has set the clock.
    pub fn waiting(&self) -> [BorrowedFd<'_>; 2] {
        [self.bell.as_fd(), self.clock.as_fd()]
    }

    /// How long until something is to be done without anybody asking; nothing left if it is to be done now.
    pub fn due(&self) -> Option<Duration> {
        let left = self.blocks.next_end().map(|end| end.saturating_sub(Now::read().boot).max(0));
        let left = left.map(|left| Duration::from_millis(u64::try_from(left).unwrap_or(0)));
        let look = (!self.blocks.is_empty()).then(|| LOOK.saturating_sub(self.looked.elapsed()));
        let ask = (!self.heard.is_empty()).then(|| ASK.saturating_sub(self.asked.elapsed()));
        [left, look, ask].into_iter().flatten().min()
    }

    /// How many are blocked.
    pub fn blocked_hosts(&self) -> usize {
        self.blocks.len()
    }

    /// A scan whose source is to be blocked.
    pub fn react(&mut self, scan: Scan, at: Timestamp) -> Handled {
        let source = scan.probe.source;
        let evidence = match scan.probe.kind {
            Kind::ConnectTcp => Evidence::Connection,
            _ if scan.insists => Evidence::Insistent,
            _ => Evidence::Forgeable,
        };
        let protocol = if scan.probe.kind.is_tcp() { "tcp" } else { "udp" };
        let why = format!("probed {protocol}/{}", scan.probe.port);
        let outcome = self.blocks.catch(source, evidence, &why, Now::read());
        self.output.metrics().block(match &outcome {
            Ok(Outcome::Block(..)) => metrics::Outcome::Blocked,
            Ok(Outcome::Already(_)) => metrics::Outcome::Already,
            Ok(Outcome::Limited(_)) => metrics::Outcome::Limited,
            Err(_) => metrics::Outcome::Refused,
        });
        match outcome {
            Ok(Outcome::Block(length, record)) => {
                self.lookout.ask();
                let said = vec![format!("attackalert: Host {source} has been blocked via nftables {}", span(length))];
                let then = Then::React(Box::new(Job { scan, at, blocked: Some(said) }));
                self.keeper.keep(Entry { records: vec![record], is_over: false, then });
                Handled::HandedOver
            }
            Ok(Outcome::Already(_)) => {
                self.heard.insert(source);
                Handled::Already
            }
            Ok(Outcome::Limited(limit)) => Handled::Not(Alarm::Limited, limit.to_string()),
            Err(error) if error.is::<Safe>() => Handled::Not(Alarm::Safe, error.to_string()),
            Err(error) => Handled::Not(Alarm::Refused, format!("{error:#}")),
        }
    }

    /// A source that is blocked, and is heard all the same. The kernel is asked about all of them at once and later: there may
    /// be thousands of packets that had come before the block.
    pub fn hear(&mut self, source: IpAddr) {
        self.output.metrics().block(metrics::Outcome::Already);
        self.heard.insert(source);
    }

    /// Answers whoever asked, frees whose time is over, and looks after the clock and who is safe. Returns who is free
    /// now, and whether somebody asked for that.
    pub fn attend(&mut self) -> (Vec<IpAddr>, bool) {
        let now = Now::read();
        let mut free = Vec::new();
        let mut is_wanted = false;
        super::signals::drain(&self.bell);
        // It fails, for the clock was set, and is heard again with the next time.
        let _ = rustix::io::read(&self.clock, &mut [0_u8; 8][..]);
        while let Ok(Question { stream, request, guard }) = self.questions.try_recv() {
            if let Some(guard) = guard {
                free.extend(self.take_guard(guard));
            }
            let wish = match &request {
                Request::Block { by, address, .. } => Some((*by, *address)),
                _ => None,
            };
            let (answer, records) = self.blocks.serve(request, now);
            let is_restored = matches!(answer, control::Answer::Restored(_));
            if let (Some((By::Portsentry | By::Fail2ban, address)), control::Answer::Refused(_)) = (wish, &answer) {
                // Debian's portsentry remembers him all the same, and the jail bans him; they are to forget it.
                free.push(address);
            }
            if let control::Answer::Freed(freed) = &answer {
                free.extend(freed);
                is_wanted |= !freed.is_empty();
            }
            let then = if matches!(wish, Some((By::Portsentry, _))) {
                self.answer_at_once(&stream, &answer);
                self.lookout.ask();
                Then::Nothing
            } else {
                Then::Answer(stream, Box::new(answer))
            };
            // TCP wrappers, too, who may say otherwise.
            self.keeper.keep(Entry { records, is_over: is_restored, then });
        }
        let over = self.blocks.pass(now);
        for address in over.iter().take(TOLD) {
            self.output.say(&format!("adminalert: Host {address} is free again, its time is over"));
        }
        if over.len() > TOLD {
            self.output
                .say(&format!("adminalert: {} more hosts are free again, their time is over", over.len() - TOLD));
        }
        free.extend(&over);
        if !over.is_empty() {
            self.keeper.keep(Entry { is_over: true, ..Entry::default() });
        }
        let was_set = self.blocks.clock_was_set(now);
        if was_set || self.keeper.wants_all() {
            let records = self.blocks.records(now);
            if was_set && !records.is_empty() {
                self.output.say("adminalert: the clock was set; the ledger of blocks is written by the new one");
            }
            self.keeper.keep_all(records, was_set);
        }
        if !self.blocks.is_empty() && self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.lookout.ask();
        }
        while let Some(found) = self.lookout.found() {
            match found {
                Ok(guard) => free.extend(self.take_guard(guard)),
                Err(error) => self.output.say(&format!(
                    "adminalert: ERROR: who must not be blocked cannot be found out, so it stays as it was: {error:#}"
                )),
            }
        }
        if !self.heard.is_empty() && self.asked.elapsed() >= ASK {
            let heard = std::mem::take(&mut self.heard);
            self.asked = Instant::now();
            if let Err(error) = self.blocks.block_again(&heard, now) {
                self.output.say(&format!("adminalert: ERROR: {error:#}"));
            }
        }
        (free, is_wanted)
    }

    /// Debian's portsentry sees nothing while it waits for an answer, so it does not wait for the disk. It takes whom it caught
    /// for blocked whatever is said to it.
    fn answer_at_once(&self, stream: &UnixStream, answer: &control::Answer) {
        control::answer(stream, answer);
        if let control::Answer::Refused(why) = answer {
            self.output.say(&format!("adminalert: ERROR: {why}"));
        }
    }

    /// Frees whom this guard objects to; an address may just have become this host's gateway. Returns who is free now.
    fn take_guard(&mut self, guard: Guard) -> Vec<IpAddr> {
        match self.blocks.watch_over(guard, Now::read()) {
            Ok(records) => self.tell_freed(records),
            Err(error) => {
                self.output.say(&format!("adminalert: ERROR: {error:#}"));
                Vec::new()
            }
        }
    }

    /// Tells who was freed, and has it written down; who they are.
    fn tell_freed(&self, records: Vec<Record>) -> Vec<IpAddr> {
        for record in records.iter().take(TOLD) {
            self.output.say(&format!("adminalert: Host {} is free again: {}", record.address, record.why));
        }
        if records.len() > TOLD {
            self.output.say(&format!("adminalert: {} more hosts are free again", records.len() - TOLD));
        }
        let free = records.iter().map(|record| record.address).collect();
        if !records.is_empty() {
            self.keeper.keep(Entry { records, ..Entry::default() });
        }
        free
    }

    /// Takes another configuration. Who is safe by it is found out soon. Returns who is free now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn configure(&mut self, config: &Config, ignored: IgnoreList, policy: &Policy) -> Result<Vec<IpAddr>> {
        let answer = config.kill_nft.unwrap_or(self.answer);
        let freed = self.blocks.configure(policy.block, answer, Now::read())?;
        self.answer = answer;
        *locked(&self.lookout.named()) = named(config, ignored);
        self.lookout.ask();
        Ok(self.tell_freed(freed))
    }

    /// Mends the table, with all blocks, if somebody took it away or took something out of it; whether that was so.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn restore(&mut self, gone: &Gone) -> Result<bool> {
        self.blocks.restore(gone, Now::read())
    }

    /// The same where nobody tells: looks whether it is so.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn check(&mut self) -> Result<bool> {
        self.blocks.check(Now::read())
    }

    /// Writes what waits to be written, and ends; the kernel goes on blocking.
    pub fn end(self) {
        let _ = std::fs::remove_file(control::SOCKET);
        let Blocking { blocks, keeper, .. } = self;
        keeper.end(|| blocks.records(Now::read()));
    }
}

fn named(config: &Config, ignored: IgnoreList) -> Named {
    Named { ignored, ignore_file: config.ignore_file.clone().unwrap_or_default() }
}

/// `for 10 minutes`, `for ever`.
fn span(length: Length) -> String {
    let Some(length) = length else { return "for ever".to_owned() };
    let seconds = length.as_secs();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let (size, name) = units.into_iter().find(|(size, _)| seconds.is_multiple_of(*size)).unwrap_or((1, "second"));
    let count = seconds / size;
    format!("for {count} {name}{}", if count == 1 { "" } else { "s" })
}

/// Becomes readable when somebody sets the clock (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
fn clock_that_is_set() -> Result<OwnedFd> {
    let doing = "cannot hear of it when the clock is set";
    let timer =
        timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).context(doing)?;
    let never = Timespec { tv_sec: clock_gettime(ClockId::Realtime).tv_sec.saturating_add(1 << 33), tv_nsec: 0 };
    let at = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &at).context(doing)?;
    Ok(timer)
}

/// Reads one question after the other, and rings for each.
fn listen(listener: &UnixListener, named: &Mutex<Named>, questions: &SyncSender<Question>, mut bell: &UnixStream) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let asked = control::question(&stream).context("what is asked cannot be read").and_then(|request| {
            // Debian's portsentry waits, and whom it caught this looks at afterwards, as at its own.
            let looks = matches!(request, Request::Block { by, .. } if by != By::Portsentry);
            let guard = looks.then(|| locked(named).clone().guard()).transpose()?;
            Ok((request, guard))
        });
        match asked {
            Ok((request, guard)) => {
                if questions.send(Question { stream, request, guard }).is_err() {
                    return;
                }
                let _ = bell.write(b".");
            }
            Err(error) => control::answer(&stream, &control::Answer::Refused(format!("{error:#}"))),
        }
    }
}

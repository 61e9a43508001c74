//! Commands run on the machine, by duct: bounded in time, in the C locale, never through a shell.

use std::fs::File;
use std::io::{ErrorKind, Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

/// Where programs are looked for: never the caller's PATH, which sudo or an attacker may have shaped.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// One command to run: its words, its input, how long it may take.
#[derive(Debug, Clone)]
pub struct Invocation {
    program: String,
    arguments: Vec<String>,
    input: Vec<u8>,
    environment: Vec<(String, String)>,
    discards_stdout: bool,
    limit: Duration,
}

/// What a command answered.
#[derive(Debug, Clone)]
pub struct CommandOutput {
    /// Exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// Whether it exited 0.
    pub fn ok(&self) -> bool {
        self.status == Some(0)
    }

    /// Its last words on stderr, else on stdout: what a person wants to read when it failed.
    pub fn last_words(&self) -> String {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let lines: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(6)..].join("\n")
    }
}

impl Invocation {
    /// `program` with `arguments`, no input, 30 seconds at most.
    pub fn new<S: AsRef<str>>(program: &str, arguments: &[S]) -> Invocation {
        Invocation {
            program: program.to_owned(),
            arguments: arguments.iter().map(|word| word.as_ref().to_owned()).collect(),
            input: Vec::new(),
            environment: Vec::new(),
            discards_stdout: false,
            limit: Duration::from_secs(30),
        }
    }

    /// The same, given `bytes` on its standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Invocation {
        self.input = bytes.into();
        self
    }

    /// The same, with one more environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Invocation {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, whose output nobody wants; what it says of errors is kept.
    pub fn without_stdout(mut self) -> Invocation {
        self.discards_stdout = true;
        self
    }

    /// The same, allowed to take this long before it and its children are killed.
    pub fn within(mut self, limit: Duration) -> Invocation {
        self.limit = limit;
        self
    }

    /// The words as a person would type them.
    pub fn shown(&self) -> String {
        let mut words = vec![self.program.clone()];
        words.extend(self.arguments.iter().map(|word| {
            if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "\"'$`;|&<>()*?".contains(c)) {
                format!("'{}'", word.replace('\'', r"'\''"))
            } else {
                word.clone()
            }
        }));
        words.join(" ")
    }

    /// Runs it and returns what it answered, whatever its exit status. It has ended when its own process has, whatever it
    /// left in the background.
    ///
    /// # Errors
    /// The program is not there, cannot be started, or did not end in time.
    pub fn run(&self) -> Result<CommandOutput> {
        let mut environment = vec![
            ("PATH".to_owned(), PATH.to_owned()),
            ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
            ("HOME".to_owned(), "/root".to_owned()),
        ];
        environment.extend(self.environment.iter().cloned());
        let doing = || format!("cannot run `{}`", self.shown());
        // Files in memory, and not pipes: of a pipe the end would be waited for, which a child that was left in the
        // background holds for as long as it likes, and closed, it would kill that child at its next word.
        let (stdout, stderr) = (Text::empty().with_context(doing)?, Text::empty().with_context(doing)?);
        let expression = duct::cmd(&self.program, &self.arguments).unchecked().full_env(environment);
        let expression = match self.input.as_slice() {
            [] => expression.stdin_null(),
            input => expression.stdin_file(Text::of(input).with_context(doing)?.0),
        };
        let expression = match self.discards_stdout {
            true => expression.stdout_null(),
            false => expression.stdout_file(stdout.0.try_clone().with_context(doing)?),
        };
        // In a group of its own: a limit must end the grandchildren too, and a Ctrl-C must not reach dpkg half-way.
        let handle = expression
            .stderr_file(stderr.0.try_clone().with_context(doing)?)
            .before_spawn(|command| {
                command.process_group(0);
                Ok(())
            })
            .start()
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => anyhow::anyhow!("{} is not installed (looked in {PATH})", self.program),
                _ => anyhow::Error::new(error),
            })
            .with_context(doing)?;
        let ended = handle.wait_timeout(self.limit).with_context(|| format!("cannot wait for `{}`", self.shown()))?;
        let Some(status) = ended.map(|output| output.status.code()) else {
            for pid in handle.pids() {
                if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
            }
            let _ = handle.wait();
            bail!("`{}` did not end within {} s; it was killed", self.shown(), self.limit.as_secs());
        };
        Ok(CommandOutput {
            status,
            stdout: stdout.read().with_context(doing)?,
            stderr: stderr.read().with_context(doing)?,
        })
    }

    /// Runs it and demands exit status 0.
    ///
    /// # Errors
    /// As [`Invocation::run`], and an exit status other than 0, with the command's last words.
    pub fn demand(&self) -> Result<CommandOutput> {
        let output = self.run()?;
        if output.ok() {
            return Ok(output);
        }
        let how = output.status.map_or("was ended by a signal".to_owned(), |code| format!("exited with {code}"));
        bail!("`{}` {how}:\n{}", self.shown(), output.last_words())
    }
}

/// A file in memory, without a name.
struct Text(File);

impl Text {
    fn empty() -> std::io::Result<Text> {
        Ok(Text(memfd_create("harden-portsentry", MemfdFlags::CLOEXEC)?.into()))
    }

    fn of(bytes: &[u8]) -> std::io::Result<Text> {
        let mut text = Text::empty()?;
        text.0.write_all(bytes)?;
        text.0.rewind()?;
        Ok(text)
    }

    /// What was written into it so far. Whoever goes on writing shares its place in the file, which stays.
    fn read(&self) -> std::io::Result<String> {
        let mut bytes = vec![0; usize::try_from(self.0.metadata()?.len()).unwrap_or(usize::MAX)];
        self.0.read_exact_at(&mut bytes, 0)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A process that goes on when this one ends.
pub struct Detached(std::process::Child);

impl Detached {
    /// How it ended, if it has.
    ///
    /// # Errors
    /// It is no child of this process.
    pub fn try_wait(&mut self) -> std::io::Result<Option<std::process::ExitStatus>> {
        self.0.try_wait()
    }
}

/// Starts this program again with `words` and one more variable in its environment, with nothing to read.
///
/// # Errors
/// It cannot be started.
pub fn start_detached(words: &[String], variable: (&str, &str)) -> Result<Detached> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    std::process::Command::new(&program)
        .args(words)
        .env(variable.0, variable.1)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .map(Detached)
        .with_context(|| format!("cannot start {}", program.display()))
}

/// Starts this program again with `words`, reading from `stdin`, in a group of its own; what it says goes where this
/// process's errors go, or nowhere.
///
/// # Errors
/// It cannot be started.
pub fn start_with_stdin(words: &[String], stdin: std::os::fd::OwnedFd, is_heard: bool) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    std::process::Command::new(&program)
        .args(words)
        .env("PATH", PATH)
        .stdin(stdin)
        .stdout(std::process::Stdio::null())
        .stderr(if is_heard { std::process::Stdio::inherit() } else { std::process::Stdio::null() })
        .process_group(0)
        .spawn()
        .map(drop)
        .with_context(|| format!("cannot start {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_end_is_killed_with_its_children() {
        let sleeper = Invocation::new("sh", &["-c", "sleep 60; true"]).within(Duration::from_millis(100));
        let error = sleeper.run().unwrap_err().to_string();
        assert!(error.contains("did not end within"), "{error}");
    }

    /// The grandchildren hold what they inherited, and neither the kill nor the end of the command waits for that.
    #[test]
    fn what_goes_on_in_the_background_is_not_waited_for_and_can_go_on_speaking() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display().to_string();
        let goes_on = format!(
            "(until test -e {place}/go; do sleep 0.05; done; echo word; echo word >&2; : >{place}/spoke) & echo done"
        );
        let output = Invocation::new("sh", &["-c", &goes_on]).run().unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (Some(0), "done\n"));
        std::fs::write(directory.path().join("go"), "").unwrap();
        let start = std::time::Instant::now();
        while !directory.path().join("spoke").exists() {
            assert!(start.elapsed() < Duration::from_secs(20), "a word killed it");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_grandchild_that_left_the_group_does_not_hold_up_the_kill() {
        let start = std::time::Instant::now();
        let sleeper = Invocation::new("sh", &["-c", "setsid sleep 60 & sleep 60"]).within(Duration::from_millis(100));
        let error = sleeper.run().unwrap_err().to_string();
        assert!(error.contains("did not end within"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30), "the grandchild was waited for");
    }

    #[test]
    fn it_reads_what_it_is_given_however_much() {
        let input = "x".repeat(1 << 20);
        let output = Invocation::new("cat", &[] as &[&str]).input(input.as_str()).demand().unwrap();
        assert_eq!(output.stdout, input);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = format!("{:#}", Invocation::new("no-such-program", &["x"]).run().unwrap_err());
        assert!(error.contains("no-such-program is not installed"), "{error}");
    }

    #[test]
    fn a_failure_shows_the_last_words() {
        let error = Invocation::new("sh", &["-c", "echo first >&2; echo last >&2; exit 3"]).demand().unwrap_err();
        assert!(error.to_string().ends_with("exited with 3:\nfirst\nlast"), "{error}");
    }

    #[test]
    fn the_callers_environment_does_not_reach_it() {
        let output = Invocation::new("env", &[] as &[&str]).env("DEBIAN_FRONTEND", "noninteractive").demand().unwrap();
        let mut names: Vec<_> = output.stdout.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["DEBIAN_FRONTEND", "HOME", "LC_ALL", "PATH"]);
    }
}

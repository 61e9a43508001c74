//! The watcher's side.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::super::commands::{Deed, Ended, LIMIT};
use super::super::connect::Socket;
use super::super::lines::HostName;
use super::super::names;
use super::{Answer, LINE, NameAnswer, Numbered, Question, receive_line, send, send_line};

/// How long an answer may take that needs no command.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection by which nobody asks is kept.
pub const REST: Duration = Duration::from_secs(20);

/// The way to a responder.
#[derive(Debug, Clone)]
pub enum Way {
    /// systemd listens here, and starts one for each connection.
    Socket(&'static str),
    /// One that was started beside this process, stays, and is handed connections by this.
    Given(Arc<UnixStream>),
}

impl Way {
    /// systemd's, if it listens at `socket`.
    pub fn of_systemd(socket: &'static str) -> Option<Way> {
        Path::new(socket).exists().then_some(Way::Socket(socket))
    }

    /// To the one at the other end of `stream`.
    ///
    /// # Errors
    /// It is no socket.
    pub fn given(stream: UnixStream) -> Result<Way> {
        stream.set_write_timeout(Some(Duration::from_secs(2))).context("cannot use a socket")?;
        Ok(Way::Given(Arc::new(stream)))
    }

    /// A connection, of whoever asks alone.
    ///
    /// # Errors
    /// Nobody listens, or this process may not connect.
    pub fn connect(&self) -> Result<UnixStream> {
        let stream = match self {
            Way::Socket(path) => {
                UnixStream::connect(path).with_context(|| format!("cannot reach the responder at {path}"))?
            }
            Way::Given(control) => {
                let (near, far) = UnixStream::pair().context("cannot make a socket")?;
                send(control, b".", Some(far.as_fd())).context("the responder is gone")?;
                near
            }
        };
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        Ok(stream)
    }

    /// What becomes readable when the one that stays is gone; systemd starts another by itself.
    pub fn ends(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Way::Socket(_) => None,
            Way::Given(control) => Some(control.as_fd()),
        }
    }
}

/// One that runs commands, connected to when there is something to do.
pub struct Remote {
    way: Way,
    connection: Option<UnixStream>,
    /// Of the last question.
    number: u64,
}

impl Remote {
    pub fn new(way: Way) -> Remote {
        Remote { way, connection: None, number: 0 }
    }

    /// Has it run what the configuration says.
    ///
    /// # Errors
    /// It cannot be reached, or does not answer in time.
    pub fn run(&mut self, deed: Deed, target: IpAddr, port: u16, mode: &str) -> Result<Ended> {
        let question = Question::Run { deed, target, port, mode: mode.to_owned() };
        match self.ask(question, LIMIT + PATIENCE)?.0 {
            Answer::Ended(ended) => Ok(ended),
            _ => bail!("the responder did not say how it ended"),
        }
    }

    /// Has it open a port that the configuration names; `None` if it cannot either.
    ///
    /// # Errors
    /// It cannot be reached, or does not answer in time.
    pub fn listen(&mut self, port: u16, is_tcp: bool, mode: &str) -> Result<Option<(&'static str, Socket)>> {
        match self.ask(Question::Listen { port, tcp: is_tcp, mode: mode.to_owned() }, PATIENCE)? {
            (Answer::Listening(None), _) => Ok(None),
            (Answer::Listening(Some(family)), Some(descriptor)) => {
                let family = if family == "AF_INET" { "AF_INET" } else { "AF_INET6" };
                Ok(Some((family, Socket::of(descriptor, is_tcp)?)))
            }
            _ => bail!("the responder did not say whether it opened it"),
        }
    }

    /// Has it write the file that hosts.deny names.
    ///
    /// # Errors
    /// It cannot be reached, does not answer in time, or could not write it.
    pub fn publish_denied(&mut self) -> Result<()> {
        match self.ask(Question::PublishDenied, LIMIT)?.0 {
            Answer::Published(true) => Ok(()),
            Answer::Published(false) => bail!("the responder could not write it; its journal says why"),
            _ => bail!("the responder did not say whether it wrote it"),
        }
    }

    /// An answer that is late must not be taken for that of the next question, so any error ends the connection.
    fn ask(&mut self, what: Question, limit: Duration) -> Result<(Answer, Option<OwnedFd>)> {
        self.number += 1;
        let question = Numbered { number: self.number, what };
        let stream = match self.connection.take() {
            // It ends by itself after a while; then the next one is asked.
            Some(stream) if send_line(&stream, &question, None).is_ok() => stream,
            _ => {
                let stream = self.way.connect()?;
                send_line(&stream, &question, None).context("cannot ask the responder")?;
                stream
            }
        };
        stream.set_read_timeout(Some(limit))?;
        let (line, descriptor) = receive_line(&stream).context("the responder does not answer")?;
        let Numbered { number, what } =
            serde_json::from_slice(&line).context("the responder's answer cannot be read")?;
        ensure!(number == self.number, "the responder answers another question");
        self.connection = Some(stream);
        Ok((what, descriptor))
    }

    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Lets it end.
    pub fn close(&mut self) {
        self.connection = None;
    }
}

/// Asks for names, one connection for as long as there are any to ask for. `tell` gets what comes back, cleaned again.
pub fn ask_names(way: Way, tell: impl Fn(IpAddr, Option<HostName>) + Send + Clone + 'static) -> SyncSender<IpAddr> {
    let (questions, asked) = sync_channel::<IpAddr>(names::WAITING);
    std::thread::spawn(move || {
        let mut connection: Option<UnixStream> = None;
        loop {
            let limit = if connection.is_some() { REST } else { Duration::MAX };
            let address = match asked.recv_timeout(limit) {
                Ok(address) => address,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(stream) = connection.take() {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if connection.as_ref().is_some_and(|stream| send_line(stream, &address, None).is_ok()) {
                continue;
            }
            connection = way.connect().ok().filter(|stream| send_line(stream, &address, None).is_ok());
            match &connection {
                Some(stream) => hear(stream, tell.clone()),
                None => tell(address, None),
            }
        }
    });
    questions
}

/// Tells every name that comes, in a thread that ends with the connection.
fn hear(stream: &UnixStream, tell: impl Fn(IpAddr, Option<HostName>) + Send + 'static) {
    let Ok(stream) = stream.try_clone() else { return };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            match reader.by_ref().take(LINE as u64).read_line(&mut line) {
                Ok(1..) => {}
                _ => return,
            }
            let Ok((address, name)) = serde_json::from_str::<NameAnswer>(&line) else { return };
            tell(address, name.and_then(|name| HostName::clean(&name)));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::receive;
    use super::*;

    /// A responder of the test's own, whose every connection `each` serves.
    fn responder(each: impl Fn(UnixStream) + Send + 'static) -> Way {
        let (near, far) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            while let Ok((1.., Some(connection))) = receive(&far, &mut [0]) {
                each(connection.into());
            }
        });
        Way::given(near).unwrap()
    }

    fn numbered(stream: &UnixStream) -> u64 {
        let (line, _) = receive_line(stream).unwrap();
        serde_json::from_slice::<Numbered<Question>>(&line).unwrap().number
    }

    #[test]
    fn the_answer_to_another_question_is_taken_for_none_and_the_connection_with_it() {
        let way = responder(|stream| {
            let number = numbered(&stream);
            // That of the one before, which nobody waited for any more.
            let of = if number == 1 { 0 } else { number };
            send_line(&stream, &Numbered { number: of, what: Answer::Published(true) }, None).unwrap();
        });
        let mut remote = Remote::new(way);
        let error = format!("{:#}", remote.publish_denied().unwrap_err());
        assert!(error.contains("another question") && !remote.is_connected(), "{error}");
        remote.publish_denied().unwrap();
    }

    #[test]
    fn one_that_is_gone_is_told_as_gone() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        let error = Remote::new(Way::given(near).unwrap()).publish_denied().unwrap_err();
        assert!(error.to_string().contains("the responder is gone"), "{error}");
    }
}

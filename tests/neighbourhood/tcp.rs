//! Connections as services and clients make them, good and bad ends included.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::{LIMIT, Net, wait_until};

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The client has what it wanted and closes; the server follows.
    ClientFirst,
    /// The server answers and closes, as HTTP/1.0 does.
    ServerFirst,
    /// The client resets, after the answer.
    ClientAborts,
    /// The server resets in place of an answer.
    ServerAborts,
    /// The server closes without having read all, which resets.
    Unread,
    /// The client says nothing until the server has had enough.
    Idle,
    /// The server has closed when the client says more, and more again.
    Late,
    /// The client has nothing more to say, and reads on.
    HalfClosed,
}

pub const ENDS: [End; 8] = [
    End::ClientFirst,
    End::ServerFirst,
    End::ClientAborts,
    End::ServerAborts,
    End::Unread,
    End::Idle,
    End::Late,
    End::HalfClosed,
];

const ANSWER: &[u8] = &[b'x'; 3000];
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\nHost: host\r\n\r\n";

/// A server on these addresses of a place, that does to each connection what its first byte asks for; `over` ends it.
pub fn server<'scope>(
    net: &Net,
    scope: &'scope Scope<'scope, '_>,
    place: &str,
    addresses: &[&str],
    over: &'scope AtomicBool,
) {
    for address in addresses {
        let address = (*address).to_owned();
        let (ready, is_ready) = std::sync::mpsc::channel();
        net.inside(scope, place, move || {
            let listener = TcpListener::bind(&address).unwrap_or_else(|error| panic!("{address}: {error}"));
            ready.send(()).expect("somebody waits");
            listener.set_nonblocking(true).expect("a socket");
            std::thread::scope(|workers| {
                for _ in 0..8 {
                    let listener = listener.try_clone().expect("a socket");
                    workers.spawn(move || serve(&listener, over));
                }
            });
        });
        is_ready.recv().expect("it listens");
    }
}

fn serve(listener: &TcpListener, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => answer(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => {} // a client that was gone before it was accepted
        }
    }
}

/// What a client does with a reset is the test; what the server's calls say of it is not.
fn answer(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(LIMIT));
    let mut how = [0];
    if stream.read_exact(&mut how).is_err() {
        return;
    }
    if how[0] == b'u' {
        return;
    }
    if how[0] == b'i' {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
    }
    let mut request = [0; REQUEST.len()];
    let _ = stream.read_exact(&mut request);
    match how[0] {
        b'c' | b'r' => {
            let _ = stream.write_all(ANSWER);
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1))); // the client's reset may be lost
            let _ = stream.read(&mut how);
        }
        b's' => drop(stream.write_all(ANSWER)),
        b'h' => {
            let _ = stream.read_to_end(&mut Vec::new());
            let _ = stream.write_all(ANSWER);
        }
        b'a' => abort(stream),
        _ => {}
    }
}

/// Closes with a reset.
pub fn abort(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket");
}

/// One connection.
fn converse(to: &str, end: End) {
    let mut stream = TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}, {end:?}: {error}"));
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    if end == End::ServerAborts {
        // a reset can be lost; the client gives up then, and its end arrives where nothing is any more
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
    }
    let mut answer = vec![0; ANSWER.len()];
    let how = match end {
        End::ClientFirst => b'c',
        End::ServerFirst => b's',
        End::ClientAborts => b'r',
        End::ServerAborts => b'a',
        End::Unread => b'u',
        End::Idle => b'i',
        End::Late => b'l',
        End::HalfClosed => b'h',
    };
    let request = [&[how], REQUEST].concat();
    let _ = stream.write_all(if end == End::Idle { &request[..1] } else { &request });
    match end {
        End::ClientFirst => stream.read_exact(&mut answer).expect("the answer"),
        End::ClientAborts => {
            stream.read_exact(&mut answer).expect("the answer");
            abort(stream);
        }
        End::HalfClosed => {
            stream.shutdown(Shutdown::Write).expect("a connection");
            let read = stream.read_to_end(&mut answer);
            assert_eq!(read.expect("the answer"), ANSWER.len());
        }
        End::ServerFirst | End::ServerAborts | End::Unread | End::Idle => drop(stream.read_to_end(&mut answer)),
        End::Late => {
            let _ = stream.read_to_end(&mut answer);
            let _ = stream.write_all(REQUEST);
            let _ = stream.read(&mut [0]); // by then the reset is there
            let _ = stream.write_all(REQUEST);
        }
    }
}

/// `count` connections of each end to an address, from a place.
pub fn connections(net: &Net, place: &str, to: &str, ends: &[End], count: usize) -> usize {
    const AT_ONCE: usize = 8;
    std::thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            net.inside(scope, place, move || {
                for number in (0..count * ends.len()).filter(|number| number % AT_ONCE == worker) {
                    converse(to, ends[number % ends.len()]);
                }
            });
        }
    });
    count * ends.len()
}

/// Connections to ports where nobody listens, on a machine that is not the watched one: its answers are resets.
pub fn refused(net: &Net, place: &str, to: &str, ports: std::ops::Range<u16>) -> usize {
    std::thread::scope(|scope| {
        let refused =
            |port| TcpStream::connect((to, port)).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        net.inside(scope, place, move || ports.filter(|port| refused(*port)).count()).join().expect("connects")
    })
}

/// Uploads that are large enough to be lost and disordered in part.
pub fn uploads(net: &Net, count: usize, size: usize) -> usize {
    const AT_ONCE: usize = 16;
    let to = (super::HOST, 8090);
    std::thread::scope(|scope| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        net.inside(scope, "host", move || {
            let listener = TcpListener::bind(to).expect("a free port");
            ready.send(()).expect("somebody waits");
            std::thread::scope(|readers| {
                for stream in listener.incoming().take(count) {
                    readers.spawn(move || {
                        let mut stream = stream.expect("a connection");
                        let read = stream.read_to_end(&mut Vec::new()).expect("an upload");
                        assert_eq!(read, size);
                        let _ = stream.write_all(b"thanks");
                    });
                }
            });
        });
        is_ready.recv().expect("it listens");
        for worker in 0..AT_ONCE {
            net.inside(scope, "client", move || {
                for _ in (0..count).filter(|number| number % AT_ONCE == worker) {
                    let mut stream = TcpStream::connect(to).expect("a listener");
                    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
                    stream.write_all(&vec![b'x'; size]).expect("a connection");
                    stream.shutdown(Shutdown::Write).expect("a connection");
                    let mut thanks = String::new();
                    stream.read_to_string(&mut thanks).expect("an answer");
                    assert_eq!(thanks, "thanks");
                }
            });
        }
    });
    count
}

/// Open connections of clients to a service on the host, and the service's side of them.
struct Opened {
    clients: Vec<TcpStream>,
    served: Vec<TcpStream>,
    listener: TcpListener,
}

fn opened(net: &Net, port: u16, count: usize) -> Opened {
    opened_between(net, ("client", "host", super::HOST), port, count)
}

fn opened_from_the_host(net: &Net, port: u16, count: usize) -> Opened {
    opened_between(net, ("host", "client", super::CLIENT), port, count)
}

fn opened_between(net: &Net, (from, to, address): (&str, &str, &'static str), port: u16, count: usize) -> Opened {
    std::thread::scope(|scope| {
        let listener = net.inside(scope, to, move || TcpListener::bind((address, port)).expect("a free port"));
        let listener = listener.join().expect("it listens");
        let clients = net.inside(scope, from, move || {
            (0..count).map(|_| TcpStream::connect((address, port)).expect("a listener")).collect::<Vec<_>>()
        });
        let served = (0..count).map(|_| listener.accept().expect("a client").0).collect();
        Opened { clients: clients.join().expect("clients"), served, listener }
    })
}

/// Connections that were there before the daemon was: clients of the host, and the host as a client.
pub struct Older {
    to_the_host: Opened,
    from_the_host: Opened,
}

impl Older {
    pub fn open(net: &Net, count: usize) -> Older {
        Older { to_the_host: opened(net, 8087, count), from_the_host: opened_from_the_host(net, 8087, count) }
    }

    /// They end, each side first in turns, some with a reset; what comes back meets sockets, or memories of them.
    pub fn close(self) -> usize {
        let mut number = 0;
        for Opened { clients, served, listener } in [self.to_the_host, self.from_the_host] {
            for (client, server) in clients.into_iter().zip(served) {
                let (first, mut second) = if number % 2 == 0 { (client, server) } else { (server, client) };
                if number % 3 == 0 {
                    abort(first)
                } else {
                    drop(first)
                }
                let _ = second.set_read_timeout(Some(LIMIT));
                let _ = second.write_all(REQUEST);
                let _ = second.read_to_end(&mut Vec::new());
                number += 1;
            }
            drop(listener);
        }
        number
    }
}

impl Older {
    /// The services stop in the midst of them. Their clients say more, and when they are told that it is over, they come
    /// back with new connections, which are refused.
    pub fn stop(self, net: &Net) -> usize {
        let Opened { clients, served, listener } = self.to_the_host;
        let count = clients.len();
        drop(listener);
        drop(served);
        carry_on(clients);
        for _ in 0..count {
            assert_eq!(refused(net, "client", super::HOST, 8087..8088), 1);
        }
        2 * count
    }
}

/// Downloads of the host that began before the daemon did.
pub struct Downloads(Opened);

impl Downloads {
    pub fn open(net: &Net, count: usize) -> Downloads {
        Downloads(opened_from_the_host(net, 8086, count))
    }

    /// The host has enough in the middle and resets them, over a link on which the rest is still on its way.
    pub fn cut_off(self, net: &Net) {
        net.run(
            "client",
            "tc",
            &["qdisc", "add", "dev", "lan", "root", "tbf", "rate", "20mbit", "burst", "3000", "limit", "1000000"],
        );
        let Opened { clients, served, listener } = self.0;
        for (mut download, mut upload) in clients.into_iter().zip(served) {
            std::thread::scope(|scope| {
                scope.spawn(move || upload.write_all(&vec![b'x'; 300_000]).is_ok());
                download.read_exact(&mut [0; 5_000]).expect("the beginning");
                abort(download);
            });
        }
        drop(listener);
    }
}

/// The clients say more or close, in turns, and wait for what comes of it.
fn carry_on(clients: Vec<TcpStream>) {
    for (number, mut client) in clients.into_iter().enumerate() {
        client.set_read_timeout(Some(LIMIT)).expect("a socket");
        if number % 2 == 0 {
            let _ = client.write_all(REQUEST);
        }
        let _ = client.shutdown(Shutdown::Write);
        let _ = client.read_to_end(&mut Vec::new()); // an end or a reset
    }
}

/// A service that stops in the middle of its connections, by itself or killed with data unread; its clients go on
/// while nobody listens, and come back when it does again.
pub fn restarts(net: &Net, count: usize) -> usize {
    let opened = opened(net, 8088, count);
    let mut clients = opened.clients;
    for client in clients.iter_mut().step_by(3) {
        client.write_all(REQUEST).expect("a connection"); // never read
    }
    drop(opened.listener);
    drop(opened.served);
    carry_on(clients);
    let again = self::opened(net, 8088, count);
    drop(again.served);
    carry_on(again.clients);
    2 * count
}

/// The host was rebooted: it told nobody, and the clients come back to a connection that it knows nothing of, on a port
/// that is in use again.
pub fn reboots(net: &Net, count: usize) -> usize {
    let opened = opened(net, 8089, count);
    net.nft("host", "table inet off { chain off { type filter hook output priority raw; tcp sport 8089 drop; }; }");
    for stream in opened.served {
        abort(stream);
    }
    drop(opened.listener);
    net.nft("host", "delete table inet off");
    let again = self::opened(net, 8089, 1);
    carry_on(opened.clients);
    drop(again);
    count
}

/// The host connects to a machine that answers when nobody waits any more.
pub fn late_answers(net: &Net, count: usize) -> usize {
    net.nft(
        "client",
        "table inet late {
            counter resets { }
            chain out { type filter hook output priority raw; tcp sport 8091 tcp flags & (syn | ack) == syn | ack drop; }
            chain back { type filter hook input priority raw; tcp dport 8091 tcp flags & rst == rst counter name resets; }
        }",
    );
    std::thread::scope(|scope| {
        let listener = net.inside(scope, "client", || TcpListener::bind((super::CLIENT, 8091)).expect("a free port"));
        let listener = listener.join().expect("it listens");
        net.inside(scope, "host", move || {
            let to = format!("{}:8091", super::CLIENT).parse().expect("an address");
            for _ in 0..count {
                let gave_up = TcpStream::connect_timeout(&to, Duration::from_millis(5));
                assert!(gave_up.is_err(), "an answer that was to be held back came");
            }
        })
        .join()
        .expect("connects");
        net.nft("client", "flush chain inet late out");
        wait_until("each late answer reset", || net.counter("client", "late", "resets") >= count as u64);
        drop(listener);
    });
    net.nft("client", "delete table inet late");
    count
}

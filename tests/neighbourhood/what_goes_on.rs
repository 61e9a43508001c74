//! What is open stays open, either way, and nothing new opens: connections and datagrams between the client and a host that
//! blocks it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::Net;
use super::blocks::run;
use super::home::Home;

/// Long where something is to come, short where nothing is.
fn patience(cut: bool) -> Duration {
    Duration::from_secs(if cut { 1 } else { 20 })
}

fn soon(stream: TcpStream, cut: bool) -> TcpStream {
    stream.set_read_timeout(Some(patience(cut))).expect("a time");
    stream
}

fn address(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().expect("an address"), port)
}

/// Sends a word and wants it back.
fn echo(stream: &TcpStream, word: &[u8]) -> bool {
    let mut stream = stream;
    let mut back = vec![0; word.len()];
    stream.write_all(word).is_ok() && stream.read_exact(&mut back).is_ok() && back == word
}

/// A server that returns what it gets; it ends with the test.
fn serve(host: &str, port: u16) {
    let listener = TcpListener::bind(address(host, port)).expect("a free port");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(count @ 1..) = (&stream).read(&mut bytes) {
                    let _ = (&stream).write_all(&bytes[..count]);
                }
            });
        }
    });
}

/// Blocks one address of the client, by hand. `blocked` says whom the kernel blocks; `host` is this host's address of the
/// family whose unspecified address is `any`; `cut` if nothing is to go on.
pub fn of_family(
    net: &Net,
    home: &Home,
    blocked: impl Fn() -> BTreeSet<String>,
    (host, any): (&'static str, &str),
    cut: bool,
) {
    // Of its addresses the client has its reasons to take one.
    let client = std::thread::scope(|scope| {
        let chosen = net.inside(scope, "client", || {
            let socket = UdpSocket::bind(address(any, 0)).expect("a port");
            socket.connect(address(host, 9)).expect("a route");
            socket.local_addr().expect("an address").ip().to_string()
        });
        chosen.join().expect("it works")
    });
    let client = client.as_str();
    std::thread::scope(|scope| {
        let on_host = |work| net.inside(scope, "host", work).join().expect("it works");
        let on_client = |work| net.inside(scope, "client", work).join().expect("it works");
        on_host(Box::new(|| serve(host, 8022)) as Box<dyn FnOnce() + Send>);
        let at = client.to_owned();
        on_client(Box::new(move || serve(&at, 8023)) as Box<dyn FnOnce() + Send>);
        let inbound =
            net.inside(scope, "client", || soon(TcpStream::connect(address(host, 8022)).expect("a server"), cut));
        let inbound = inbound.join().expect("connected");
        let outbound =
            net.inside(scope, "host", || soon(TcpStream::connect(address(client, 8023)).expect("a server"), cut));
        let outbound = outbound.join().expect("connected");
        let service =
            net.inside(scope, "host", || UdpSocket::bind(address(host, 8053)).expect("a port")).join().expect("bound");
        let question =
            net.inside(scope, "host", || UdpSocket::bind(address(host, 0)).expect("a port")).join().expect("bound");
        let server = net
            .inside(scope, "client", || UdpSocket::bind(address(client, 53)).expect("a port"))
            .join()
            .expect("bound");
        for socket in [&service, &question, &server] {
            socket.set_read_timeout(Some(patience(cut))).expect("a time");
        }
        assert!(echo(&inbound, b"before") && echo(&outbound, b"before"));
        // A question that is under way as its server is blocked.
        question.send_to(b"where", server.local_addr().expect("bound")).expect("sent");
        let mut bytes = [0; 64];
        let (_, asker) = server.recv_from(&mut bytes).expect("the question");

        let (said, ok) = run(net, home, &["block", client, "--for", "1h"]);
        assert!(ok, "{said}");
        assert_eq!(blocked(), BTreeSet::from([client.to_owned()]));

        server.send_to(b"here", asker).expect("sent");
        let answered = question.recv_from(&mut bytes).is_ok();
        let goes_on = [echo(&inbound, b"inbound after"), echo(&outbound, b"outbound after"), answered];
        assert_eq!(goes_on, [!cut; 3], "an open inbound and outbound connection, an answer");
        let opens = net.inside(scope, "client", || {
            (0..20)
                .filter(|_| TcpStream::connect_timeout(&address(host, 8022), Duration::from_millis(50)).is_ok())
                .count()
        });
        assert_eq!(opens.join().expect("tried"), 0);
        let asked_anew =
            net.inside(scope, "host", || TcpStream::connect_timeout(&address(client, 8023), patience(cut)).is_ok());
        assert_eq!(asked_anew.join().expect("tried"), !cut, "a connection of ours to it");
        net.inside(scope, "client", || {
            let socket = UdpSocket::bind(address(client, 0)).expect("a port");
            socket.send_to(b"blocked", address(host, 8053)).expect("sent");
        })
        .join()
        .expect("sent");
        // Who is not blocked is heard, and after it: so the other datagram is not under way still.
        net.inside(scope, "host", || {
            UdpSocket::bind(address(host, 0)).expect("a port").send_to(b"free", address(host, 8053)).expect("sent")
        })
        .join()
        .expect("sent");
        let (count, _) = service.recv_from(&mut bytes).expect("the other one");
        assert_eq!(&bytes[..count], b"free", "a datagram from the blocked host");
        let (_, ok) = run(net, home, &["unblock", client]);
        assert!(ok && blocked().is_empty());
        let opens = net.inside(scope, "client", || {
            TcpStream::connect_timeout(&address(host, 8022), Duration::from_secs(20)).is_ok()
        });
        assert!(opens.join().expect("tried"), "once it is free");
        for stream in [&inbound, &outbound] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
}

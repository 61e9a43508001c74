//! Connect mode: sockets of our own on the ports, for where there is no CAP_NET_ADMIN, or where a banner is wanted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Error, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::Config;
use super::invocation::Invocation;
use super::probe::{IpOptions, Kind, Probe};
use super::responder::{Remote, Way};
use crate::syntax::Dialect;

/// Connections and datagrams that are taken from one socket before the next one has its turn.
const AT_ONCE: usize = 64;
/// Connections that may linger; the oldest is closed for a new one.
const LINGERING: usize = 64;
/// Files that may be open beside the sockets on the ports: what lingers, the log, the ledger, questions of `block`.
const OTHER_FILES: usize = LINGERING + 128;

pub enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Socket {
    fn is_tcp(&self) -> bool {
        matches!(self, Socket::Tcp(_))
    }

    /// One that somebody else opened.
    ///
    /// # Errors
    /// It cannot be set up.
    pub fn of(fd: OwnedFd, is_tcp: bool) -> std::io::Result<Socket> {
        Ok(if is_tcp {
            let listener = TcpListener::from(fd);
            listener.set_nonblocking(true)?;
            Socket::Tcp(listener)
        } else {
            let socket = UdpSocket::from(fd);
            socket.set_nonblocking(true)?;
            Socket::Udp(socket)
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Udp(socket) => socket.as_fd(),
        }
    }
}

/// The sockets, with the ports that they listen on.
pub struct Listeners {
    /// Who opens ports that this process may not, if there is somebody.
    way: Option<Way>,
    sockets: Vec<(u16, Arc<Socket>)>,
    banner: Option<String>,
    greeted: Greeted,
}

/// Connections that were greeted. Closed at once, one whose client had sent something would be reset, and the greeting
/// with it.
#[derive(Default)]
struct Greeted {
    lingering: VecDeque<TcpStream>,
    /// Closed where no more files can be open, so that one more connection can be taken, and seen.
    reserve: Option<File>,
}

impl Greeted {
    /// Takes a connection, at the expense of an older one or of the reserve where no more files can be open.
    fn take(&mut self, listener: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
        match listener.accept() {
            Err(error) if is_out_of_files(&error) => {
                if self.lingering.pop_front().is_none() {
                    self.reserve = None;
                }
                listener.accept()
            }
            taken => taken,
        }
    }

    /// Greets, if there is room to linger; if not, the connection is gone, and the reserve back.
    fn greet(&mut self, mut stream: TcpStream, banner: Option<&str>) {
        if let Some(banner) = banner.filter(|_| self.reserve.is_some()) {
            // It fits into the socket's buffer, so this does not wait.
            let sent = stream.set_nonblocking(true).and_then(|()| stream.write_all(banner.as_bytes()));
            if sent.and_then(|()| stream.shutdown(Shutdown::Write)).is_ok() {
                self.lingering.push_back(stream);
            }
            if self.lingering.len() > LINGERING {
                self.lingering.pop_front();
            }
        } else {
            drop(stream);
        }
        if self.reserve.is_none() {
            self.reserve = File::open("/dev/null").ok();
        }
    }
}

impl Listeners {
    /// Listens on every port of the configuration that is free, on all addresses; with what is to be told of it.
    ///
    /// # Errors
    /// Not one port could be had.
    pub fn open(invocation: &Invocation, config: &Config, way: Option<Way>) -> Result<(Listeners, Vec<String>)> {
        raise_limit();
        let empty = Listeners { way, sockets: Vec::new(), banner: None, greeted: Greeted::default() };
        Listeners::open_beside(&empty, invocation, config)
    }

    /// The same, sharing the sockets of `old` that are wanted still.
    ///
    /// # Errors
    /// As [`Listeners::open`].
    pub fn open_beside(old: &Listeners, invocation: &Invocation, config: &Config) -> Result<(Listeners, Vec<String>)> {
        let mut told = Vec::new();
        let mut sockets = Vec::new();
        old.check_room(config)?;
        let tcp = config.tcp_ports.iter().map(|port| (port, true));
        let udp = config.udp_ports.iter().map(|port| (port, false));
        let mut refusal = None;
        let mut remote = old.way.clone().map(Remote::new);
        for (port, is_tcp) in tcp.chain(udp) {
            let protocol = if is_tcp { "TCP" } else { "UDP" };
            let own = || listen(port, is_tcp).map(|(family, socket)| (family, Arc::new(socket)));
            let opened = match old.shared(port, is_tcp).map_or_else(own, Ok) {
                Err(error) if may_not(&error) => listen_by(&mut remote, port, is_tcp, invocation).unwrap_or(Err(error)),
                opened => opened,
            };
            match opened {
                Ok((family, socket)) => {
                    told.push(match invocation.mode.dialect() {
                        Dialect::V1 => format!("adminalert: Going into listen mode on {protocol} port: {port}"),
                        Dialect::V2 => format!("Listen on {family}: {protocol} port: {port}"),
                    });
                    sockets.push((port, socket));
                }
                Err(error) => {
                    told.push(format!(
                        "adminalert: ERROR: could not bind {protocol} port {port}: {error}; it is not watched"
                    ));
                    refusal = Some(error);
                }
            }
        }
        match refusal {
            Some(error) if sockets.is_empty() => bail!("not one port could be listened on: {error}"),
            _ => Ok((
                Listeners {
                    way: old.way.clone(),
                    sockets,
                    banner: config.port_banner.clone(),
                    greeted: Greeted { lingering: VecDeque::new(), reserve: File::open("/dev/null").ok() },
                },
                told,
            )),
        }
    }

    fn shared(&self, port: u16, is_tcp: bool) -> Option<(&'static str, Arc<Socket>)> {
        let same = |(known, socket): &&(u16, Arc<Socket>)| *known == port && socket.is_tcp() == is_tcp;
        self.sockets.iter().find(same).map(|(_, socket)| ("AF_INET6", Arc::clone(socket)))
    }

    /// Whether the ports of `config` can be listened on beside these sockets.
    fn check_room(&self, config: &Config) -> Result<()> {
        let wanted = config.tcp_ports.iter().count() + config.udp_ports.iter().count();
        let leave = self.sockets.iter().filter(|(port, socket)| {
            let ports = if socket.is_tcp() { &config.tcp_ports } else { &config.udp_ports };
            ports.iter().all(|known| known != *port)
        });
        let needed = (wanted + leave.count() + OTHER_FILES) as u64;
        match getrlimit(Resource::Nofile).current {
            Some(limit) if limit < needed => bail!(
                "{wanted} ports take {needed} open files, and this process may have {limit}: watch fewer ports, or let it \
                 have more (LimitNOFILE={needed} in its unit, or ulimit -Hn {needed})"
            ),
            _ => Ok(()),
        }
    }

    /// What to wait for.
    pub fn waiting(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.sockets.iter().map(|(_, socket)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
    }

    /// Whoever came, each greeted; and how many sockets had somebody who could not be taken.
    pub fn accept(&mut self) -> (Vec<Probe>, u64) {
        let (mut found, mut not_taken) = (Vec::new(), 0);
        let banner = self.banner.as_deref();
        for (port, socket) in &self.sockets {
            for _ in 0..AT_ONCE {
                let taken = match &**socket {
                    Socket::Tcp(listener) => accept_tcp(listener, banner, &mut self.greeted),
                    Socket::Udp(socket) => accept_udp(socket, banner),
                };
                match taken {
                    Ok((source, destination, kind)) => found.push(Probe {
                        source: plain(source),
                        destination: plain(destination),
                        port: *port,
                        kind,
                        ip_options: IpOptions::Unknown,
                    }),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if is_out_of_files(&error) => {
                        not_taken += 1;
                        break;
                    }
                    // A client that was gone before it was taken.
                    Err(_) => {}
                }
            }
        }
        if not_taken > 0 {
            // They wait on, and would be asked for again at once.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        (found, not_taken)
    }
}

fn accept_tcp(
    listener: &TcpListener,
    banner: Option<&str>,
    greeted: &mut Greeted,
) -> std::io::Result<(IpAddr, IpAddr, Kind)> {
    let (stream, peer) = greeted.take(listener)?;
    let own = stream.local_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip());
    greeted.greet(stream, banner);
    Ok((peer.ip(), own, Kind::ConnectTcp))
}

fn accept_udp(socket: &UdpSocket, banner: Option<&str>) -> std::io::Result<(IpAddr, IpAddr, Kind)> {
    let (_, peer) = socket.recv_from(&mut [0; 1])?;
    if let Some(banner) = banner {
        let _ = socket.send_to(banner.as_bytes(), peer);
    }
    Ok((peer.ip(), IpAddr::V6(Ipv6Addr::UNSPECIFIED), Kind::ConnectUdp))
}

/// A port by the responder; `None` where there is none. One that does not answer is not asked for the other ports, each of
/// which would be waited for.
fn listen_by(
    remote: &mut Option<Remote>,
    port: u16,
    is_tcp: bool,
    invocation: &Invocation,
) -> Option<std::io::Result<(&'static str, Arc<Socket>)>> {
    match remote.as_mut()?.listen(port, is_tcp, invocation.mode.name()) {
        Ok(Some((family, socket))) => Some(Ok((family, Arc::new(socket)))),
        Ok(None) => Some(Err(Error::other("the responder did not open it; its journal says why"))),
        Err(why) => {
            *remote = None;
            Some(Err(Error::other(format!("{why:#}"))))
        }
    }
}

/// As many open files as the kernel lets this process have; there may be a socket for each port.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Whether that is enough is asked anyway.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn is_out_of_files(error: &Error) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

/// Whether this process may not have the port, or no such socket at all (RestrictAddressFamilies=).
fn may_not(error: &Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// A socket on `port` of all addresses, and its family in words: IPv6 with IPv4 in it, or IPv4 alone where the kernel has
/// no IPv6.
///
/// # Errors
/// Somebody has the port, or this process may not have it.
pub fn listen(port: u16, is_tcp: bool) -> std::io::Result<(&'static str, Socket)> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let old = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match open(both, is_tcp) {
        Ok(socket) => Ok(("AF_INET6", socket)),
        Err(error) if error.kind() == ErrorKind::AddrInUse || error.kind() == ErrorKind::PermissionDenied => Err(error),
        Err(_) => open(old, is_tcp).map(|socket| ("AF_INET", socket)),
    }
}

fn open(address: SocketAddr, is_tcp: bool) -> std::io::Result<Socket> {
    if is_tcp {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Socket::Tcp(listener))
    } else {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(Socket::Udp(socket))
    }
}

/// An IPv4 address, also where it came as `::ffff:203.0.113.9`.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::invocation::Mode;
    use super::*;

    /// Each port would be waited for, and nothing watched meanwhile.
    #[test]
    fn a_responder_that_does_not_answer_is_not_asked_for_the_other_ports() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        let mut remote = Some(Remote::new(Way::given(near).unwrap()));
        let invocation = Invocation::new(Mode::Connect);
        assert!(listen_by(&mut remote, 7, true, &invocation).unwrap().is_err());
        assert!(remote.is_none() && listen_by(&mut remote, 9, true, &invocation).is_none());
    }
}

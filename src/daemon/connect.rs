//! Connect mode: sockets of our own on the ports, for where there is no CAP_NET_ADMIN, or where a banner is wanted.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::config::Config;
use super::invocation::Invocation;
use super::probe::{IpOptions, Kind, Probe};
use super::responder::{Remote, Way};
use crate::syntax::Dialect;

/// Connections and datagrams that are taken from one socket before the next one has its turn.
const AT_ONCE: usize = 64;
/// Connections that may linger; the oldest is closed for a new one.
const LINGERING: usize = 64;

pub enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Socket {
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
    sockets: Vec<(u16, Socket)>,
    banner: Option<String>,
    /// Connections that were greeted. Closed at once, one whose client had sent something would be reset, and the
    /// greeting with it.
    greeted: VecDeque<TcpStream>,
}

impl Listeners {
    /// Listens on every port of the configuration that is free, on all addresses; with what is to be told of it.
    ///
    /// # Errors
    /// Not one port could be had.
    pub fn open(invocation: &Invocation, config: &Config, way: Option<Way>) -> Result<(Listeners, Vec<String>)> {
        let empty = Listeners { way, sockets: Vec::new(), banner: None, greeted: VecDeque::new() };
        Listeners::open_beside(&empty, invocation, config)
    }

    /// The same, sharing the sockets of `old` that are wanted still.
    ///
    /// # Errors
    /// As [`Listeners::open`].
    pub fn open_beside(old: &Listeners, invocation: &Invocation, config: &Config) -> Result<(Listeners, Vec<String>)> {
        let mut told = Vec::new();
        let mut sockets = Vec::new();
        let tcp = config.tcp_ports.iter().map(|port| (port, true));
        let udp = config.udp_ports.iter().map(|port| (port, false));
        let mut refusal = None;
        let mut remote = old.way.clone().map(Remote::new);
        for (port, is_tcp) in tcp.chain(udp) {
            let protocol = if is_tcp { "TCP" } else { "UDP" };
            let opened = old.shared(port, is_tcp).map_or_else(|| listen(port, is_tcp), Ok);
            let opened = match (opened, &mut remote) {
                (Err(error), Some(remote)) if may_not(&error) => {
                    remote.listen(port, is_tcp, invocation.mode.name()).map_err(|why| Error::other(format!("{why:#}")))
                }
                (opened, _) => opened,
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
                    greeted: VecDeque::new(),
                },
                told,
            )),
        }
    }

    fn shared(&self, port: u16, is_tcp: bool) -> Option<(&'static str, Socket)> {
        let (_, socket) =
            self.sockets.iter().find(|(known, socket)| *known == port && matches!(socket, Socket::Tcp(_)) == is_tcp)?;
        let socket = match socket {
            Socket::Tcp(listener) => Socket::Tcp(listener.try_clone().ok()?),
            Socket::Udp(socket) => Socket::Udp(socket.try_clone().ok()?),
        };
        Some(("AF_INET6", socket))
    }

    /// What to wait for.
    pub fn waiting(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.sockets.iter().map(|(_, socket)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
    }

    /// Whoever came; each was sent the banner and is gone again.
    pub fn accept(&mut self) -> Vec<Probe> {
        let mut found = Vec::new();
        let banner = self.banner.as_deref();
        for (port, socket) in &self.sockets {
            for _ in 0..AT_ONCE {
                let taken = match socket {
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
                    // A client that was gone before it was taken.
                    Err(_) => {}
                }
            }
        }
        found
    }
}

fn accept_tcp(
    listener: &TcpListener,
    banner: Option<&str>,
    greeted: &mut VecDeque<TcpStream>,
) -> std::io::Result<(IpAddr, IpAddr, Kind)> {
    let (mut stream, peer) = listener.accept()?;
    let own = stream.local_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip());
    if let Some(banner) = banner {
        // It fits into the socket's buffer, so this does not wait.
        let sent = stream.set_nonblocking(true).and_then(|()| stream.write_all(banner.as_bytes()));
        if sent.and_then(|()| stream.shutdown(Shutdown::Write)).is_ok() {
            greeted.push_back(stream);
        }
        if greeted.len() > LINGERING {
            greeted.pop_front();
        }
    }
    Ok((peer.ip(), own, Kind::ConnectTcp))
}

fn accept_udp(socket: &UdpSocket, banner: Option<&str>) -> std::io::Result<(IpAddr, IpAddr, Kind)> {
    let (_, peer) = socket.recv_from(&mut [0; 1])?;
    if let Some(banner) = banner {
        let _ = socket.send_to(banner.as_bytes(), peer);
    }
    Ok((peer.ip(), IpAddr::V6(Ipv6Addr::UNSPECIFIED), Kind::ConnectUdp))
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

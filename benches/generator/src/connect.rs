//! A connection to a service of the host, a request, and its answer, over and over, by one thread that is both ends, as in
//! [`crate::ping_pong`]. The client resets each of them, so that none waits for its end.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::{Settings, netns, pin, runtime, usage};

pub fn run(settings: &Settings) -> io::Result<()> {
    pin(settings)?;
    let at = format!("{}:{}", settings.need("to"), settings.number("port", 80));
    let at: SocketAddr = at.parse().unwrap_or_else(|_| usage(&format!("no address: {at}")));
    let before = netns::enter(settings.need("host"))?;
    let service = TcpListener::bind(at)?;
    netns::enter_file(&before)?;
    (0..100).try_for_each(|_| round(&service, at))?; // neighbours, caches
    let count = settings.number("count", 10_000);
    let (begin, cpu) = (Instant::now(), runtime::own());
    (0..count).try_for_each(|_| round(&service, at))?;
    println!("sent={count} wall_ns={} cpu_ns={}", begin.elapsed().as_nanos(), runtime::own() - cpu);
    Ok(())
}

fn round(service: &TcpListener, at: SocketAddr) -> io::Result<()> {
    let mut client = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    let (mut served, _) = service.accept()?;
    for stream in [&client, &served] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    }
    let mut room = [0; 64];
    client.write_all(b"request")?;
    let length = served.read(&mut room)?;
    served.write_all(&room[..length])?;
    client.read_exact(&mut room[..length])?;
    reset(&client)
}

/// Has a close of `stream` reset the connection.
fn reset(stream: &TcpStream) -> io::Result<()> {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the kernel reads as many bytes as it is told, of a value that lives until it returns.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const at_once).cast(),
            size_of_val(&at_once) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

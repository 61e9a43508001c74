//! A datagram to a service of the host and its answer, over and over, by one thread that is both ends: the kernel does all
//! of it within the two calls that send, so this thread's run time is what a round costs, without a wake-up.

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::{Settings, netns, pin, runtime};

pub fn run(settings: &Settings) -> io::Result<()> {
    pin(settings)?;
    let at = |key: &str, port: u64| format!("{}:{port}", settings.need(key));
    let before = netns::enter(settings.need("host"))?;
    let service = UdpSocket::bind(at("to", settings.number("port", 53)))?;
    netns::enter_file(&before)?;
    let client = UdpSocket::bind(at("from", 40_000))?;
    client.connect(at("to", settings.number("port", 53)))?;
    for socket in [&service, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    }
    let mut room = [0; 64];
    let mut round = || -> io::Result<()> {
        client.send(b"ping")?;
        let (length, from) = service.recv_from(&mut room)?;
        service.send_to(&room[..length], from)?;
        client.recv(&mut room).map(drop)
    };
    (0..100).try_for_each(|_| round())?; // neighbours, caches
    let count = settings.number("count", 100_000);
    let (begin, cpu) = (Instant::now(), runtime::own());
    (0..count).try_for_each(|_| round())?;
    println!("sent={count} wall_ns={} cpu_ns={}", begin.elapsed().as_nanos(), runtime::own() - cpu);
    Ok(())
}

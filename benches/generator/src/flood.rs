//! Many SYNs, at a rate.

use std::io;
use std::time::{Duration, Instant};

use crate::wire::{BATCH, Wire};
use crate::{Settings, frame, pin, runtime};

/// The sleep between bursts: the sender must not spin, since its run time is what is measured.
const TICK: Duration = Duration::from_millis(1);

pub fn run(settings: &Settings) -> io::Result<()> {
    pin(settings)?;
    let mut wire = Wire::open(settings)?;
    let mut packets = Packets::of(settings);
    let (count, rate) = (packets.count, settings.number("rate", 0));
    let (begin, cpu) = (Instant::now(), runtime::own());
    let mut sent = 0;
    while sent < count {
        let due = match rate {
            0 => count,
            _ => count.min((begin.elapsed().as_secs_f64() * rate as f64) as u64),
        };
        while sent < due {
            let burst = (due - sent).min(BATCH as u64);
            for at in 0..burst {
                let (from, source_port, port) = packets.next();
                frame::address(&mut wire.frames[at as usize], from, source_port, port);
            }
            wire.send(burst as usize)?;
            sent += burst;
        }
        if sent < count {
            std::thread::sleep(TICK);
        }
    }
    println!("sent={sent} wall_ns={} cpu_ns={}", begin.elapsed().as_nanos(), runtime::own() - cpu);
    Ok(())
}

/// Who asks which port, packet by packet.
struct Packets {
    from: u32,
    sources: u64,
    ports: Vec<u16>,
    count: u64,
    scanner: Option<(u32, Vec<u16>)>,
    number: u64,
}

impl Packets {
    fn of(settings: &Settings) -> Self {
        Self {
            from: settings.address("from"),
            sources: settings.number("sources", 1).max(1),
            ports: settings.ports("ports"),
            count: settings.number("count", 1),
            scanner: settings.get("scanner").map(|_| (settings.address("scanner"), settings.ports("scanner_ports"))),
            number: 0,
        }
    }

    fn next(&mut self) -> (u32, u16, u16) {
        let number = self.number;
        self.number += 1;
        if let Some(port) = self.scanned(number) {
            return (self.scanner.as_ref().map_or(0, |scanner| scanner.0), 40_000, port);
        }
        // One source: the ports in turns. Several: each packet the next source and the next port.
        let port = self.ports[(number % self.ports.len() as u64) as usize];
        (self.from.wrapping_add((number % self.sources) as u32), 20_000 + (number % 40_000) as u16, port)
    }

    /// The scanner's port, where the turn is the scanner's.
    fn scanned(&self, number: u64) -> Option<u16> {
        let (_, ports) = self.scanner.as_ref()?;
        let (third, step) = (self.count / 3, (self.count / 3 / ports.len() as u64).max(1));
        let within = number.checked_sub(third)?;
        (within % step == 0).then(|| ports.get((within / step) as usize).copied())?
    }
}

//! A raw packet socket that sends many frames a call.

use std::ffi::CString;
use std::io;

use crate::frame::{Frame, LENGTH};
use crate::{Settings, usage};

pub const BATCH: usize = 64;

pub struct Wire {
    socket: i32,
    pub frames: Vec<Frame>,
    parts: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl Wire {
    pub fn open(settings: &Settings) -> io::Result<Self> {
        let name = CString::new(settings.need("interface")).unwrap_or_else(|_| usage("interface="));
        // SAFETY: plain calls; the address is a zeroed, then filled in, sockaddr_ll of the size that is passed.
        let socket = unsafe {
            let index = libc::if_nametoindex(name.as_ptr());
            if index == 0 {
                return Err(io::Error::last_os_error());
            }
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0); // 0: receives nothing
            if socket < 0 {
                return Err(io::Error::last_os_error());
            }
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = index as i32;
            if libc::bind(socket, (&raw const address).cast(), size_of_val(&address) as u32) != 0 {
                return Err(io::Error::last_os_error());
            }
            socket
        };
        let mut frames = vec![crate::frame::template(mac(settings.need("mac")), settings.address("to")); BATCH];
        let mut parts: Vec<libc::iovec> = frames
            .iter_mut()
            .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: LENGTH })
            .collect();
        let messages = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: all zero is a message without an address, parts or control data.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        Ok(Self { socket, frames, parts, messages })
    }

    /// Sends the first `count` frames, all of them.
    pub fn send(&mut self, count: usize) -> io::Result<()> {
        debug_assert!(count <= self.parts.len());
        let mut sent = 0;
        while sent < count {
            // SAFETY: the messages point at `parts`, these at `frames`; neither vector grows or moves its contents.
            let more =
                unsafe { libc::sendmmsg(self.socket, self.messages.as_mut_ptr().add(sent), (count - sent) as u32, 0) };
            match more {
                ..0 => match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                    error => return Err(error),
                },
                more => sent += more as usize,
            }
        }
        Ok(())
    }
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().unwrap_or_else(|_| usage(&format!("mac={text}")))
}

//! Frames into a TAP from the host's side, as fast as a packet socket sends.
#![expect(unsafe_code, reason = "sendmmsg on a packet socket")]

use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use super::stage;

/// Frames per system call.
const BATCH: usize = 32;

/// Frames for the guest.
pub struct Flood {
    socket: OwnedFd,
    frame: Vec<u8>,
}

impl Flood {
    /// Of frames of `bytes` bytes.
    pub fn new(host_mac: [u8; 6], bytes: usize) -> Result<Self> {
        let mut frame = vec![0; bytes];
        frame[..6].copy_from_slice(&stage::GUEST_MAC);
        frame[6..12].copy_from_slice(&host_mac);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        Ok(Self {
            socket: open()?,
            frame,
        })
    }

    /// Sends a batch into the TAP.
    pub fn step(&mut self) {
        let mut part = libc::iovec {
            iov_base: self.frame.as_mut_ptr().cast(),
            iov_len: self.frame.len(),
        };
        // SAFETY: all zero is a valid message header.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        let mut messages = [message; BATCH];
        let socket = self.socket.as_raw_fd();
        // SAFETY: the messages point to a frame that outlives the call.
        unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), BATCH as u32, 0) };
    }
}

fn open() -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, "a packet socket cannot be had");
    // SAFETY: the descriptor was just made, for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let index = nix::net::if_::if_nametoindex(stage::TAP).context("the TAP's index")?;
    // SAFETY: all zero is a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index.cast_signed();
    let len = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the address is valid and of that length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    ensure!(bound == 0, "the packet socket cannot be bound");
    let on: libc::c_int = 1;
    // SAFETY: the option is an int.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            4,
        )
    };
    Ok(socket)
}

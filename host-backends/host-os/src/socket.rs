//! Bytes with descriptors over a Unix socket. One rule: every descriptor the kernel installed is owned at once, also
//! when the control data was cut or the message is bad, so that none can leak.
#![expect(unsafe_code, reason = "control messages carry raw descriptors")]

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

/// The kernel's limit of descriptors in one message (`SCM_MAX_FD`).
const MAX_FDS: usize = 253;
/// Room for them, in `u64` for alignment: header plus four bytes each.
const CONTROL_WORDS: usize = (MAX_FDS * 4 + 64) / 8;

/// Sends `bytes` and `fds`; returns how many bytes went. Does not block, does not raise SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    use nix::sys::socket::ControlMessage;
    use nix::sys::socket::MsgFlags;
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let iov = [io::IoSlice::new(bytes)];
    Ok(nix::sys::socket::sendmsg::<()>(
        socket.as_raw_fd(),
        &iov,
        control,
        flags,
        None,
    )?)
}

/// What one call of [`receive`] brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes; none means that the peer is gone.
    pub bytes: usize,
    /// Descriptors came that this process could not take: it is at its limit of open files (`MSG_CTRUNC`; there is room
    /// for as many as one message can carry).
    pub fds_lost: bool,
}

/// Receives into `bytes`, appends descriptors to `fds`. Does not block.
pub fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<Received> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut iov = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: an all-zero msghdr is a valid value of that C struct.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message refers to live buffers with their true lengths.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    take_fds(&message, fds);
    Ok(Received {
        bytes: got.unsigned_abs(),
        fds_lost: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// Owns every descriptor in the control data of `message`.
fn take_fds(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel filled the control buffer that `message` describes.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers inside the control buffer.
        let header = unsafe { std::ptr::read_unaligned(at) };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: as above; the data follows its header.
            let data = unsafe { libc::CMSG_DATA(at) }.cast::<RawFd>();
            // SAFETY: CMSG_LEN only computes.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = header.cmsg_len.saturating_sub(overhead) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: index is below the number of descriptors that cmsg_len announces.
                let place = unsafe { data.add(index) };
                // SAFETY: as above; unaligned because CMSG_DATA promises no alignment.
                let raw = unsafe { std::ptr::read_unaligned(place) };
                // SAFETY: the kernel installed this descriptor for us in this very call.
                fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        at = unsafe { libc::CMSG_NXTHDR(message, at) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::EventFd;

    #[test]
    fn descriptors_travel_with_their_bytes_and_none_is_lost() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let event = EventFd::new().unwrap();
        let many = vec![event.as_fd(); 253];
        assert_eq!(send(a.as_fd(), b"x", &many).unwrap(), 1);
        let mut fds = Vec::new();
        let mut bytes = [0; 8];
        let all = receive(b.as_fd(), &mut bytes, &mut fds).unwrap();
        assert_eq!((all.bytes, all.fds_lost), (1, false));
        assert_eq!(fds.len(), 253);
        let empty = receive(b.as_fd(), &mut bytes, &mut fds).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        let end = receive(b.as_fd(), &mut bytes, &mut fds).unwrap();
        assert_eq!((end.bytes, end.fds_lost), (0, false));
    }
}

//! The calls of packet sockets.
//!
//! Rule: nothing here decides anything; one call, its result, its errno.
#![expect(unsafe_code, reason = "system calls that take raw pointers")]

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

/// Bytes of the header before a frame on a packet socket: `virtio_net_hdr` without `num_buffers`.
pub(super) const VNET_HEADER: usize = 10;
/// Room for one control message, aligned as the kernel writes it.
type Control = [u64; 8];
const SOCKET_BUFFER: libc::c_int = 4 << 20;

/// What came with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Bytes of the frame.
    pub len: usize,
    /// The VLAN tag that the kernel took out of it.
    pub tag: Option<[u8; 4]>,
}

/// A socket that gets and sends all frames of the interface, with their headers.
pub(super) fn open(index: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers. Protocol 0: nothing arrives before the socket is bound.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for us just now.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let one: libc::c_int = 1;
    set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &one)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &one)?;
    set(
        &socket,
        libc::SOL_PACKET,
        libc::PACKET_IGNORE_OUTGOING,
        &one,
    )?;
    let _ = set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &SOCKET_BUFFER);
    let _ = set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &SOCKET_BUFFER);
    let promiscuous = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: u16::try_from(libc::PACKET_MR_PROMISC).unwrap_or(1),
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(
        &socket,
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &promiscuous,
    )?;
    // SAFETY: a struct of plain integers, for which zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(17);
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be();
    address.sll_ifindex = index;
    let len = length_of::<libc::sockaddr_ll>();
    // SAFETY: the address lives across the call and has the length given.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

fn set<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the value lives across the call and has the length given; the kernel only reads it.
    let failed =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, length_of::<T>()) };
    if failed < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether the socket's interface still exists.
pub(super) fn has_interface(socket: BorrowedFd<'_>) -> bool {
    // SAFETY: a struct of plain integers, for which zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = length_of::<libc::sockaddr_ll>();
    let target = (&raw mut address).cast();
    // SAFETY: the address lives across the call and has room for the length given.
    let failed = unsafe { libc::getsockname(socket.as_raw_fd(), target, &raw mut len) };
    failed == 0 && address.sll_ifindex > 0
}

/// Receives one frame into buffers of our own.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    header: &mut [u8; VNET_HEADER],
    frame: &mut [u8],
) -> Result<Option<Packet>, Errno> {
    let mut parts = [
        libc::iovec {
            iov_base: header.as_mut_ptr().cast(),
            iov_len: header.len(),
        },
        libc::iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: frame.len(),
        },
    ];
    let mut control: Control = [0; 8];
    // SAFETY: a struct of plain integers and pointers, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>();
    let fd = socket.as_raw_fd();
    // SAFETY: the message points to buffers that are ours and live across the call.
    let got = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT) };
    let got = usize::try_from(got).map_err(|_| Errno::last())?;
    if message.msg_flags & libc::MSG_TRUNC != 0 || got <= VNET_HEADER {
        return Ok(None);
    }
    Ok(Some(Packet {
        len: got - VNET_HEADER,
        tag: tag(&message),
    }))
}

/// The VLAN tag among the control messages, as it stands in a frame.
fn tag(message: &libc::msghdr) -> Option<[u8; 4]> {
    // SAFETY: the message is what recvmsg() filled.
    let first = unsafe { libc::CMSG_FIRSTHDR(message) };
    if first.is_null() {
        return None;
    }
    // SAFETY: not null, so a header in the control buffer, which is aligned for it.
    let header = unsafe { first.read() };
    let kind = (header.cmsg_level, header.cmsg_type);
    // SAFETY: any header has a place for data behind it.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: computes a length.
    let needed = unsafe { libc::CMSG_LEN(length_of::<libc::tpacket_auxdata>()) } as usize;
    if kind != (libc::SOL_PACKET, libc::PACKET_AUXDATA) || header.cmsg_len < needed {
        return None;
    }
    // SAFETY: the message is long enough for this struct of plain integers.
    let data = unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
    if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let kind = if data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID == 0 {
        0x8100
    } else {
        data.tp_vlan_tpid
    };
    let [a, b] = kind.to_be_bytes();
    let [c, d] = data.tp_vlan_tci.to_be_bytes();
    Some([a, b, c, d])
}

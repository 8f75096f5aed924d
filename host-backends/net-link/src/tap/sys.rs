//! The calls of the TUN/TAP driver, and reads and writes over several buffers.
//!
//! Rule: nothing here decides anything; one call, its result, its errno.
#![expect(
    unsafe_code,
    reason = "ioctls, and system calls that take raw pointers"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_read_bad!(tun_get_iff, libc::TUNGETIFF, libc::ifreq);
nix::ioctl_write_ptr_bad!(tun_set_queue, libc::TUNSETQUEUE, libc::ifreq);
nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
nix::ioctl_write_ptr_bad!(tun_set_header, libc::TUNSETVNETHDRSZ, libc::c_int);
nix::ioctl_write_ptr_bad!(tun_set_little_endian, libc::TUNSETVNETLE, libc::c_int);

nix::ioctl_read_bad!(get_mtu, libc::SIOCGIFMTU, libc::ifreq);
nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_read_bad!(get_hardware, libc::SIOCGIFHWADDR, libc::ifreq);

/// Most buffers that one vectored call takes (IOV_MAX).
pub(crate) const IOV_MAX: usize = 1024;

/// A request about the interface `name`.
fn request(name: &str, flags: i32) -> libc::ifreq {
    // SAFETY: a struct of plain integers and arrays, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len().saturating_sub(1);
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // Flags above bit 15 do not exist; the field is a short.
    request.ifr_ifru.ifru_flags = libc::c_short::from_ne_bytes(low_half(flags));
    request
}

fn low_half(flags: i32) -> [u8; 2] {
    u16::try_from(flags & 0xffff)
        .unwrap_or_default()
        .to_ne_bytes()
}

/// Makes `file` a queue of the interface `name` (TUNSETIFF).
pub(crate) fn attach_interface(file: &File, name: &str, flags: i32) -> Result<(), Errno> {
    let request = request(name, flags);
    // SAFETY: the ioctl reads and writes one ifreq, which lives across the call.
    unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }.map(drop)
}

/// The flags of the interface behind `file` (TUNGETIFF).
pub(crate) fn interface_flags(file: &File) -> Result<i32, Errno> {
    let mut request = request("", 0);
    // SAFETY: the ioctl writes one ifreq, which lives across the call.
    unsafe { tun_get_iff(file.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the kernel filled the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(i32::from(u16::from_ne_bytes(flags.to_ne_bytes())))
}

/// Attaches or detaches a queue of a multi-queue interface (TUNSETQUEUE with one of the two flags).
pub(crate) fn set_queue(file: &File, flag: i32) -> Result<(), Errno> {
    let request = request("", flag);
    // SAFETY: the ioctl reads one ifreq, which lives across the call.
    unsafe { tun_set_queue(file.as_raw_fd(), &raw const request) }.map(drop)
}

/// What frames read from the interface may leave undone (TUNSETOFFLOAD).
pub(crate) fn set_offload(file: &File, flags: u32) -> Result<(), Errno> {
    let flags = i32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the argument is a number.
    unsafe { tun_set_offload(file.as_raw_fd(), flags) }.map(drop)
}

/// The header is `bytes` long and little-endian, as virtio 1.x has it.
pub(crate) fn set_header(file: &File, bytes: usize) -> Result<(), Errno> {
    let bytes = libc::c_int::try_from(bytes).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the ioctl reads one int, which lives across the call.
    unsafe { tun_set_header(file.as_raw_fd(), &raw const bytes) }?;
    let yes = 1;
    // SAFETY: as above. A kernel without it is little-endian by nature on the machines that we support.
    let _ = unsafe { tun_set_little_endian(file.as_raw_fd(), &raw const yes) };
    Ok(())
}

/// A descriptor of our own for what the number `fd` names, inherited from whoever started us.
pub(crate) fn adopt(fd: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes a number; one that is no descriptor is an error.
    let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if own < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel made this descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(own) })
}

/// Reads one frame into `buffers`; returns the bytes read.
///
/// # Safety
/// Every buffer must be mapped memory that nothing in this process holds a Rust reference to, until the call returns.
#[inline]
pub(crate) unsafe fn readv(fd: BorrowedFd<'_>, buffers: &[libc::iovec]) -> Result<usize, Errno> {
    let count = libc::c_int::try_from(buffers.len().min(IOV_MAX)).map_err(|_| Errno::EINVAL)?;
    // Not the C library's function, which is a cancellation point: that costs a tenth of a small frame's time.
    // SAFETY: the pointer and count come from one slice; the caller vouches for the buffers.
    let got = unsafe { libc::syscall(libc::SYS_readv, fd.as_raw_fd(), buffers.as_ptr(), count) };
    usize::try_from(got).map_err(|_| Errno::last())
}

/// Writes one frame; returns the bytes written. Cheaper than a list with one entry.
#[inline]
pub(crate) fn write(fd: BorrowedFd<'_>, frame: &[u8]) -> Result<usize, Errno> {
    let (start, len) = (frame.as_ptr(), frame.len());
    // SAFETY: the bytes are borrowed across the call and only read.
    let put = unsafe { libc::syscall(libc::SYS_write, fd.as_raw_fd(), start, len) };
    usize::try_from(put).map_err(|_| Errno::last())
}

/// Writes one frame from `buffers`; returns the bytes written.
///
/// # Safety
/// Every buffer must be mapped memory until the call returns.
#[inline]
pub(crate) unsafe fn writev(fd: BorrowedFd<'_>, buffers: &[libc::iovec]) -> Result<usize, Errno> {
    let count = libc::c_int::try_from(buffers.len()).map_err(|_| Errno::EINVAL)?;
    // As in `readv`.
    // SAFETY: the pointer and count come from one slice; the caller vouches for the buffers.
    let put = unsafe { libc::syscall(libc::SYS_writev, fd.as_raw_fd(), buffers.as_ptr(), count) };
    usize::try_from(put).map_err(|_| Errno::last())
}

/// Writes to a stream socket from `buffers`, without waiting and without SIGPIPE; returns the bytes written.
///
/// # Safety
/// Every buffer must be mapped memory until the call returns.
pub(crate) unsafe fn sendmsg(fd: BorrowedFd<'_>, buffers: &[libc::iovec]) -> Result<usize, Errno> {
    // SAFETY: a struct of plain integers and pointers, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = buffers.as_ptr().cast_mut();
    message.msg_iovlen = buffers.len();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message points to the list, which lives across the call; the caller vouches for the buffers.
    let put = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
    usize::try_from(put).map_err(|_| Errno::last())
}

/// Whether an interface of that name exists in our network namespace.
pub(crate) fn interface_exists(name: &str) -> bool {
    interface_index(name).is_ok()
}

/// The MTU of the interface `name` in the namespace of `socket` (SIOCGIFMTU).
pub(crate) fn interface_mtu(socket: BorrowedFd<'_>, name: &str) -> Result<u32, Errno> {
    let mut request = request(name, 0);
    // SAFETY: the ioctl reads and writes one ifreq, which lives across the call.
    unsafe { get_mtu(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the kernel filled the MTU.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| Errno::EINVAL)
}

/// Whether the interface `name` is up in the namespace of `socket` (SIOCGIFFLAGS).
pub(crate) fn interface_is_up(socket: BorrowedFd<'_>, name: &str) -> Result<bool, Errno> {
    let mut request = request(name, 0);
    // SAFETY: the ioctl reads and writes one ifreq, which lives across the call.
    unsafe { get_flags(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the kernel filled the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(i32::from(flags) & libc::IFF_UP != 0)
}

/// The kind of hardware of the interface `name` (SIOCGIFHWADDR): ARPHRD_ETHER or another.
pub(crate) fn interface_hardware(socket: BorrowedFd<'_>, name: &str) -> Result<u16, Errno> {
    let mut request = request(name, 0);
    // SAFETY: the ioctl reads and writes one ifreq, which lives across the call.
    unsafe { get_hardware(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the kernel filled the address, whose family is the kind of hardware.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr }.sa_family)
}

/// The index of the interface `name`.
pub(crate) fn interface_index(name: &str) -> io::Result<libc::c_int> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name is a string with a zero at its end that lives across the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    match libc::c_int::try_from(index) {
        Ok(index) if index > 0 => Ok(index),
        _ => Err(io::Error::last_os_error()),
    }
}

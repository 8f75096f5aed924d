//! What an open link asks of the kernel beyond reads, writes and polls, for a process that confines itself.
//!
//! Rule: all that opens a link is done before; what stands here is used while frames flow.

/// System calls that move several frames at once.
pub const SYSCALLS: &[i64] = &[libc::SYS_sendmmsg, libc::SYS_recvmmsg];
/// ioctl(2) codes: a TAP's offloads, its queues on and off, and an interface's MTU and flags.
pub const IOCTLS: &[u64] = &[
    libc::TUNSETOFFLOAD,
    libc::TUNSETQUEUE,
    libc::SIOCGIFMTU,
    libc::SIOCGIFFLAGS,
];

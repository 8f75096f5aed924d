//! The VMM's own cage: Landlock for files, seccomp for system calls.
//!
//! One rule: it is closed after everything privileged is open (KVM, the serial file) and before any thread starts or
//! a backend is spoken to, so that every thread is inside.

use std::path::Path;
use std::path::PathBuf;

use host_os::Error;
use host_os::file_access::Enforcement;
use host_os::file_access::FileAccess;
use host_os::filter::Filter;
use host_os::filter::Refusal;
use libc::c_long;

/// ioctl numbers carry their driver's letter in bits 15 to 8.
const IOCTL_DRIVER: u64 = 0xff00;
const IOCTL_KVM: u64 = 0xae00;
/// What the console asks of its terminal, and non-blocking sockets. Not TIOCSTI and its like, which type into a shell.
const IOCTLS: &[u64] = &[
    libc::TCGETS,
    libc::TCSETS,
    libc::TIOCGPGRP,
    libc::TIOCGWINSZ,
    libc::FIONBIO,
];

/// System calls that are allowed whatever their arguments.
const CALLS: &[c_long] = &[
    // Files and event descriptors: guest memory, the serial port, kernel and initrd at a restart.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    // How an eventfd is drained.
    libc::SYS_preadv2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_dup,
    libc::SYS_dup3,
    // The control socket and its folder at the end.
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_getdents64,
    libc::SYS_flock,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_memfd_create,
    libc::SYS_eventfd2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    // The backends' sockets.
    libc::SYS_accept4,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Memory of the process.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    // Threads, signals and time.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getpgrp,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Closes the cage around this thread and all that it starts. Only `readable` files can be opened from now on, and only
/// `home` with the files in it can be removed.
pub(crate) fn close(readable: &[&PathBuf], home: Option<&Path>) -> Result<(), Error> {
    // Both are prepared before either is closed.
    let filter = filter()?;
    let mut files = FileAccess::new();
    readable.iter().for_each(|path| files.read(path));
    if let Some(home) = home {
        files.remove_directory(home);
    }
    if files.enter()? == Enforcement::None {
        tracing::warn!("this kernel has no Landlock: files are confined by permissions alone");
    }
    // What is refused is told before it ends the process: a call that was not thought of must not pass for a crash.
    filter.enter(Refusal::Trap)
}

fn filter() -> Result<Filter, Error> {
    let mut filter = Filter::new(CALLS.iter().copied())?;
    // Kernel and initrd at a restart.
    filter.open_for_reading()?;
    // A backend that was restarted.
    filter.connect()?;
    filter.masked(libc::SYS_ioctl, 1, IOCTL_DRIVER, IOCTL_KVM)?;
    filter.only(libc::SYS_ioctl, 1, IOCTLS.iter().copied())?;
    Ok(filter)
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;

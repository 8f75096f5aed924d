//! seccomp: the system calls that a serving daemon may make.
//!
//! Rule: what is not listed fails with ENOSYS, as on a kernel without it, so that libraries fall back instead of dying;
//! no exec, no ptrace, no new file by open unless the daemon names some, no socket unless it connects to a Unix one.

use host_os::filter::Filter;
use host_os::filter::Refusal;

use crate::Error;
use crate::sandbox::Needs;

/// Allowed with any arguments.
const ALLOWED: &[i64] = &[
    // Bytes.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_unlinkat,
    // The interrupt that never waits: see `host_os::EventFd`.
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_io_getevents,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_brk,
    libc::SYS_memfd_create,
    libc::SYS_membarrier,
    // Waiting and time.
    libc::SYS_futex,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_signalfd4,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // The peer.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Threads.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
];

/// The older spellings that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_unlink,
    libc::SYS_dup2,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// BLKDISCARD, BLKSSZGET, FIONBIO, TCGETS (is standard error a terminal?).
const IOCTLS: &[u64] = &[0x1277, 0x1268, 0x5421, 0x5401];

pub(super) fn confine(needs: &Needs) -> Result<(), Error> {
    let entered = filter(needs).and_then(|filter| filter.enter(Refusal::Absent));
    entered.map_err(|source| Error::Sandbox {
        what: "seccomp",
        source: Box::new(source),
    })
}

fn filter(needs: &Needs) -> Result<Filter, host_os::Error> {
    let any = ALLOWED.iter().chain(ALLOWED_HERE).chain(&needs.syscalls);
    let mut filter = Filter::new(any.copied())?;
    // Landlock, where there is one, says which files.
    if !needs.writable.is_empty() {
        filter.any(libc::SYS_openat);
    } else if !needs.readable.is_empty() {
        filter.open_for_reading()?;
    }
    if needs.connects {
        filter.connect()?;
    }
    filter.only(
        libc::SYS_ioctl,
        1,
        IOCTLS.iter().chain(&needs.ioctls).copied(),
    )?;
    Ok(filter)
}

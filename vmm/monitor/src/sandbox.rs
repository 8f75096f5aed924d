//! The VMM's own cage: Landlock for files, seccomp for system calls.
//!
//! One rule: it is closed after everything privileged is open (KVM, the serial file) and before any thread starts or
//! a backend is spoken to, so that every thread is inside.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use landlock::ABI;
use landlock::Access;
use landlock::AccessFs;
use landlock::PathBeneath;
use landlock::PathFd;
use landlock::Ruleset;
use landlock::RulesetAttr;
use landlock::RulesetCreatedAttr;
use landlock::RulesetStatus;
use libc::c_long;
use seccompiler::BpfProgram;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::Eq;
use seccompiler::SeccompCmpOp::MaskedEq;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;
use seccompiler::TargetArch;

/// The newest Landlock whose rights are asked for; an older kernel enforces what it knows.
const LANDLOCK: ABI = ABI::V5;
/// ioctl numbers carry their driver's letter in bits 15 to 8.
const IOCTL_DRIVER: u64 = 0xff00;
const IOCTL_KVM: u64 = 0xae00;
const IOCTL_TERMINAL: u64 = 0x5400;

/// System calls that are allowed whatever their arguments.
const CALLS: &[c_long] = &[
    // Files and event descriptors: guest memory, the serial port, kernel and initrd at a restart.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_fcntl,
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
    libc::SYS_socketpair,
    libc::SYS_connect,
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
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
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

/// Why the cage cannot be closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("Cannot confine files: {0}")]
    Landlock(#[from] landlock::RulesetError),
    #[error("Cannot confine files: {0}")]
    Path(#[from] landlock::PathFdError),
    #[error("Cannot confine system calls: {0}")]
    Seccomp(#[from] seccompiler::BackendError),
    #[error("Cannot confine system calls: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Closes the cage around this thread and all that it starts. Only `readable` files can be opened from now on, and only
/// `home` with the files in it can be removed.
pub(crate) fn close(readable: &[&PathBuf], home: Option<&Path>) -> Result<(), Error> {
    // Both are prepared before either is closed.
    let filter = filter()?;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .create()?;
    for path in readable {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, AccessFs::ReadFile))?;
    }
    if let Some(home) = home {
        let rights = AccessFs::ReadDir | AccessFs::RemoveFile;
        rules = rules.add_rule(PathBeneath::new(PathFd::new(home)?, rights))?;
        let parent = home.parent().unwrap_or(home);
        rules = rules.add_rule(PathBeneath::new(PathFd::new(parent)?, AccessFs::RemoveDir))?;
    }
    let status = rules.restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        tracing::warn!("this kernel has no Landlock: files are confined by permissions alone");
    }
    Ok(seccompiler::apply_filter(&filter)?)
}

fn filter() -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let driver = |letter| {
        let condition = SeccompCondition::new(1, Dword, MaskedEq(IOCTL_DRIVER), letter)?;
        SeccompRule::new(vec![condition])
    };
    rules.insert(
        libc::SYS_ioctl,
        vec![driver(IOCTL_KVM)?, driver(IOCTL_TERMINAL)?],
    );
    let unix = SeccompCondition::new(0, Dword, Eq, libc::AF_UNIX as u64)?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![unix])?]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_the_cage_only_named_files_open_and_threads_inherit_it() {
        let folder = tempfile::tempdir().unwrap();
        let (named, other) = (folder.path().join("named"), folder.path().join("other"));
        std::fs::write(&named, "n").unwrap();
        std::fs::write(&other, "o").unwrap();
        // The cage is this thread's and its children's alone, so the other tests stay outside.
        let home = folder.path().join("home");
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("control"), "c").unwrap();
        let caged = std::thread::spawn(move || {
            close(&[&named], Some(&home)).unwrap();
            crate::home::remove(&home);
            assert!(!home.exists());
            let inner = std::thread::spawn(move || {
                (std::fs::read(&named).is_ok(), std::fs::read(&other).is_ok())
            });
            inner.join().unwrap()
        });
        let (named, other) = caged.join().unwrap();
        assert!(named);
        // Without Landlock in the kernel the other file opens too.
        let landlocked = std::fs::read_to_string("/sys/kernel/security/lsm")
            .is_ok_and(|lsm| lsm.contains("landlock"));
        assert!(!(landlocked && other));
    }
}

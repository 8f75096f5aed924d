//! Locks an image against a second writer.
//!
//! Rule: the lock belongs to the open file description (F_OFD_SETLK), so it ends with the process however that ends,
//! and no other descriptor that this process opens or closes on the same file can lose it. It is held from the start of
//! the first queue to the front-end's word that the last has ended, so that in a live migration the destination can be
//! there, and be asked for its configuration, while the source's guest still writes.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;

use crate::BlockSpec;
use crate::Error;
use crate::LockChoice;

/// How often a lock that is taken is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// After a refusal, the other queues of the disk are refused at once for so long.
const REFUSED: Duration = Duration::from_secs(1);

/// The lock of one image over the lives of its queues.
#[derive(Debug)]
pub(crate) struct Lock {
    /// For how long a lock that is taken is waited for; `None` does without one.
    patience: Option<Duration>,
    readonly: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Queues that have started and not ended. A pause is no end.
    queues: BTreeSet<u16>,
    /// When the image had been modified last as the lock was given back.
    left: Option<SystemTime>,
    refused: Option<Instant>,
    /// The kernel may still write for a queue that has ended: the lock stays.
    kept: bool,
}

impl Lock {
    pub fn new(spec: &BlockSpec) -> Self {
        let locks = spec.path.is_some() && spec.lock == LockChoice::On;
        Self {
            patience: locks.then(|| Duration::from_millis(u64::from(spec.lock_wait_ms))),
            readonly: spec.readonly,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        host_os::sync::lock(&self.state)
    }

    /// Tells whether the lock could be had now, and fails where there is none to be had.
    pub fn try_out(&self, file: &File, path: &Path) -> Result<(), Error> {
        if self.patience.is_none() {
            return Ok(());
        }
        match lock(file, path, self.readonly, Duration::ZERO) {
            Ok(()) => unlock(file),
            Err(Error::Locked { held, .. }) => {
                tracing::warn!(path = %path.display(), held,
                    "the image is in use: this disk can start only when that has ended");
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Takes the lock for `queue`; whether no queue of this disk had it before.
    ///
    /// A process that was killed keeps its lock until the kernel has finished its I/O, for io_uring holds the open file;
    /// so a taken lock is waited for. Taking it earlier could let a dead writer's last write land on ours.
    pub fn hold(&self, file: &File, path: &Path, queue: u16) -> Result<bool, Error> {
        let mut state = self.state();
        let first = state.queues.is_empty() && !state.kept;
        if let Some(patience) = self.patience.filter(|_| first) {
            let just_refused = state.refused.is_some_and(|at| at.elapsed() < REFUSED);
            let patience = if just_refused {
                Duration::ZERO
            } else {
                patience
            };
            if let Err(error) = lock(file, path, self.readonly, patience) {
                state.refused = Some(Instant::now());
                return Err(error);
            }
            let left = state.left.take();
            if left.is_some() && modified(file) != left {
                tracing::warn!(path = %path.display(),
                    "the image was changed by others since the disk was stopped: a guest that goes on, and was not \
                     started anew, will damage it");
            }
        }
        state.queues.insert(queue);
        Ok(first)
    }

    /// `queue` has ended, or all have (`None`); with the last one the lock goes back. Nothing is in flight.
    pub fn let_go(&self, file: &File, queue: Option<u16>) {
        let mut state = self.state();
        let held = !state.queues.is_empty();
        match queue {
            Some(queue) => drop(state.queues.remove(&queue)),
            None => state.queues.clear(),
        }
        if held && state.queues.is_empty() && !state.kept && self.patience.is_some() {
            state.left = modified(file);
            unlock(file);
        }
    }

    /// Never gives the lock back: the kernel cannot be asked for the end of its writes.
    pub fn keep(&self) {
        self.state().kept = true;
    }
}

fn modified(file: &File) -> Option<SystemTime> {
    file.metadata().ok()?.modified().ok()
}

/// Takes a write lock for a writer, a read lock for a reader, on all of `file`, now and as it grows; waits up to
/// `patience` while another open of the file has it.
fn lock(file: &File, path: &Path, readonly: bool, patience: Duration) -> Result<(), Error> {
    let request = whole_file(if readonly {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    });
    let start = Instant::now();
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&request)) {
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN | Errno::EACCES) if start.elapsed() < patience => {
                std::thread::sleep(RETRY);
            }
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(Error::Locked {
                    path: path.to_owned(),
                    held: holder(file, readonly),
                });
            }
            Err(source) => {
                return Err(Error::Lock {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

/// Gives the lock back, when nothing is in flight any more.
pub(crate) fn unlock(file: &File) {
    // Closing the file does the same, only later.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)));
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// What stands in the way, as far as the kernel tells (an OFD lock names no process).
fn holder(file: &File, readonly: bool) -> String {
    let mut probe = whole_file(if readonly {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    });
    if fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).is_err() {
        return "another process".to_owned();
    }
    let kind = if i32::from(probe.l_type) == libc::F_RDLCK {
        "reading"
    } else {
        "writing"
    };
    if probe.l_pid > 0 {
        format!("process {} for {kind}", probe.l_pid)
    } else {
        format!("another open of it, for {kind}")
    }
}

//! Locks an image against a second writer.
//!
//! Rule: the lock belongs to the open file description (F_OFD_SETLK), so it ends with the process however that ends,
//! and no other descriptor that this process opens or closes on the same file can lose it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;

use crate::Error;

/// How often a lock that is taken is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// Takes a write lock for a writer, a read lock for a reader, on all of `file`, now and as it grows.
///
/// A process that was killed keeps its lock until the kernel has finished its I/O, for io_uring holds the open file; so
/// a taken lock is waited for, up to `patience`. Taking it earlier could let a dead writer's last write land on ours.
pub(crate) fn lock(
    file: &File,
    path: &Path,
    readonly: bool,
    patience: Duration,
) -> Result<(), Error> {
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

//! Whether the image can still be said to hold what it was given.
//!
//! Rule: once a write-back or a sync failed, nothing is said to be durable until the image is opened anew.
//!
//! The kernel tells a failed write-back once, drops the data and takes the pages for clean: the next sync succeeds without
//! them. Past the page cache it is no better: file systems go back to it for what they cannot do otherwise, and a drive
//! tells a failed write of its cache once, too. So what failed stays failed, in every cache mode, for all queues.
//!
//! The kernel tells each open file description once, and of several syncs at a time one is told. Therefore the image is
//! open a second time, and nothing syncs that description but the question here, which is asked after a completion's own
//! steps are over and before the guest hears of it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

use host_os::sync::lock;
use nix::errno::Errno;

use crate::engine::sys;

/// What is known of an open image; shared by all its queues.
#[derive(Debug)]
pub(crate) struct Durability {
    path: PathBuf,
    /// The second description; `None` where it cannot be had or asked.
    witness: Mutex<Option<File>>,
    /// Why nothing is durable any more; 0 as long as all is well.
    lost: AtomicI32,
}

impl Durability {
    /// Watches over `image`; `path` is its name for people.
    pub fn watch(image: &File, path: PathBuf) -> Self {
        let witness = File::open(format!("/proc/self/fd/{}", image.as_raw_fd()));
        if let Err(error) = &witness {
            tracing::debug!(%error, path = %path.display(), "the image cannot be opened a second time");
        }
        Self {
            path,
            witness: Mutex::new(witness.ok()),
            lost: AtomicI32::new(0),
        }
    }

    /// Why nothing is durable any more.
    pub fn lost(&self) -> Option<Errno> {
        match self.lost.load(Ordering::Acquire) {
            0 => None,
            errno => Some(Errno::from_raw(errno)),
        }
    }

    /// What a completion may say that claims durability, and whose own steps came to `result`; `synced` if the last of
    /// them was a sync.
    pub fn vouch(&self, result: Result<(), Errno>, synced: bool) -> Result<(), Errno> {
        // Held until the answer is noted, so that who asks next finds it.
        let mut witness = lock(&self.witness);
        if let Some(errno) = self.lost() {
            return Err(errno);
        }
        match witness.as_ref().map_or(Ok(()), sys::write_back_error) {
            Ok(()) => {}
            Err(Errno::ENOSYS) => *witness = None,
            // Left by a process that was killed, another life of ours maybe, in the middle of a call to a file system of
            // user space; no page is taken for clean because of it.
            Err(Errno::EINTR) => {}
            Err(errno) => return self.lose(errno),
        }
        match result {
            // It did not run.
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ECANCELED) => result,
            Err(errno) if synced => self.lose(errno),
            result => result,
        }
    }

    fn lose(&self, errno: Errno) -> Result<(), Errno> {
        self.lost.store(errno as i32, Ordering::Release);
        tracing::error!(%errno, path = %self.path.display(),
            "writing back the image failed: what the guest wrote may be lost, and each flush fails from now on; \
             mend the storage, start this daemon again, and check the guest's file systems (fsck)");
        Err(errno)
    }
}

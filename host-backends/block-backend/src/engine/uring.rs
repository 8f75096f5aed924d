//! io_uring, one ring per queue; what the page cache can answer at once does not go through it.
//!
//! Rule: a pending step's buffers are the kernel's until its completion is reaped; dropping the engine waits for that.
#![expect(
    unsafe_code,
    reason = "io_uring takes raw buffers that only the caller can vouch for"
)]

use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;

use io_uring::opcode;
use io_uring::squeue;
use io_uring::types::Fixed;
use io_uring::types::FsyncFlags;
use nix::errno::Errno;

use crate::engine::Engine;
use crate::engine::Outcome;
use crate::engine::Step;
use crate::engine::rings::Ring;
use crate::engine::rings::Rings;
use crate::engine::rings::errno;
use crate::engine::sync;
use crate::engine::sys;
use crate::image::Image;

/// After this many reads in a row that the page cache did not hold, most skip the attempt.
const MISS_STREAK: u32 = 16;
/// One read in this many still tries while the streak lasts.
const RETRY_EVERY: u32 = 32;
pub(super) const IMAGE: Fixed = Fixed(0);

/// The io_uring engine of one queue.
pub(crate) struct UringEngine {
    image: Arc<Image>,
    rings: Arc<Rings>,
    /// Given back when the engine ends.
    ring: ManuallyDrop<Ring>,
    queued: usize,
    pending: usize,
    read_at_once: bool,
    write_at_once: WriteAtOnce,
    misses: u32,
}

/// How writes to the page cache are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteAtOnce {
    /// Without waiting, where the file system can; what would wait goes to the ring.
    Nowait,
    /// In one call that may wait for memory: the file system has no other way, and the ring would use a thread per write.
    Plain,
    /// Past the page cache: everything goes to the ring.
    Never,
}

impl UringEngine {
    /// An engine on one of `rings`; `None` if all are in use.
    pub fn new(image: Arc<Image>, rings: &Arc<Rings>) -> Option<Self> {
        let mut ring = rings.take()?;
        ring.ring.completion().disable_eventfd();
        ring.event.drain();
        let cached = image.direct().is_none();
        Some(Self {
            image,
            rings: Arc::clone(rings),
            ring: ManuallyDrop::new(ring),
            queued: 0,
            pending: 0,
            read_at_once: cached,
            write_at_once: if cached {
                WriteAtOnce::Nowait
            } else {
                WriteAtOnce::Never
            },
            misses: 0,
        })
    }

    /// Queues an entry under `slot`.
    ///
    /// # Safety
    /// As [`Engine::start`].
    unsafe fn queue(&mut self, slot: u16, entry: squeue::Entry) -> Outcome {
        let entry = entry.user_data(u64::from(slot));
        // SAFETY: the caller vouches for what the entry points to until its completion.
        if unsafe { self.ring.ring.submission().push(&entry) }.is_err() {
            if let Err(errno) = self.submit() {
                return Outcome::Done(Err(errno));
            }
            // SAFETY: as above.
            if unsafe { self.ring.ring.submission().push(&entry) }.is_err() {
                return Outcome::Done(Err(Errno::EAGAIN));
            }
        }
        self.queued += 1;
        self.pending += 1;
        Outcome::Pending
    }

    /// Tries to read from the page cache; `None` when that has to wait for the medium.
    ///
    /// # Safety
    /// As [`Engine::start`], until the call returns.
    unsafe fn read_cached(
        &mut self,
        buffers: &[libc::iovec],
        offset: u64,
    ) -> Option<Result<usize, Errno>> {
        if !self.read_at_once {
            return None;
        }
        if self.misses > MISS_STREAK {
            self.misses += 1;
            if !self.misses.is_multiple_of(RETRY_EVERY) {
                return None;
            }
        }
        // SAFETY: the caller vouches for the buffers.
        match unsafe {
            sys::read(
                self.image.file.as_raw_fd(),
                buffers,
                offset,
                libc::RWF_NOWAIT,
            )
        } {
            Ok(bytes) => {
                self.misses = 0;
                Some(Ok(bytes))
            }
            Err(Errno::EAGAIN) => {
                self.misses = self.misses.saturating_add(1);
                None
            }
            Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {
                self.read_at_once = false;
                None
            }
            Err(errno) => Some(Err(errno)),
        }
    }

    /// Writes to the page cache; `None` when that has to wait and the ring can take it.
    ///
    /// # Safety
    /// As [`Engine::start`], until the call returns.
    unsafe fn write_cached(
        &mut self,
        buffers: &[libc::iovec],
        offset: u64,
    ) -> Option<Result<usize, Errno>> {
        let fd = self.image.file.as_raw_fd();
        if self.write_at_once == WriteAtOnce::Nowait {
            // SAFETY: the caller vouches for the buffers.
            match unsafe { sys::write(fd, buffers, offset, libc::RWF_NOWAIT) } {
                Err(Errno::EAGAIN) => return None,
                Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {
                    self.write_at_once = WriteAtOnce::Plain
                }
                done => return Some(done),
            }
        }
        if self.write_at_once == WriteAtOnce::Never {
            return None;
        }
        // SAFETY: the caller vouches for the buffers.
        Some(unsafe { sys::write(fd, buffers, offset, 0) })
    }
}

fn count(buffers: &[libc::iovec]) -> u32 {
    u32::try_from(buffers.len().min(sys::IOV_MAX)).unwrap_or(0)
}

impl Engine for UringEngine {
    unsafe fn start(&mut self, slot: u16, step: Step<'_>) -> Outcome {
        let entry = match step {
            Step::Read { offset, buffers } => {
                // SAFETY: the caller vouches for the buffers.
                if let Some(done) = unsafe { self.read_cached(buffers, offset) } {
                    return Outcome::Done(done);
                }
                opcode::Readv::new(IMAGE, buffers.as_ptr(), count(buffers))
                    .offset(offset)
                    .build()
            }
            Step::Write {
                offset,
                buffers,
                durable,
            } => {
                if !durable {
                    // SAFETY: the caller vouches for the buffers.
                    if let Some(done) = unsafe { self.write_cached(buffers, offset) } {
                        return Outcome::Done(done);
                    }
                }
                opcode::Writev::new(IMAGE, buffers.as_ptr(), count(buffers))
                    .offset(offset)
                    .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Step::Sync => opcode::Fsync::new(IMAGE)
                .flags(FsyncFlags::DATASYNC)
                .build(),
            Step::Allocate { mode, offset, len } => opcode::Fallocate::new(IMAGE, len)
                .offset(offset)
                .mode(mode)
                .build(),
            Step::DiscardDevice { .. } => {
                // SAFETY: the step has no buffers.
                return Outcome::Done(unsafe { sync::perform(&self.image, step) });
            }
        };
        // SAFETY: the caller vouches for the buffers until the completion.
        unsafe { self.queue(slot, entry) }
    }

    fn submit(&mut self) -> Result<(), Errno> {
        if self.queued == 0 {
            return Ok(());
        }
        loop {
            match self.ring.ring.submit() {
                Ok(taken) => {
                    self.queued = self.queued.saturating_sub(taken);
                    if self.queued == 0 || taken == 0 {
                        return Ok(());
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Completions have to be reaped first; the entries stay queued for the next call.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    return Ok(());
                }
                Err(error) => return Err(errno(error)),
            }
        }
    }

    fn reap(&mut self, over: &mut Vec<(u16, Result<usize, Errno>)>) {
        if self.pending == 0 {
            return;
        }
        if self.ring.ring.submission().taskrun() || self.queued != 0 {
            let _ = self.submit();
            // SAFETY: asks for no argument and no entry: only runs the completions that this task owes.
            let _ = unsafe {
                self.ring
                    .ring
                    .submitter()
                    .enter::<libc::sigset_t>(0, 0, GETEVENTS, None)
            };
        }
        for entry in self.ring.ring.completion() {
            let result = entry.result();
            let result =
                usize::try_from(result).map_err(|_| Errno::from_raw(result.wrapping_neg()));
            self.pending = self.pending.saturating_sub(1);
            over.push((u16::try_from(entry.user_data()).unwrap_or(u16::MAX), result));
        }
    }

    fn wait(&mut self) -> Result<(), Errno> {
        if self.pending == 0 {
            return Ok(());
        }
        match self.ring.ring.submit_and_wait(1) {
            Ok(taken) => self.queued = self.queued.saturating_sub(taken),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(error) => return Err(errno(error)),
        }
        Ok(())
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.event.as_fd())
    }

    fn before_sleep(&mut self) {
        self.ring.ring.completion().enable_eventfd();
        // The kernel looks at the flag after it noted a completion; we look for a completion after we set the flag.
        fence(Ordering::SeqCst);
        let waiting =
            self.ring.ring.submission().taskrun() || !self.ring.ring.completion().is_empty();
        if self.pending != 0 && (waiting || self.queued != 0) {
            self.ring.event.notify();
        }
    }

    fn after_sleep(&mut self, completed: bool) {
        self.ring.ring.completion().disable_eventfd();
        // A completion that the kernel notes just now may still leave a signal behind; it ends the next sleep, and goes then.
        if completed {
            self.ring.event.drain();
        }
    }

    fn pending(&self) -> usize {
        self.pending
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        // SAFETY: taken once, here.
        let ring = unsafe { ManuallyDrop::take(&mut self.ring) };
        // A ring that still owes something is no use to another queue, which would not know whose it is.
        if self.pending == 0 {
            self.rings.give_back(ring);
        }
    }
}

/// IORING_ENTER_GETEVENTS.
const GETEVENTS: u32 = 1;

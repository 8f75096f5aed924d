//! The io_urings of one disk, made before the process confines itself.
//!
//! Rule: seccomp does not see what a ring is asked to do, and a ring can open files and sockets; so each ring of ours is
//! restricted to the operations on the image that the engine uses, and no other can be made once the sandbox has closed:
//! io_uring_setup and io_uring_register are not among its calls. A ring therefore outlives the queue that used it and
//! serves the next, on whatever thread that runs: it is not bound to one (IORING_SETUP_SINGLE_ISSUER).
//!
//! What that costs: without a single issuer completions cannot be put off until they are asked for (DEFER_TASKRUN);
//! COOP_TASKRUN does the next best: they interrupt nobody and are taken in at the next system call of the worker.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use host_os::EventFd;
use host_os::sync::lock;
use io_uring::IoUring;
use io_uring::opcode;
use io_uring::register::Restriction;
use io_uring::squeue;
use nix::errno::Errno;

use crate::engine::uring::IMAGE;
use crate::image::Image;

/// What a ring may be asked to do.
const OPERATIONS: [u8; 4] = [
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// One ring, ready for use, with the image as its only file.
pub(crate) struct Ring {
    pub ring: IoUring,
    /// Signalled by completions while the worker sleeps.
    pub event: EventFd,
}

/// The rings that no queue uses.
pub(crate) struct Rings {
    free: Mutex<Vec<Ring>>,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Rings").finish_non_exhaustive()
    }
}

impl Rings {
    /// Makes `count` rings for `depth` steps at a time each.
    ///
    /// # Errors
    /// No ring can be had here, or none that can be restricted: sysctl, seccomp and kernels before 5.10 say no.
    pub fn make(image: &Image, count: u16, depth: u16) -> Result<Self, Errno> {
        let free: Result<Vec<_>, _> = (0..count).map(|_| Ring::make(image, depth)).collect();
        Ok(Self {
            free: Mutex::new(free?),
        })
    }

    /// A ring for a queue; it comes back by [`Rings::give_back`].
    pub fn take(&self) -> Option<Ring> {
        lock(&self.free).pop()
    }

    /// Takes back a ring in which nothing is pending.
    pub fn give_back(&self, ring: Ring) {
        lock(&self.free).push(ring);
    }
}

impl Ring {
    fn make(image: &Image, depth: u16) -> Result<Self, Errno> {
        let mut ring = build(u32::from(depth.max(1)).next_power_of_two())?;
        let event = EventFd::new().map_err(|_| Errno::EMFILE)?;
        let submitter = ring.submitter();
        submitter
            .register_files(&[image.file.as_raw_fd()])
            .map_err(errno)?;
        submitter
            .register_eventfd(event.as_fd().as_raw_fd())
            .map_err(errno)?;
        submitter
            .register_restrictions(&mut restrictions())
            .map_err(errno)?;
        submitter.register_enable_rings().map_err(errno)?;
        ring.completion().disable_eventfd();
        let mut made = Self { ring, event };
        made.try_out()?;
        Ok(made)
    }

    /// Reads nothing: a filter may let a ring be made and refuse to let it be used.
    #[expect(
        unsafe_code,
        reason = "an entry without buffers, for the kernel to answer"
    )]
    fn try_out(&mut self) -> Result<(), Errno> {
        let nothing = opcode::Readv::new(IMAGE, std::ptr::null(), 0).build();
        // SAFETY: the entry has no buffers.
        let pushed = unsafe { self.ring.submission().push(&nothing) };
        pushed.map_err(|_| Errno::EAGAIN)?;
        // What comes of it does not matter, only that something does.
        while self.ring.completion().next().is_none() {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => {
                    return Err(errno(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn build(entries: u32) -> Result<IoUring, Errno> {
    let modern = IoUring::builder()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_r_disabled()
        .dontfork()
        .build(entries);
    let ring = match modern {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // Before Linux 5.19.
            IoUring::builder()
                .setup_r_disabled()
                .dontfork()
                .build(entries)
        }
        other => other,
    };
    ring.map_err(errno)
}

/// Only these operations, only on the registered image, and nothing more registered.
fn restrictions() -> Vec<Restriction> {
    let fixed = squeue::Flags::FIXED_FILE.bits();
    let operations = OPERATIONS.into_iter().map(Restriction::sqe_op);
    let flags = [
        Restriction::sqe_flags_required(fixed),
        Restriction::sqe_flags_allowed(fixed),
    ];
    operations.chain(flags).collect()
}

pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
#[path = "rings_tests.rs"]
mod tests;

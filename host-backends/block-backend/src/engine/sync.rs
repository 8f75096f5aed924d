//! One system call per step, in the worker's thread.
//!
//! Rule: it works wherever the image could be opened.
#![expect(
    unsafe_code,
    reason = "vectored I/O on memory that only the caller can vouch for"
)]

use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::fcntl::fallocate;
use nix::unistd::fdatasync;

use crate::engine::Engine;
use crate::engine::Outcome;
use crate::engine::Step;
use crate::engine::sys;
use crate::image::Image;

/// The engine of plain system calls.
#[derive(Debug)]
pub(crate) struct SyncEngine {
    image: Arc<Image>,
}

impl SyncEngine {
    pub fn new(image: Arc<Image>) -> Self {
        Self { image }
    }
}

impl Engine for SyncEngine {
    unsafe fn start(&mut self, _slot: u16, step: Step<'_>) -> Outcome {
        // SAFETY: the caller's promise covers this call, which is over when it returns.
        Outcome::Done(unsafe { perform(&self.image, step) })
    }
}

/// Carries out `step` with one system call.
///
/// # Safety
/// As [`Engine::start`], until the call returns.
pub(crate) unsafe fn perform(image: &Image, step: Step<'_>) -> Result<usize, Errno> {
    let fd = image.file.as_raw_fd();
    match step {
        Step::Read { offset, buffers } => {
            // SAFETY: the caller vouches for the buffers.
            unsafe { sys::read(fd, buffers, offset, 0) }
        }
        Step::Write {
            offset,
            buffers,
            durable,
        } => {
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            // SAFETY: the caller vouches for the buffers.
            unsafe { sys::write(fd, buffers, offset, flags) }
        }
        Step::Sync => fdatasync(&image.file).map(|()| 0),
        Step::Allocate { mode, offset, len } => allocate(image, mode, offset, len).map(|()| 0),
        Step::DiscardDevice { offset, len } => sys::discard_device(fd, offset, len).map(|()| 0),
    }
}

fn allocate(image: &Image, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
    let mode = FallocateFlags::from_bits(mode).ok_or(Errno::EINVAL)?;
    let offset = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
    let len = i64::try_from(len).map_err(|_| Errno::EFBIG)?;
    fallocate(&image.file, mode, offset, len)
}

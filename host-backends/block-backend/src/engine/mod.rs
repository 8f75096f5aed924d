//! The ways to the disk's bytes, and which one pays when.
//!
//! Rule: an engine carries out one [`Step`] (one system call's worth) and says what came of it; everything that spans
//! steps, such as short transfers, several ranges, fallbacks and durability, is in [`work`] once for all of them.
//!
//! What the choice rests on (4 KiB random, one core, 256 MiB of image in memory, Linux 6.18; ns per request):
//!
//! | way | tmpfs read | tmpfs write | ext4 cached read | ext4 buffered write |
//! |---|---|---|---|---|
//! | copy to or from a mapping | 402 | 447 | 446, but a miss stalls the queue | 4080 |
//! | preadv / pwritev | 948 | 1122 | 795 | 6327 |
//! | preadv2(RWF_NOWAIT) | not supported | not supported | 821 | not supported |
//! | io_uring, depth 32 | 3177 | 3189 | 799 | 9000 |
//! | io_uring, depth 1 | 59 227 | 34 056 | 948 | 97 743 |
//!
//! So files in memory are copied through a mapping, where io_uring would send every request to a kernel thread; reads
//! from other files are tried with RWF_NOWAIT and go to io_uring only when the page cache does not hold them; writes to
//! the page cache are made at once, and io_uring takes what waits for the medium: misses, O_DIRECT, flushes, durable
//! writes, hole punching.

pub(crate) mod map;
pub(crate) mod rings;
pub(crate) mod runner;
#[cfg(test)]
pub(crate) mod scripted;
pub(crate) mod sync;
pub(crate) mod sys;
pub(crate) mod uring;
pub(crate) mod work;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::errno::Errno;

use crate::BlockSpec;
use crate::EngineChoice;
use crate::Error;
use crate::image::Image;
use crate::image::Kind;

/// One system call's worth of work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// Fill the buffers from the image.
    Read {
        offset: u64,
        buffers: &'a [libc::iovec],
    },
    /// Store the buffers in the image; durable ones are on stable storage when they complete.
    Write {
        offset: u64,
        buffers: &'a [libc::iovec],
        durable: bool,
    },
    /// Make all completed writes durable.
    Sync,
    /// fallocate() with `mode`.
    Allocate { mode: i32, offset: u64, len: u64 },
    /// Give a range of a block device back.
    DiscardDevice { offset: u64, len: u64 },
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is over: bytes moved (0 for a step that moves none), or the error.
    Done(Result<usize, Errno>),
    /// It goes on; [`Engine::reap`] will name its slot.
    Pending,
}

/// A way to the disk's bytes, owned by one queue's worker.
#[expect(unsafe_code, reason = "the contract concerns raw buffers")]
pub(crate) trait Engine: Send {
    /// Carries out `step`, or starts it under the name `slot`.
    ///
    /// # Safety
    /// The buffers stay mapped until the step is over, whatever thread unmaps otherwise, and the slice of buffers stays
    /// where it is. A slot has one step at a time.
    unsafe fn start(&mut self, slot: u16, step: Step<'_>) -> Outcome;

    /// A step at `offset` will follow soon.
    fn prefetch(&self, _offset: u64) {}

    /// Hands started steps to the kernel; called once per batch.
    fn submit(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    /// Appends the slots whose steps are over, with what came of them.
    fn reap(&mut self, _over: &mut Vec<(u16, Result<usize, Errno>)>) {}

    /// Blocks until a pending step is over.
    fn wait(&mut self) -> Result<(), Errno> {
        Ok(())
    }

    /// The worker is about to wait for [`Engine::completion_fd`].
    fn before_sleep(&mut self) {}

    /// It has done so; `completed`: the descriptor was readable.
    fn after_sleep(&mut self, _completed: bool) {}

    /// Readable when [`Engine::reap`] has something, while the worker sleeps.
    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Steps that are pending.
    fn pending(&self) -> usize {
        0
    }
}

/// The engine that a device's queues use, chosen once when it opens.
#[derive(Debug)]
pub(crate) enum Choice {
    Map(Arc<map::Shared>),
    Uring {
        rings: Arc<rings::Rings>,
        /// System calls will do for a queue that gets no ring.
        or_sync: bool,
    },
    Sync,
}

impl Choice {
    /// Picks for `image` by what was asked and what works here.
    pub fn pick(spec: &BlockSpec, image: &Arc<Image>) -> Result<Self, Error> {
        let mappable = matches!(image.kind, Kind::MemoryFile | Kind::HugeFile);
        match spec.engine {
            EngineChoice::Auto if mappable => Self::map(spec, image),
            EngineChoice::Auto => match Self::uring(spec, image, true) {
                Ok(uring) => Ok(uring),
                Err(errno) => {
                    tracing::info!(%errno, "io_uring is not available here, using plain system calls");
                    Ok(Self::Sync)
                }
            },
            EngineChoice::Map if mappable => Self::map(spec, image),
            EngineChoice::Map => Err(Error::MapEngine {
                path: image.path.clone(),
            }),
            EngineChoice::Uring => Self::uring(spec, image, false).map_err(Error::Uring),
            EngineChoice::Sync => Ok(Self::Sync),
        }
    }

    /// Everything that queues will need of io_uring, since none can be made in the sandbox.
    fn uring(spec: &BlockSpec, image: &Image, or_sync: bool) -> Result<Self, Errno> {
        let rings = rings::Rings::make(image, spec.num_queues, spec.depth())?;
        let rings = Arc::new(rings);
        Ok(Self::Uring { rings, or_sync })
    }

    fn map(spec: &BlockSpec, image: &Arc<Image>) -> Result<Self, Error> {
        Ok(Self::Map(Arc::new(map::Shared::new(image, spec.readonly)?)))
    }

    /// An engine for one queue.
    pub fn start(&self, image: &Arc<Image>) -> Result<Box<dyn Engine>, Error> {
        Ok(match self {
            Self::Map(shared) => {
                Box::new(map::MapEngine::new(Arc::clone(image), Arc::clone(shared)))
            }
            Self::Uring { rings, or_sync } => {
                match uring::UringEngine::new(Arc::clone(image), rings) {
                    Some(engine) => Box::new(engine),
                    None if !or_sync => return Err(Error::Uring(Errno::EAGAIN)),
                    None => {
                        tracing::warn!(image = %image.path.display(),
                        "an io_uring of this disk is lost to transfers that never ended; a queue uses plain system calls");
                        Box::new(sync::SyncEngine::new(Arc::clone(image)))
                    }
                }
            }
            Self::Sync => Box::new(sync::SyncEngine::new(Arc::clone(image))),
        })
    }

    /// System calls that only this engine makes.
    pub fn syscalls(&self) -> &'static [i64] {
        match self {
            Self::Uring { .. } => &[libc::SYS_io_uring_enter],
            Self::Map(_) | Self::Sync => &[],
        }
    }

    /// The engine's name as the command line spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Map(_) => "map",
            Self::Uring { .. } => "uring",
            Self::Sync => "sync",
        }
    }
}

//! A request under way: the steps that are left of it.
//!
//! Rule: every engine sees only [`Step`]s; short transfers, several ranges, zeroing where the file system cannot, bounce
//! buffers for O_DIRECT and the closing sync of a durable change are settled here.
#![expect(
    unsafe_code,
    reason = "bounce buffers are copied from and to guest memory by address"
)]

use guest_memory::IoVecs;
use guest_memory::volatile;
use nix::errno::Errno;

use crate::engine::Step;
use crate::engine::sys::IOV_MAX;
use crate::image::DirectAlign;
use crate::image::Image;
use crate::image::Kind;
use crate::request::Range;

/// Most bytes that go through a bounce or zero buffer in one step.
const CHUNK: usize = 256 << 10;
/// Page size that O_DIRECT buffers are aligned to.
const PAGE: usize = 4096;
/// How often one step may answer "try again" before the request fails.
const MAX_RETRIES: u32 = 10_000;

/// What a request does to the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Task {
    Read,
    Write,
    #[default]
    Flush,
    Discard,
    WriteZeroes,
}

/// Where a request stands after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another step is due.
    Again,
    /// The request is over: every byte moved, or the error and what moved before it.
    Over(Result<(), Errno>),
}

/// Whether the kernel, the file system or the device says that it has no such operation, or not for this range; as
/// against one that it tried and failed at.
fn is_unsupported(errno: Errno) -> bool {
    use Errno::*;
    matches!(
        errno,
        EOPNOTSUPP | ENOSYS | EINVAL | ENOTTY | ENODEV | EPERM
    )
}

/// How a range is dealt with when the direct way is not supported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Zeroing {
    /// Ask the file system or device.
    #[default]
    Ask,
    /// Write zeroes.
    Write,
}

/// One request under way; reused for the next, so that it allocates nothing once warm.
#[derive(Default)]
pub(crate) struct Work {
    task: Task,
    /// Every change is made durable before the request is over.
    durable: bool,
    /// A durable write failed and is made again as a plain one with a sync after it, to know which of the two fails.
    apart: bool,
    syncing: bool,
    offset: u64,
    len: u64,
    moved: u64,
    retries: u32,
    /// The step was made past the page cache.
    direct: bool,
    /// Guest buffers of what is left to move.
    pub buffers: IoVecs,
    bounce: Option<Bounce>,
    ranges: Vec<Range>,
    range: usize,
    /// Bytes of the current range that are zeroed.
    zeroed: u64,
    zeroing: Zeroing,
    /// Bytes that the step under way deals with, and whether it writes them.
    piece: u64,
    writes: bool,
    synced: bool,
}

/// An aligned buffer in place of guest buffers that O_DIRECT would refuse.
#[derive(Debug)]
pub(crate) struct Bounce {
    bytes: Vec<u8>,
    start: usize,
    list: IoVecList,
}

/// One entry for the kernel that points into the buffer itself.
#[derive(Debug)]
struct IoVecList([libc::iovec; 1]);

// SAFETY: the entry points into the `Vec` of the same [`Bounce`], which moves with it.
unsafe impl Send for IoVecList {}

impl Bounce {
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Self {
            bytes,
            start,
            list: IoVecList([libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            }]),
        }
    }

    pub fn slice(&mut self, len: usize) -> &mut [u8] {
        self.bytes
            .get_mut(self.start..self.start + len)
            .unwrap_or_default()
    }

    /// The first `len` bytes as a buffer list.
    fn list(&mut self, len: usize) -> &[libc::iovec] {
        let slice = self.slice(len);
        let (iov_base, iov_len) = (slice.as_mut_ptr().cast(), slice.len());
        self.list = IoVecList([libc::iovec { iov_base, iov_len }]);
        &self.list.0
    }
}

impl Work {
    /// Begins a transfer of `len` bytes at `offset` between the image and [`Work::buffers`].
    pub fn transfer(&mut self, task: Task, offset: u64, len: u64, durable: bool, image: &Image) {
        self.begin(task, durable);
        (self.offset, self.len) = (offset, len);
        let misaligned = image.direct().is_some_and(|align| {
            self.buffers
                .as_slice()
                .iter()
                .any(|buffer| !is_aligned(buffer, align))
        });
        if misaligned {
            let len = usize::try_from(len).unwrap_or(CHUNK).min(CHUNK);
            self.bounce = Some(Bounce::new(len));
        }
    }

    /// Begins a discard or zeroing of `ranges`.
    pub fn ranges(&mut self, task: Task, ranges: &[Range], durable: bool) {
        self.begin(task, durable);
        self.ranges.extend_from_slice(ranges);
    }

    /// Begins a flush.
    pub fn flush(&mut self) {
        self.begin(Task::Flush, false);
        self.syncing = true;
    }

    fn begin(&mut self, task: Task, durable: bool) {
        (self.task, self.durable, self.syncing) = (task, durable, false);
        self.apart = false;
        (self.offset, self.len, self.moved) = (0, 0, 0);
        (self.range, self.zeroed, self.retries) = (0, 0, 0);
        (self.synced, self.direct) = (false, false);
        self.bounce = None;
        self.zeroing = Zeroing::Ask;
        self.ranges.clear();
    }

    /// Bytes moved so far.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the last step was a sync.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether what is left to write reaches past the image's end, which may have moved since the request was checked: a
    /// write there would make the image grow again.
    #[inline]
    pub fn is_outgrown(&self, image: &Image) -> bool {
        let end = match self.task {
            Task::Write => self.offset + self.len,
            Task::WriteZeroes => {
                let range = self.ranges.get(self.range);
                range.map_or(0, |range| range.offset + range.len)
            }
            _ => return false,
        };
        end > image.size()
    }

    /// The step that is due, or `None` when nothing is left to do.
    pub fn step(&mut self, image: &Image) -> Option<Step<'_>> {
        if self.syncing {
            return Some(Step::Sync);
        }
        match self.task {
            Task::Read | Task::Write if self.moved == self.len => None,
            Task::Read | Task::Write => {
                self.direct = image.direct().is_some();
                Some(self.transfer_step())
            }
            Task::Flush => None,
            Task::Discard | Task::WriteZeroes => {
                if !self.find_piece(image) && self.durable && !self.synced {
                    self.syncing = true;
                    return Some(Step::Sync);
                }
                self.range_step(image)
            }
        }
    }

    fn transfer_step(&mut self) -> Step<'_> {
        let offset = self.offset + self.moved;
        let left = usize::try_from(self.len - self.moved).unwrap_or(usize::MAX);
        let rest = self.buffers.as_slice();
        let buffers = match &mut self.bounce {
            Some(bounce) => {
                let len = left.min(CHUNK);
                if self.task == Task::Write {
                    copy_out(rest, bounce.slice(len));
                }
                bounce.list(len)
            }
            None => rest.get(..rest.len().min(IOV_MAX)).unwrap_or_default(),
        };
        match self.task {
            Task::Read => Step::Read { offset, buffers },
            _ => Step::Write {
                offset,
                buffers,
                durable: self.durable && !self.apart,
            },
        }
    }

    /// Goes to what is left of the ranges, and cuts it on the device's sectors; false when nothing is.
    fn find_piece(&mut self, image: &Image) -> bool {
        while let Some(range) = self.ranges.get(self.range) {
            let left = range.len - self.zeroed;
            let (piece, whole) = cut(range.offset + self.zeroed, left, image.sector);
            if left == 0 {
                (self.range, self.zeroed) = (self.range + 1, 0);
            } else if !whole && self.task == Task::Discard {
                // A discard is advice: less than a sector cannot be given back.
                self.zeroed += piece;
            } else {
                self.piece = piece;
                self.writes = !whole || self.zeroing == Zeroing::Write;
                self.direct = self.writes && image.direct().is_some();
                return true;
            }
        }
        false
    }

    fn range_step(&mut self, image: &Image) -> Option<Step<'_>> {
        let range = *self.ranges.get(self.range)?;
        let (offset, len) = (range.offset + self.zeroed, self.piece);
        if self.writes {
            let len = usize::try_from(len).unwrap_or(CHUNK).min(CHUNK);
            let zeroes = self.bounce.get_or_insert_with(|| Bounce::new(CHUNK));
            return Some(Step::Write {
                offset,
                buffers: zeroes.list(len),
                durable: false,
            });
        }
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let zero = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        Some(match self.task {
            Task::Discard if image.kind == Kind::Device => Step::DiscardDevice { offset, len },
            _ => Step::Allocate {
                mode: if range.unmap { punch } else { zero },
                offset,
                len,
            },
        })
    }

    /// Takes in what came of the step.
    pub fn advance(&mut self, image: &Image, result: Result<usize, Errno>) -> Next {
        match result {
            Err(Errno::EINTR | Errno::EAGAIN) if self.retries < MAX_RETRIES => {
                self.retries += 1;
                Next::Again
            }
            result if self.syncing => {
                (self.syncing, self.synced) = (false, true);
                Next::Over(result.map(drop))
            }
            // The step is made again, through the page cache.
            Err(Errno::EINVAL) if self.direct => {
                image.leave_direct();
                Next::Again
            }
            result => match self.task {
                Task::Read | Task::Write => self.advance_transfer(image, result),
                Task::Flush => Next::Over(Ok(())),
                Task::Discard | Task::WriteZeroes => self.advance_range(result),
            },
        }
    }

    fn advance_transfer(&mut self, image: &Image, result: Result<usize, Errno>) -> Next {
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(_) if self.task == Task::Write && self.durable && !self.apart => {
                self.apart = true;
                return Next::Again;
            }
            Err(errno) => return Next::Over(Err(errno)),
        };
        let read = self.task == Task::Read;
        if read && let Some(bounce) = &mut self.bounce {
            copy_in(bounce.slice(bytes), self.buffers.as_slice());
        }
        self.moved += bytes as u64;
        if self.moved >= self.len && self.apart {
            self.syncing = true;
            return Next::Again;
        } else if self.moved >= self.len {
            return Next::Over(Ok(()));
        }
        self.buffers.advance(bytes);
        if read && image.is_padding(self.offset + self.moved) {
            fill(self.buffers.as_slice());
            self.moved = self.len;
            Next::Over(Ok(()))
        } else if bytes == 0 {
            // The image ends earlier than its size said, or takes no more.
            Next::Over(Err(Errno::EIO))
        } else {
            Next::Again
        }
    }

    fn advance_range(&mut self, result: Result<usize, Errno>) -> Next {
        match result {
            Ok(0) if self.writes => return Next::Over(Err(Errno::EIO)),
            Ok(bytes) if self.writes => self.zeroed += self.piece.min(bytes as u64),
            Ok(_) => self.zeroed += self.piece,
            Err(errno) if self.writes || !is_unsupported(errno) => return Next::Over(Err(errno)),
            // A discard is advice: where it cannot be followed nothing is lost.
            Err(_) if self.task == Task::Discard => self.zeroed += self.piece,
            Err(_) => self.zeroing = Zeroing::Write,
        }
        Next::Again
    }
}

/// The first piece of a range of `len` bytes at `offset`, and whether it is whole sectors.
fn cut(offset: u64, len: u64, sector: u64) -> (u64, bool) {
    let head = (sector - offset % sector) % sector;
    let whole = len - len % sector;
    match (head, whole) {
        (0, 0) => (len, false),
        (0, whole) => (whole, true),
        (head, _) => (head.min(len), false),
    }
}

fn is_aligned(buffer: &libc::iovec, align: DirectAlign) -> bool {
    buffer.iov_base.addr().is_multiple_of(align.memory)
        && buffer
            .iov_len
            .is_multiple_of((align.offset as usize).max(1))
}

/// Copies guest buffers into `to` until it is full.
fn copy_out(buffers: &[libc::iovec], mut to: &mut [u8]) {
    for buffer in buffers {
        let len = buffer.iov_len.min(to.len());
        let (now, later) = std::mem::take(&mut to).split_at_mut(len);
        // SAFETY: the buffer is mapped guest memory by the contract of the step in hand, and as long as `now`; no Rust
        // object lives there, so it cannot overlap `now`.
        unsafe {
            volatile::copy(
                buffer.iov_base.cast::<u8>().cast_const(),
                now.as_mut_ptr(),
                now.len(),
            )
        };
        to = later;
        if to.is_empty() {
            return;
        }
    }
}

/// Copies `from` into guest buffers until it is used up.
fn copy_in(mut from: &[u8], buffers: &[libc::iovec]) {
    for buffer in buffers {
        let (now, later) = from.split_at(buffer.iov_len.min(from.len()));
        // SAFETY: the buffer is mapped guest memory by the contract of the step in hand, and as long as `now`; no Rust
        // object lives there, so it cannot overlap `now`.
        unsafe { volatile::copy(now.as_ptr(), buffer.iov_base.cast(), now.len()) };
        from = later;
        if from.is_empty() {
            return;
        }
    }
}

/// Fills guest buffers with zeroes.
fn fill(buffers: &[libc::iovec]) {
    for buffer in buffers {
        // SAFETY: the buffer is mapped guest memory by the contract of the step that just ended; no Rust object lives
        // there.
        unsafe { volatile::zero(buffer.iov_base.cast(), buffer.iov_len) };
    }
}

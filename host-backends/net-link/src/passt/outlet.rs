//! Frames into a byte stream.
//!
//! Rule: many frames go in one call; what the socket does not take is copied before the buffers are given back, and
//! until it is gone no other frame is taken, so that the copy is bounded.
#![expect(unsafe_code, reason = "writes come from guest memory directly")]

use std::os::fd::BorrowedFd;

use guest_memory::IoVecs;
use nix::errno::Errno;

use crate::HEADER_BYTES;
use crate::spans;
use crate::tap::sys;

/// Bytes that are gathered before they are written, and most that are ever copied.
const BATCH: usize = 192 << 10;
/// Most spans of one frame.
pub(super) const MAX_SPANS: usize = sys::IOV_MAX - 1;
/// Room for length and head of one frame.
const PREFIX: usize = 4;

/// A piece of the batch: our own bytes in the arena, or spans of guest memory.
#[derive(Clone, Copy)]
enum Piece {
    Own { at: usize, len: usize },
    Guest(libc::iovec),
}

/// Frames that are about to be written.
#[derive(Default)]
pub(super) struct Outlet {
    /// Lengths and heads.
    arena: Vec<u8>,
    pieces: Vec<Piece>,
    /// Bytes of all pieces.
    batched: usize,
    /// What the socket did not take.
    backlog: Vec<u8>,
    /// The buffers of one call; kept for its allocation.
    call: Vec<libc::iovec>,
}

// SAFETY: addresses in guest memory that the link's owner holds until the next flush, which empties the list.
unsafe impl Send for Outlet {}

impl Outlet {
    /// Forgets everything, for a new connection.
    pub fn clear(&mut self) {
        self.backlog.clear();
        self.forget_batch();
    }

    /// Whether the socket has yet to take what was copied.
    pub fn is_behind(&self) -> bool {
        self.behind() > 0
    }

    /// Bytes that the socket has yet to take.
    pub fn behind(&self) -> usize {
        self.backlog.len()
    }

    /// Whether the batch has to be written before it takes this frame.
    pub fn is_full(&self, length: usize, spans: usize) -> bool {
        self.batched + length > BATCH || self.pieces.len() + spans + 1 > sys::IOV_MAX
    }

    /// Adds a frame: its head behind the virtio-net header, and the rest.
    pub fn push(&mut self, head: &[u8], rest: &IoVecs) {
        let own = head.get(HEADER_BYTES..).unwrap_or_default();
        let length = own.len() + rest.total_len();
        let prefix = u32::try_from(length).unwrap_or_default().to_be_bytes();
        let at = self.arena.len();
        self.arena.extend_from_slice(&prefix);
        self.arena.extend_from_slice(own);
        // Neighbours in the arena are one piece: small frames cost no buffer of their own.
        let len = PREFIX + own.len();
        match self.pieces.last_mut() {
            Some(Piece::Own { len: last, .. }) => *last += len,
            _ => self.pieces.push(Piece::Own { at, len }),
        }
        self.pieces
            .extend(rest.as_slice().iter().copied().map(Piece::Guest));
        self.batched += PREFIX + length;
    }

    /// Writes backlog and batch. `Ok(false)` when the socket did not take everything: the rest was copied.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        if !self.backlog.is_empty() {
            let own = libc::iovec {
                iov_base: self.backlog.as_ptr().cast_mut().cast(),
                iov_len: self.backlog.len(),
            };
            // SAFETY: the buffer is ours, borrowed across the call and only read.
            let sent = unsafe { send(socket, &[own]) }?;
            self.backlog.drain(..sent.min(self.backlog.len()));
        }
        if self.batched == 0 {
            return Ok(self.backlog.is_empty());
        }
        self.call.clear();
        let arena = self.arena.as_ptr();
        self.call
            .extend(self.pieces.iter().map(|piece| match piece {
                Piece::Own { at, len } => libc::iovec {
                    iov_base: arena.wrapping_add(*at).cast_mut().cast(),
                    iov_len: *len,
                },
                Piece::Guest(span) => *span,
            }));
        let mut sent = 0;
        if self.backlog.is_empty() {
            // SAFETY: the arena is ours and not touched before the call returned; the other spans are guest memory
            // that the caller holds until this returns.
            sent = unsafe { send(socket, &self.call) }?;
        }
        self.copy_behind(sent);
        self.forget_batch();
        Ok(self.backlog.is_empty())
    }

    /// Copies what lies behind the first `sent` bytes of the batch.
    fn copy_behind(&mut self, mut sent: usize) {
        for span in &self.call {
            let skip = sent.min(span.iov_len);
            sent -= skip;
            let rest = libc::iovec {
                iov_base: span.iov_base.wrapping_byte_add(skip),
                iov_len: span.iov_len - skip,
            };
            spans::append(&rest, &mut self.backlog);
        }
        self.call.clear();
    }

    fn forget_batch(&mut self) {
        self.arena.clear();
        self.pieces.clear();
        self.batched = 0;
    }
}

/// Writes to the socket without waiting and without a signal; a full socket takes 0.
///
/// # Safety
/// Every buffer must be mapped memory until the call returns.
unsafe fn send(socket: BorrowedFd<'_>, buffers: &[libc::iovec]) -> Result<usize, Errno> {
    // SAFETY: the caller vouches for the buffers.
    match unsafe { sys::sendmsg(socket, buffers) } {
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
        other => other,
    }
}

//! A reusable scatter list. One rule: an entry is only ever built from a checked span of a live mapping, and the
//! list is used while the `GuestMemory` it came from is held.
#![expect(unsafe_code, reason = "iovec holds raw pointers")]

use crate::HostSlice;

/// `iovec`s for `preadv`, `pwritev` and io_uring; keeps its allocation between uses.
#[derive(Default)]
pub struct IoVecs {
    vecs: Vec<libc::iovec>,
    total: usize,
}

// SAFETY: an iovec is an address and a length; using it from another thread is the user's unsafe system call.
unsafe impl Send for IoVecs {}

impl IoVecs {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty list with room for `entries`.
    pub fn with_capacity(entries: usize) -> Self {
        Self {
            vecs: Vec::with_capacity(entries),
            total: 0,
        }
    }

    /// Forgets the entries, keeps the room.
    pub fn clear(&mut self) {
        self.vecs.clear();
        self.total = 0;
    }

    /// The entries.
    pub fn as_slice(&self) -> &[libc::iovec] {
        &self.vecs
    }

    /// Sum of the lengths, in bytes.
    pub fn total_len(&self) -> usize {
        self.total
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.vecs.is_empty()
    }

    /// Appends a span; joins it to the last entry when the two are neighbours.
    #[inline]
    pub(crate) fn push(&mut self, slice: HostSlice<'_>) {
        let base = slice.as_ptr().as_ptr();
        self.total += slice.len();
        if let Some(last) = self.vecs.last_mut()
            && last.iov_base.addr() + last.iov_len == base.addr()
        {
            last.iov_len += slice.len();
            return;
        }
        self.vecs.push(libc::iovec {
            iov_base: base.cast(),
            iov_len: slice.len(),
        });
    }

    /// Drops `bytes` from the front, as after a short read or write.
    pub fn advance(&mut self, bytes: usize) {
        let mut left = bytes.min(self.total);
        self.total -= left;
        let mut whole = 0;
        for vec in &mut self.vecs {
            if left < vec.iov_len {
                vec.iov_base = vec.iov_base.wrapping_byte_add(left);
                vec.iov_len -= left;
                break;
            }
            left -= vec.iov_len;
            whole += 1;
        }
        self.vecs.drain(..whole);
    }
}

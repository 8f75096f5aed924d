//! Guest pages that go back to the host, and come again. One rule: only whole host pages that lie inside the asked
//! range are touched, and each result says what was not.
//!
//! What happens by the kind of file behind a region:
//!
//! - memfd, tmpfs, hugetlbfs: a hole is punched, which frees the page for every process that maps it. The next access,
//!   of whomever, finds zeroes. On hugetlbfs only whole huge pages go, and the next access needs a free one of the pool:
//!   [`GuestMemory::reserve`] takes it beforehand.
//! - a file on disk (ext4, XFS): the same. Who hands a file over as shared guest memory has given its content up to the
//!   guest, and a hole spares the write-back of what the guest no longer wants.
//! - a file sealed against writing after it was mapped, a file system without holes: nothing is released, now or later,
//!   and the result says so. Private memory cannot get here: the session maps all regions shared.

use crate::Error;
use crate::GuestMemory;
use crate::RegionSpec;
use std::ops::AddAssign;

/// What became of a range that was to be released; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Released {
    /// Given back, whether or not a page was there.
    pub bytes: u64,
    /// Kept, for they are part of a larger host page.
    pub partial: u64,
    /// Kept, for the file behind them cannot give pages back.
    pub refused: u64,
    /// Calls made.
    pub calls: u64,
}

impl AddAssign for Released {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.partial += other.partial;
        self.refused += other.refused;
        self.calls += other.calls;
    }
}

/// The host page around a guest address, in guest addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPage {
    /// First byte.
    pub start: u64,
    /// Bytes; a power of two.
    pub size: u64,
}

impl GuestMemory {
    /// Gives the whole host pages inside `len` bytes at guest address `addr` back to the host. Their content is zeroes
    /// from now on. The range may cross regions; each part is one call.
    ///
    /// # Errors
    /// [`Error::Hole`] if a part of the range is not guest memory; nothing was released then.
    pub fn release(&self, addr: u64, len: u64) -> Result<Released, Error> {
        let mut done = Released::default();
        self.for_each_part(addr, len, |region, offset, part| {
            let page = region.backing.page;
            let file = region.spec.mmap_offset + offset;
            let from = file.next_multiple_of(page);
            let whole = ((file + part) / page * page).saturating_sub(from);
            done.partial += part - whole;
            if whole == 0 {
                return;
            }
            let before = region.backing.refuses();
            done.calls += u64::from(!before);
            if region.backing.punch(from, whole) {
                done.bytes += whole;
                // Data changed, so the bit comes after it.
                self.mark_dirty(region.spec.guest_addr + offset + (from - file), whole);
            } else {
                done.refused += whole;
            }
        })?;
        Ok(done)
    }

    /// Takes host pages for `len` bytes at guest address `addr`, so that no access to them has to wait or can fail.
    /// Returns the bytes for which that worked.
    ///
    /// # Errors
    /// [`Error::Hole`] if a part of the range is not guest memory.
    pub fn reserve(&self, addr: u64, len: u64) -> Result<u64, Error> {
        let mut done = 0;
        self.for_each_part(addr, len, |region, offset, part| {
            let page = region.backing.page;
            let file = region.spec.mmap_offset + offset;
            let from = file / page * page;
            let to = (file + part).next_multiple_of(page);
            if region.backing.reserve(from, to - from) {
                done += part;
            }
        })?;
        Ok(done)
    }

    /// The host page around guest address `addr`, if it lies in one region as a whole.
    #[inline]
    pub fn host_page(&self, addr: u64) -> Option<HostPage> {
        let (region, offset) = self.find(addr)?;
        let size = region.backing.page;
        let into = (region.spec.mmap_offset + offset) % size;
        let before = offset.checked_sub(into)?;
        (before + size <= region.spec.size).then(|| HostPage {
            start: region.spec.guest_addr + before,
            size,
        })
    }

    /// The regions by ascending guest address, each with the size of its host pages in bytes.
    pub fn host_pages(&self) -> impl Iterator<Item = (&RegionSpec, u64)> {
        self.all().iter().map(|r| (&r.spec, r.backing.page))
    }

    /// Bytes of host memory in the files behind all regions, now.
    pub fn resident(&self) -> u64 {
        let mut seen: Vec<*const crate::backing::Backing> = Vec::new();
        let mut sum = 0_u64;
        for region in self.all() {
            let at = std::sync::Arc::as_ptr(&region.backing);
            if !seen.contains(&at) {
                seen.push(at);
                sum = sum.saturating_add(region.backing.resident());
            }
        }
        sum
    }

    /// Bytes of all regions.
    pub fn size(&self) -> u64 {
        self.regions().map(|region| region.size).sum()
    }
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;

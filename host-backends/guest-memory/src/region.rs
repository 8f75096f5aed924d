//! What a front-end says about a region, and the checks on it. One rule: after `validate`, sums cannot overflow.

use crate::Error;

/// Where a region lies in guest, front-end and file address space; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionSpec {
    /// Guest-physical address.
    pub guest_addr: u64,
    /// Size.
    pub size: u64,
    /// Address in the front-end's process; ring addresses come in these terms.
    pub user_addr: u64,
    /// Offset in the file.
    pub mmap_offset: u64,
}

impl RegionSpec {
    const PAGE_MASK: u64 = 0xfff;

    /// Refuses empty, overflowing and unaligned regions.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.size == 0 {
            return Err(Error::EmptyRegion(self.guest_addr));
        }
        let starts = [self.guest_addr, self.user_addr, self.mmap_offset];
        if starts.iter().any(|start| start & Self::PAGE_MASK != 0) {
            return Err(Error::Unaligned(self.guest_addr));
        }
        // The last page of the address space stays unused, so that rounded-up ends cannot wrap.
        let limit = u64::MAX - Self::PAGE_MASK;
        let fits = |start: &u64| start.checked_add(self.size).is_some_and(|end| end <= limit);
        if !starts.iter().all(fits) || self.size > isize::MAX as u64 {
            return Err(Error::RegionOverflow(self.guest_addr));
        }
        Ok(())
    }

    pub(crate) fn guest_end(&self) -> u64 {
        self.guest_addr + self.size
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: u64, b: u64| a < b + other.size && b < a + self.size;
        meet(self.guest_addr, other.guest_addr) || meet(self.user_addr, other.user_addr)
    }
}

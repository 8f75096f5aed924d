//! The guest's page allocator, as the balloon needs it.
//!
//! Rule: the shell keeps the list of pages in the balloon, by whatever means its pages have for that; the driver remembers only those
//! that are on their way. Each call here moves pages from one side to the other exactly once.
use crate::statistics::Statistics;

/// Free memory in one piece, for hints and reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Guest-physical address of the first byte.
    pub addr: u64,
    /// Length in bytes, not 0.
    pub len: u32,
}

/// What a shell does for the balloon. PFNs count in units of 4 KiB whatever the guest's page size is.
///
/// `poison` is the value that memory has to be filled with before the guest uses it again, if one was negotiated (PAGE_POISON);
/// without it the content is undefined.
pub trait Pages {
    /// Takes pages out of the guest's use and writes their PFNs; returns how many. Fewer than asked for: none can be spared now. Never
    /// waits for memory and never pushes the guest into distress. A guest with larger pages gives all PFNs of a page in a row.
    fn grab(&mut self, into: &mut [u32]) -> usize;

    /// Pages that came from [`Pages::grab`] are in the balloon now: the device has acknowledged them.
    fn ballooned(&mut self, pfns: &[u32]);

    /// Chooses pages of the balloon to take out, strikes them off the list and writes their PFNs; returns how many.
    fn pick(&mut self, into: &mut [u32]) -> usize;

    /// Pages from [`Pages::pick`], or from [`Pages::grab`] when the device was reset, are the guest's again.
    fn release(&mut self, pfns: &[u32], poison: Option<u32>);

    /// Fills in the statistics that the guest has; the same ones at each call.
    fn statistics(&mut self, statistics: &mut Statistics) {
        let _ = statistics;
    }

    /// Takes free blocks out of the allocator to report them, large ones first, filled with `poison` if there is one; returns how many.
    /// A block is offered once until its memory was used again.
    fn isolate(&mut self, into: &mut [Block], poison: Option<u32>) -> usize {
        let _ = (into, poison);
        0
    }

    /// Blocks from [`Pages::isolate`] go back into the allocator; `reported` unless the device was reset meanwhile.
    fn reported(&mut self, blocks: &[Block], reported: bool) {
        let _ = (blocks, reported);
    }

    /// Takes a free block out of the allocator as a hint and keeps it in a list of its own; `None` when there are no more. The shell may
    /// use such a block at any time, after writing to all of it.
    fn hint(&mut self) -> Option<Block> {
        None
    }

    /// The hints are no longer needed: all blocks from [`Pages::hint`] go back into the allocator.
    fn release_hints(&mut self) {}
}

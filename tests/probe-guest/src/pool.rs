//! A pool of the guest's pages, of which the balloon takes: who has each page, and a pattern in those that are in use.
//!
//! Rule: a page of the pool is touched only while it is in use; what is in use is read back before it counts as intact.
use alloc::vec;
use alloc::vec::Vec;

use balloon_driver::Block;
use balloon_driver::Pages;
use balloon_driver::Statistics;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::PFN_SHIFT;
use virtio_spec::balloon::stat;
use virtqueue::RingMemory;

use crate::pattern;
use crate::platform::Buffer;
use crate::platform::Platform;

const PAGE: usize = PAGE_SIZE as usize;
/// Largest block of a report, in pages: 2 MiB.
const BLOCK_PAGES: usize = 512;
/// The pool starts at a border of this, so that blocks can be huge pages of the host.
const ALIGN: usize = 2 << 20;

/// Who has a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Free,
    /// Free, and the device knows.
    Reported,
    /// Holds a pattern.
    Data,
    /// A buffer of somebody's.
    Busy,
    /// In the balloon or on its way there or back, or in a report.
    Away,
}

/// The pool.
pub(crate) struct Pool {
    memory: RingMemory,
    first_pfn: u32,
    owners: Vec<Owner>,
    /// In the balloon.
    balloon: Vec<u32>,
    free: usize,
    /// Where the search for free pages goes on.
    next: usize,
    /// A page that did not hold its pattern.
    pub(crate) damaged: Option<usize>,
}

impl Pool {
    /// A pool of untouched pages.
    pub(crate) fn new(platform: &Platform, bytes: u64) -> Option<Self> {
        let pages = usize::try_from(bytes >> PFN_SHIFT).ok()?;
        let (memory, addr) = platform.untouched(pages * PAGE, ALIGN)?;
        Some(Self {
            memory,
            first_pfn: u32::try_from(addr >> PFN_SHIFT).ok()?,
            owners: vec![Owner::Free; pages],
            balloon: Vec::with_capacity(pages),
            free: pages,
            next: 0,
            damaged: None,
        })
    }

    pub(crate) fn pages(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn free_pages(&self) -> usize {
        self.free
    }

    /// Puts a pattern into up to `count` free pages, every `stride`th; returns how many.
    pub(crate) fn use_pages(&mut self, count: usize, stride: usize) -> usize {
        let mut got = 0;
        for offset in 0..stride.max(1) {
            let mut index = offset;
            while index < self.owners.len() && got < count {
                if self.is_free(index) {
                    self.set(index, Owner::Data);
                    self.fill(index);
                    got += 1;
                }
                index += stride.max(1);
            }
        }
        got
    }

    /// Reads back all patterns and frees up to `count` of their pages; returns how many pages were read.
    pub(crate) fn verify_and_free(&mut self, count: usize) -> usize {
        let (mut read, mut freed) = (0, 0);
        for index in 0..self.owners.len() {
            if self.owners.get(index) != Some(&Owner::Data) {
                continue;
            }
            read += 1;
            if !self.intact(index) {
                self.damaged.get_or_insert(index);
            }
            if freed < count {
                freed += 1;
                self.set(index, Owner::Free);
            }
        }
        read
    }

    /// Writes to every free page and reads it back; returns how many.
    pub(crate) fn touch(&mut self) -> usize {
        let mut touched = 0;
        for index in 0..self.owners.len() {
            if self.is_free(index) {
                self.fill(index);
                if !self.intact(index) {
                    self.damaged.get_or_insert(index);
                }
                self.set(index, Owner::Free);
                touched += 1;
            }
        }
        touched
    }

    /// A free page as a buffer, with its number.
    pub(crate) fn borrow(&mut self) -> Option<(usize, Buffer)> {
        let index = self.find()?;
        let memory = self.memory.subspan(index * PAGE, PAGE)?;
        self.set(index, Owner::Busy);
        Some((index, Buffer::over(memory, self.address(index))))
    }

    /// Takes a borrowed page back.
    pub(crate) fn give_back(&mut self, index: usize) {
        if self.owners.get(index) == Some(&Owner::Busy) {
            self.set(index, Owner::Free);
        }
    }

    fn address(&self, index: usize) -> u64 {
        (u64::from(self.first_pfn) + index as u64) << PFN_SHIFT
    }

    fn is_free(&self, index: usize) -> bool {
        matches!(self.owners.get(index), Some(Owner::Free | Owner::Reported))
    }

    fn set(&mut self, index: usize, owner: Owner) {
        let before = self.is_free(index);
        if let Some(entry) = self.owners.get_mut(index) {
            *entry = owner;
        }
        match (before, self.is_free(index)) {
            (true, false) => self.free -= 1,
            (false, true) => self.free += 1,
            _ => {}
        }
    }

    /// The next free page round the pool.
    fn find(&mut self) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        let pages = self.owners.len();
        let found = (0..pages)
            .map(|step| (self.next + step) % pages)
            .find(|&index| self.is_free(index))?;
        self.next = (found + 1) % pages;
        Some(found)
    }

    fn fill(&self, index: usize) {
        let mut sector = [0; pattern::SECTOR];
        for part in 0..PAGE / pattern::SECTOR {
            pattern::fill(&mut sector, index as u64, part as u32 + 1);
            self.memory
                .write(index * PAGE + part * pattern::SECTOR, &sector);
        }
    }

    fn intact(&self, index: usize) -> bool {
        let mut sector = [0; pattern::SECTOR];
        (0..PAGE / pattern::SECTOR).all(|part| {
            self.memory
                .read(index * PAGE + part * pattern::SECTOR, &mut sector);
            pattern::matches(&sector, index as u64, part as u32 + 1)
        })
    }

    fn index(&self, pfn: u32) -> usize {
        pfn.wrapping_sub(self.first_pfn) as usize
    }
}

impl Pages for Pool {
    fn grab(&mut self, into: &mut [u32]) -> usize {
        let mut count = 0;
        for room in into {
            let Some(index) = self.find() else { break };
            self.set(index, Owner::Away);
            *room = self.first_pfn + index as u32;
            count += 1;
        }
        count
    }

    fn ballooned(&mut self, pfns: &[u32]) {
        self.balloon.extend_from_slice(pfns);
    }

    fn pick(&mut self, into: &mut [u32]) -> usize {
        let mut count = 0;
        for room in into {
            let Some(pfn) = self.balloon.pop() else { break };
            *room = pfn;
            count += 1;
        }
        count
    }

    fn release(&mut self, pfns: &[u32], _: Option<u32>) {
        for &pfn in pfns {
            self.set(self.index(pfn), Owner::Free);
        }
    }

    fn statistics(&mut self, statistics: &mut Statistics) {
        let free = self.free as u64 * PAGE_SIZE;
        statistics.set(stat::MEMTOT, self.owners.len() as u64 * PAGE_SIZE);
        statistics.set(stat::MEMFREE, free);
        statistics.set(stat::AVAIL, free);
    }

    fn isolate(&mut self, into: &mut [Block], _: Option<u32>) -> usize {
        let mut count = 0;
        let mut start = 0;
        for room in into {
            let rest = self.owners.get(start..).unwrap_or_default();
            let Some(skipped) = rest.iter().position(|&owner| owner == Owner::Free) else {
                break;
            };
            start += skipped;
            let run = self.owners.get(start..).unwrap_or_default();
            let to_border = BLOCK_PAGES - start % BLOCK_PAGES;
            let free = |owner: &&Owner| **owner == Owner::Free;
            let pages = run.iter().take(to_border).take_while(free).count();
            (start..start + pages).for_each(|index| self.set(index, Owner::Away));
            *room = Block {
                addr: self.address(start),
                len: (pages * PAGE) as u32,
            };
            start += pages;
            count += 1;
        }
        count
    }

    fn reported(&mut self, blocks: &[Block], reported: bool) {
        let owner = if reported {
            Owner::Reported
        } else {
            Owner::Free
        };
        for block in blocks {
            let first = self.index((block.addr >> PFN_SHIFT) as u32);
            (first..first + block.len as usize / PAGE).for_each(|index| self.set(index, owner));
        }
    }
}

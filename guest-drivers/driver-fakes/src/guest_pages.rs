//! A guest's memory, page by page: who has each page, and what is in it.
//!
//! Rule: both sides look at one ledger. A page moves only along the arrows of virtio 1.4 sec. 5.5.6; whoever moves it otherwise, or finds
//! a page changed that is the guest's, fails the test.
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use balloon_driver::Block;
use balloon_driver::Pages;
use balloon_driver::Statistics;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::PFN_SHIFT;

use crate::random::Random;

/// What a page of the host's that was never written to holds.
const ZERO: u64 = 0;
/// What the device leaves in a page that it may change.
const JUNK: u64 = 0xdede_dede_dede_dede;

/// Who has a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The guest, for its data.
    Used,
    /// The guest's allocator.
    Free,
    /// On its way into the balloon.
    Grabbed,
    /// In the balloon.
    Ballooned,
    /// On its way out of the balloon.
    Picked,
    /// On its way in a report.
    Isolated,
    /// A hint.
    Hinted,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    owner: Owner,
    /// Stands for all of its bytes.
    content: u64,
    /// Reported and not used since.
    reported: bool,
}

#[derive(Debug)]
struct State {
    pages: Vec<Page>,
    /// In the balloon, in the order in which they went in.
    balloon: Vec<usize>,
}

/// The memory of a guest, shared by the guest's allocator and the fake device.
#[derive(Clone, Debug)]
pub struct FakeRam {
    first_pfn: u32,
    state: Arc<Mutex<State>>,
}

impl FakeRam {
    /// `pages` free pages from `first_pfn` on.
    pub fn new(first_pfn: u32, pages: usize) -> Self {
        let page = Page {
            owner: Owner::Free,
            content: ZERO,
            reported: false,
        };
        let state = State {
            pages: vec![page; pages],
            balloon: Vec::new(),
        };
        Self {
            first_pfn,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// How many pages an owner has.
    pub fn count(&self, owner: Owner) -> usize {
        let state = self.state();
        state.pages.iter().filter(|p| p.owner == owner).count()
    }

    /// The PFNs of the pages that an owner has.
    pub fn pfns(&self, owner: Owner) -> Vec<u32> {
        let state = self.state();
        (self.first_pfn..)
            .zip(&state.pages)
            .filter(|(_, page)| page.owner == owner)
            .map(|(pfn, _)| pfn)
            .collect()
    }

    /// The device says that pages are in the balloon now: it may change them.
    pub(crate) fn device_inflates(&self, pfn: u32) {
        self.device_takes(pfn, &[Owner::Grabbed]);
    }

    /// The device hears that a page is leaving the balloon; with `must_tell` it may change it for the last time.
    pub(crate) fn device_deflates(&self, pfn: u32, must_tell: bool) {
        if must_tell {
            self.device_takes(pfn, &[Owner::Picked]);
        }
    }

    /// The device hears of free memory and may change it, to poison only if there is one.
    pub(crate) fn device_frees(&self, addr: u64, len: u32, hint: bool, poison: Option<u32>) {
        assert_eq!(addr % PAGE_SIZE, 0, "a block does not start with a page");
        assert_eq!(u64::from(len) % PAGE_SIZE, 0, "a block is not whole pages");
        let first = u32::try_from(addr >> PFN_SHIFT).unwrap_or(u32::MAX);
        let allowed = if hint { Owner::Hinted } else { Owner::Isolated };
        for pfn in first..first + (len >> PFN_SHIFT) {
            match poison.filter(|_| !hint) {
                None => self.device_takes(pfn, &[allowed]),
                Some(poison) => self.device_keeps(pfn, u64::from(poison)),
            }
        }
    }

    fn device_takes(&self, pfn: u32, allowed: &[Owner]) {
        let mut state = self.state();
        let page = &mut state.pages[(pfn - self.first_pfn) as usize];
        let owner = page.owner;
        assert!(
            allowed.contains(&owner),
            "page {pfn:#x} was given to the device, but it is {owner:?}"
        );
        page.content = JUNK;
    }

    fn device_keeps(&self, pfn: u32, poison: u64) {
        let mut state = self.state();
        let page = &mut state.pages[(pfn - self.first_pfn) as usize];
        assert_eq!(page.owner, Owner::Isolated);
        assert_eq!(
            page.content, poison,
            "a reported page is not full of poison"
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's allocator over a [`FakeRam`].
#[derive(Debug)]
pub struct FakePages {
    ram: FakeRam,
    random: Random,
    /// Free pages that are not given to the balloon.
    pub reserve: usize,
    /// The value that freed pages hold and that must be found again.
    poison: Option<u32>,
    /// The figures for the device.
    pub statistics: Statistics,
}

impl FakePages {
    /// An allocator for all of `ram`.
    pub fn new(ram: FakeRam, seed: u64) -> Self {
        Self {
            ram,
            random: Random::new(seed),
            reserve: 0,
            poison: None,
            statistics: Statistics::default(),
        }
    }

    /// Fills all free memory with a poison, on which the guest relies from now on.
    pub fn rely_on_poison(&mut self, poison: u32) {
        self.poison = Some(poison);
        for page in &mut self.ram.state().pages {
            if page.owner == Owner::Free {
                page.content = u64::from(poison);
            }
        }
    }

    /// The memory.
    pub fn ram(&self) -> &FakeRam {
        &self.ram
    }

    /// The guest uses up to `count` free pages for data; returns how many it got.
    ///
    /// # Panics
    /// When a page that the allocator relies on is not full of poison.
    pub fn use_pages(&mut self, count: usize) -> usize {
        let found = self.find(count, Owner::Used);
        let mut state = self.ram.state();
        for &index in &found {
            let page = &mut state.pages[index];
            if let Some(poison) = self.poison {
                assert_eq!(page.content, u64::from(poison), "poison was lost");
            }
            page.content = stamp(index);
            page.reported = false;
        }
        found.len()
    }

    /// Checks that all of the guest's data is intact, and frees up to `count` pages of it.
    ///
    /// # Panics
    /// When a page of the guest's has changed.
    pub fn verify_and_free(&mut self, count: usize) {
        let mut state = self.ram.state();
        let mut left = count;
        for (index, page) in state.pages.iter_mut().enumerate() {
            if page.owner != Owner::Used {
                continue;
            }
            assert_eq!(page.content, stamp(index), "data of page {index} changed");
            if left > 0 {
                left -= 1;
                page.owner = Owner::Free;
                page.content = self.poison.map_or(page.content, u64::from);
            }
        }
    }

    /// Moves up to `count` free pages, from a random place on, to another owner.
    fn find(&mut self, count: usize, owner: Owner) -> Vec<usize> {
        let mut state = self.ram.state();
        let pages = state.pages.len();
        let start = self.random.index(pages);
        let mut found = Vec::new();
        for index in (0..pages).map(|nth| (start + nth) % pages) {
            if found.len() < count && state.pages[index].owner == Owner::Free {
                state.pages[index].owner = owner;
                found.push(index);
            }
        }
        found
    }

    /// Takes a run of up to `most` free pages that are not reported yet.
    fn run(&mut self, most: usize, owner: Owner) -> Option<Block> {
        let mut state = self.ram.state();
        let wanted =
            |page: &Page| page.owner == Owner::Free && (owner == Owner::Hinted || !page.reported);
        let start = state.pages.iter().position(wanted)?;
        let rest = state.pages.get_mut(start..)?;
        let mut len = 0;
        for page in rest.iter_mut().take(most).take_while(|page| wanted(page)) {
            page.owner = owner;
            len += PAGE_SIZE as u32;
        }
        Some(Block {
            addr: (u64::from(self.ram.first_pfn) + start as u64) << PFN_SHIFT,
            len,
        })
    }

    fn mov(&self, pfn: u32, from: &[Owner], to: Owner) {
        let mut state = self.ram.state();
        let page = &mut state.pages[(pfn - self.ram.first_pfn) as usize];
        let owner = page.owner;
        assert!(
            from.contains(&owner),
            "page {pfn:#x} becomes {to:?}, but it is {owner:?}"
        );
        page.owner = to;
        if let (Owner::Free, Some(poison)) = (to, self.poison) {
            page.content = u64::from(poison);
        }
    }
}

impl Pages for FakePages {
    fn grab(&mut self, into: &mut [u32]) -> usize {
        let spare = self
            .ram
            .count(Owner::Free)
            .saturating_sub(self.reserve)
            .min(into.len());
        let found = self.find(spare, Owner::Grabbed);
        for (room, index) in into.iter_mut().zip(&found) {
            *room = self.ram.first_pfn + *index as u32;
        }
        found.len()
    }

    fn ballooned(&mut self, pfns: &[u32]) {
        for &pfn in pfns {
            self.mov(pfn, &[Owner::Grabbed], Owner::Ballooned);
            let index = (pfn - self.ram.first_pfn) as usize;
            self.ram.state().balloon.push(index);
        }
    }

    fn pick(&mut self, into: &mut [u32]) -> usize {
        let mut count = 0;
        for room in into {
            let Some(index) = self.ram.state().balloon.pop() else {
                break;
            };
            *room = self.ram.first_pfn + index as u32;
            self.mov(*room, &[Owner::Ballooned], Owner::Picked);
            count += 1;
        }
        count
    }

    fn release(&mut self, pfns: &[u32], poison: Option<u32>) {
        assert!(poison.is_none() || poison == self.poison);
        for &pfn in pfns {
            self.mov(pfn, &[Owner::Picked, Owner::Grabbed], Owner::Free);
        }
    }

    fn statistics(&mut self, statistics: &mut Statistics) {
        *statistics = self.statistics;
    }

    fn isolate(&mut self, into: &mut [Block], poison: Option<u32>) -> usize {
        assert!(poison.is_none() || poison == self.poison);
        let mut count = 0;
        for room in into {
            let most = 1 + self.random.index(64);
            let Some(block) = self.run(most, Owner::Isolated) else {
                break;
            };
            *room = block;
            count += 1;
        }
        count
    }

    fn reported(&mut self, blocks: &[Block], reported: bool) {
        for block in blocks {
            let first = (block.addr >> PFN_SHIFT) as u32;
            for pfn in first..first + (block.len >> PFN_SHIFT) {
                self.mov(pfn, &[Owner::Isolated], Owner::Free);
                self.ram.state().pages[(pfn - self.ram.first_pfn) as usize].reported = reported;
            }
        }
    }

    fn hint(&mut self) -> Option<Block> {
        self.run(64, Owner::Hinted)
    }

    fn release_hints(&mut self) {
        let poison = self.poison;
        for page in &mut self.ram.state().pages {
            if page.owner == Owner::Hinted {
                page.owner = Owner::Free;
                page.content = poison.map_or(page.content, u64::from);
            }
        }
    }
}

/// What the guest's data in a page is.
fn stamp(index: usize) -> u64 {
    (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

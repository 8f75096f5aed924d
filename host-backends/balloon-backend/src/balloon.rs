//! The balloon itself: which pages are in it, and what that means for the host.
//!
//! Rule: a page is released at a moment when the guest cannot use it: before the message that brought it is
//! acknowledged, or, for drivers that tell before they take a page back (MUST_TELL_HOST), while it is in the balloon
//! (virtio 1.4 sec. 5.5.6, device clauses). Everything happens under one lock, so a deflation waits for a release.

use std::ops::Range;
use std::sync::Arc;
use std::sync::Weak;

use guest_memory::GuestMemory;
use guest_memory::Released;
use virtio_spec::balloon::PAGE_SIZE;

use crate::Repopulate;
use crate::counters::Counters;
use crate::numbers::Numbers;
use crate::pages::Pages;

/// Whole guest pages of one region.
#[derive(Clone, Debug)]
struct Extent {
    pages: Range<u64>,
    /// Bytes of the host's pages there.
    unit: u64,
}

/// Pages in the balloon, on the memory they are pages of.
#[derive(Debug, Default)]
pub(crate) struct Balloon {
    pages: Pages,
    extents: Vec<Extent>,
    memory: Weak<GuestMemory>,
    size: u64,
    inhibited: bool,
    /// Pages that a twin had in its balloon, until the memory is known.
    loaded: Vec<Range<u64>>,
}

/// How a release may go about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// The driver tells before it uses a page of the balloon.
    pub told: bool,
    /// What deflation does on the host.
    pub repopulate: Repopulate,
}

impl Balloon {
    /// Takes on the memory that a queue runs on.
    pub fn on(&mut self, memory: &Arc<GuestMemory>) {
        if std::ptr::eq(self.memory.as_ptr(), Arc::as_ptr(memory)) {
            return;
        }
        self.memory = Arc::downgrade(memory);
        self.size = memory.size();
        self.extents.clear();
        for (region, unit) in memory.host_pages() {
            let first = region.guest_addr / PAGE_SIZE;
            let pages = first..first + region.size / PAGE_SIZE;
            self.extents.push(Extent { pages, unit });
        }
        // Pages of memory that went away are in no balloon.
        let mut end = 0;
        for extent in &self.extents {
            self.pages.remove(end..extent.pages.start);
            end = extent.pages.end;
        }
        self.pages.remove(end..u64::from(u32::MAX) + 1);
        for run in std::mem::take(&mut self.loaded) {
            for part in self.inside(run) {
                self.pages.insert(part);
            }
        }
    }

    /// A new driver: the balloon is empty.
    pub fn clear(&mut self) {
        self.pages.clear();
    }

    /// The device serves nobody.
    pub fn leave(&mut self) {
        *self = Self {
            inhibited: self.inhibited,
            ..Self::default()
        };
    }

    /// Bytes of guest memory, as far as it is known.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pages known to be in the balloon.
    pub fn len(&self) -> u64 {
        self.pages.len()
    }

    /// Bytes of host memory behind the guest's.
    pub fn resident(&self) -> Option<u64> {
        self.memory.upgrade().map(|memory| memory.resident())
    }

    /// Whether releasing is inhibited.
    pub fn inhibited(&self) -> bool {
        self.inhibited
    }

    /// The parts of `run` that are guest memory.
    pub fn inside(&self, run: Range<u64>) -> Vec<Range<u64>> {
        if run.is_empty() {
            return Vec::new();
        }
        self.parts(run).map(|(part, _)| part).collect()
    }

    /// The pages by runs.
    pub fn runs(&self) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        self.pages.for_each_run(|run| runs.push(run));
        runs
    }

    /// Takes on pages that another device knew of; they wait for the memory that they are pages of.
    pub fn load(&mut self, runs: &[Range<u64>]) {
        self.loaded = runs.to_vec();
    }

    /// The parts of `run` that are guest memory, with the host's page size.
    fn parts(&self, run: Range<u64>) -> impl Iterator<Item = (Range<u64>, u64)> {
        let first = self.extents.partition_point(|e| e.pages.end <= run.start);
        let rest = self.extents.get(first..).unwrap_or_default().iter();
        rest.take_while(move |e| e.pages.start < run.end)
            .map(move |e| {
                let (start, end) = (run.start.max(e.pages.start), run.end.min(e.pages.end));
                (start..end, e.unit)
            })
    }

    /// Pages come into the balloon.
    pub fn inflate(
        &mut self,
        numbers: &Numbers,
        memory: &GuestMemory,
        terms: Terms,
        to: &Counters,
    ) {
        let mut released = Released::default();
        let mut parts = Vec::new();
        for run in numbers.runs() {
            parts.clear();
            parts.extend(self.parts(run.clone()));
            let mut here = 0;
            for (part, unit) in parts.drain(..) {
                let len = part.end - part.start;
                here += len;
                let new = self.pages.insert(part.clone());
                to.inflated_pages.add(new);
                to.repeated_pages.add(len - new);
                if self.inhibited {
                    to.inhibited_bytes.add(len * PAGE_SIZE);
                } else {
                    released += self.release(part, unit, memory, terms.told);
                }
            }
            to.foreign_pages.add(run.end - run.start - here);
        }
        count(released, to);
    }

    /// Gives `part` of a region with host pages of `unit` bytes back, and the host pages that it completes.
    fn release(&self, part: Range<u64>, unit: u64, memory: &GuestMemory, told: bool) -> Released {
        let (start, end) = (part.start * PAGE_SIZE, part.end * PAGE_SIZE);
        if unit == PAGE_SIZE {
            return memory.release(start, end - start).unwrap_or_default();
        }
        let mut done = Released::default();
        let mut whole = start..start;
        let mut at = start;
        while at < end {
            let Some(page) = memory.host_page(at) else {
                // A region that begins or ends inside a huge page: up to the page's border.
                let next = (at + PAGE_SIZE).min(end);
                done.partial += next - at;
                at = next;
                continue;
            };
            let next = page.start + page.size;
            let pages = page.start / PAGE_SIZE..next / PAGE_SIZE;
            // Pages of earlier messages may be used again by now, unless the driver tells.
            let alone = page.start >= start && next <= end;
            if alone || told && self.pages.has_all(pages) {
                if whole.end != page.start {
                    done += release(memory, &whole);
                    whole.start = page.start;
                }
                whole.end = next;
            } else {
                done.partial += next.min(end) - at;
            }
            at = next;
        }
        done += release(memory, &whole);
        done
    }

    /// Pages leave the balloon.
    pub fn deflate(
        &mut self,
        numbers: &Numbers,
        memory: &GuestMemory,
        terms: Terms,
        to: &Counters,
    ) {
        let mut parts = Vec::new();
        for run in numbers.runs() {
            parts.clear();
            parts.extend(self.parts(run.clone()));
            let mut here = 0;
            for (part, unit) in parts.drain(..) {
                let len = part.end - part.start;
                here += len;
                let gone = self.pages.remove(part.clone());
                to.deflated_pages.add(gone);
                to.unknown_pages.add(len - gone);
                let wanted = match terms.repopulate {
                    Repopulate::Always => true,
                    Repopulate::Auto => unit != PAGE_SIZE,
                    Repopulate::Never => false,
                };
                if wanted {
                    let bytes = len * PAGE_SIZE;
                    let got = memory.reserve(part.start * PAGE_SIZE, bytes).unwrap_or(0);
                    to.repopulated_bytes.add(got);
                    to.repopulate_failed_bytes.add(bytes - got);
                }
            }
            to.foreign_pages.add(run.end - run.start - here);
        }
    }

    /// Free pages that the guest reports; they are in no balloon.
    pub fn report(&self, addr: u64, len: u64, memory: &GuestMemory, to: &Counters) -> bool {
        if self.inhibited {
            to.inhibited_bytes.add(len);
            return true;
        }
        let Ok(released) = memory.release(addr, len) else {
            return false;
        };
        to.reported_bytes.add(released.bytes);
        count(released, to);
        true
    }

    /// Stops releasing, or makes up for what was not released meanwhile.
    pub fn inhibit(&mut self, on: bool, told: bool, to: &Counters) {
        let before = std::mem::replace(&mut self.inhibited, on);
        let Some(memory) = self.memory.upgrade().filter(|_| before && !on && told) else {
            return;
        };
        let mut released = Released::default();
        for run in self.runs() {
            for (part, unit) in self.parts(run) {
                released += self.release(part, unit, &memory, told);
            }
        }
        count(released, to);
    }
}

fn release(memory: &GuestMemory, range: &Range<u64>) -> Released {
    memory
        .release(range.start, range.end - range.start)
        .unwrap_or_default()
}

fn count(released: Released, to: &Counters) {
    to.released_bytes.add(released.bytes);
    to.release_calls.add(released.calls);
    to.partial_bytes.add(released.partial);
    to.refused_bytes.add(released.refused);
}

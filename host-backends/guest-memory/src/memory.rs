//! A snapshot of guest memory: sorted regions, translation, copies. One rule: every address a peer named is looked
//! up anew against one immutable snapshot, and a range that leaves a region is split or refused, never assumed
//! contiguous.
#![expect(unsafe_code, reason = "copies to and from mapped guest memory")]

use crate::Access;
use crate::DirtyLog;
use crate::Error;
use crate::IoVecs;
use crate::Mapping;
use crate::RegionSpec;
use crate::backing::Backing;
use crate::sigbus;
use crate::volatile;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use virtqueue::PeerMemory;
use virtqueue::RingMemory;
use virtqueue::Segment;

/// Most regions in one snapshot (what `GET_MAX_MEM_SLOTS` answers).
const MAX_REGIONS: usize = 509;

/// Bytes of guest memory that are contiguous here. The guest may change them at any time.
#[derive(Debug, Clone, Copy)]
pub struct HostSlice<'a> {
    ptr: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a Mapping>,
}

// SAFETY: an address and a length, valid as long as the borrowed mapping, which is Sync.
unsafe impl Send for HostSlice<'_> {}

impl HostSlice<'_> {
    /// First byte.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty span is never made from a descriptor"
    )]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies as many bytes as both have to the front of `out`.
    #[inline]
    pub fn read(self, out: &mut [u8]) {
        let len = self.len.min(out.len());
        // SAFETY: both have `len` bytes; `out` is ours alone. Any mixture of bytes is a valid u8 sequence.
        unsafe { volatile::copy(self.ptr.as_ptr(), out.as_mut_ptr(), len) };
    }

    /// Copies as many bytes of `data` as both have.
    #[inline]
    pub fn write(self, data: &[u8]) {
        let len = self.len.min(data.len());
        // SAFETY: as in `read`, the other way round.
        unsafe { volatile::copy(data.as_ptr(), self.ptr.as_ptr(), len) };
    }

    /// Copies as many bytes as both have; returns what did not fit.
    #[inline]
    pub(crate) fn copy_to(self, to: HostSlice<'_>) -> Self {
        let len = self.len.min(to.len);
        // SAFETY: both spans are mapped and have `len` bytes. They may overlap, for two devices may be given the same
        // memory; any mixture of bytes is as good as another.
        unsafe { volatile::copy(self.ptr.as_ptr(), to.ptr.as_ptr(), len) };
        // SAFETY: at most one past the end of the span.
        let ptr = unsafe { self.ptr.add(len) };
        Self {
            ptr,
            len: self.len - len,
            memory: PhantomData,
        }
    }

    /// Asks the CPU to fetch the first two cache lines, which are about to be read. A hint.
    #[inline]
    pub fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::_MM_HINT_T0;
            use std::arch::x86_64::_mm_prefetch;
            let first: *const i8 = self.ptr.as_ptr().cast();
            // SAFETY: a prefetch faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first) };
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64)) };
        }
    }

    /// As [`Self::prefetch`], for lines that are about to be written: they are taken away from other CPUs.
    #[inline]
    pub fn prefetch_to_write(self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::_MM_HINT_ET0;
            use std::arch::x86_64::_mm_prefetch;
            let first: *const i8 = self.ptr.as_ptr().cast();
            // SAFETY: a prefetch faults at no address, and is no operation where the CPU does not know it.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(first) };
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(first.wrapping_add(64)) };
        }
    }

    /// The span as the queue code wants it.
    fn ring_memory(self) -> RingMemory {
        // SAFETY: the span was checked against its mapping, which the holder of the snapshot keeps alive.
        unsafe { RingMemory::new(self.ptr, self.len) }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Region {
    pub(crate) spec: RegionSpec,
    mapping: Arc<Mapping>,
    pub(crate) backing: Arc<Backing>,
}

/// All regions the front-end gave us, at one moment. Shared as `Arc`; a change makes a new snapshot that shares
/// the mappings that stay.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Vec<Region>,
    log: Option<Arc<DirtyLog>>,
}

impl GuestMemory {
    /// Most regions in one snapshot.
    pub const MAX_REGIONS: usize = MAX_REGIONS;

    /// Maps `regions`, as from `SET_MEM_TABLE`.
    pub fn new(regions: Vec<(RegionSpec, OwnedFd)>) -> Result<Self, Error> {
        let mut memory = Self::default();
        for (spec, fd) in regions {
            memory.add(spec, &fd)?;
        }
        Ok(memory)
    }

    /// A snapshot with one region more (`ADD_MEM_REG`).
    pub fn with_region(&self, spec: RegionSpec, fd: OwnedFd) -> Result<Self, Error> {
        let mut memory = self.share();
        memory.add(spec, &fd)?;
        memory.check_log()?;
        Ok(memory)
    }

    /// A snapshot without the region that has this guest address, user address and size (`REM_MEM_REG`).
    pub fn without_region(&self, spec: &RegionSpec) -> Result<Self, Error> {
        let same = |r: &Region| {
            r.spec.guest_addr == spec.guest_addr
                && r.spec.user_addr == spec.user_addr
                && r.spec.size == spec.size
        };
        let mut memory = self.share();
        let at = memory.regions.iter().position(same);
        memory
            .regions
            .remove(at.ok_or(Error::NoSuchRegion(spec.guest_addr))?);
        Ok(memory)
    }

    /// A snapshot that logs to `log`, or to none. Refused if the log does not cover all regions.
    pub fn with_log(&self, log: Option<Arc<DirtyLog>>) -> Result<Self, Error> {
        let mut memory = self.share();
        memory.log = log;
        memory.check_log()?;
        Ok(memory)
    }

    fn share(&self) -> Self {
        Self {
            regions: self.regions.clone(),
            log: self.log.clone(),
        }
    }

    fn add(&mut self, spec: RegionSpec, fd: &OwnedFd) -> Result<(), Error> {
        spec.validate()?;
        if self.regions.len() >= MAX_REGIONS {
            return Err(Error::TooManyRegions(MAX_REGIONS));
        }
        if self.regions.iter().any(|r| r.spec.overlaps(&spec)) {
            return Err(Error::Overlap(spec.guest_addr));
        }
        let mapping = Mapping::new(fd.as_fd(), spec.mmap_offset, spec.size, Access::ReadWrite)?;
        // Front-ends cut one file into many regions; it is held open once.
        let known = self.regions.iter().find(|r| r.backing.is(fd.as_fd()));
        let backing = match known {
            Some(region) => Arc::clone(&region.backing),
            None => Arc::new(Backing::new(fd.as_fd())?),
        };
        let at = self
            .regions
            .partition_point(|r| r.spec.guest_addr < spec.guest_addr);
        self.regions.insert(
            at,
            Region {
                spec,
                mapping: Arc::new(mapping),
                backing,
            },
        );
        Ok(())
    }

    fn check_log(&self) -> Result<(), Error> {
        let end = self.end();
        match &self.log {
            Some(log) if log.covered() < end => Err(Error::LogTooSmall {
                covered: log.covered(),
                end,
            }),
            _ => Ok(()),
        }
    }

    /// End of the highest region, zero without regions.
    pub fn end(&self) -> u64 {
        self.regions.last().map_or(0, |r| r.spec.guest_end())
    }

    /// The regions, by ascending guest address.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = &RegionSpec> {
        self.regions.iter().map(|r| &r.spec)
    }

    /// Whether a region was truncated under us, or the log. One load unless some mapping of the process was.
    #[inline]
    pub fn poisoned(&self) -> bool {
        sigbus::any_poisoned()
            && (self.regions.iter().any(|r| r.mapping.poisoned())
                || self.log.as_ref().is_some_and(|log| log.poisoned()))
    }

    /// All regions, by ascending guest address.
    pub(crate) fn all(&self) -> &[Region] {
        &self.regions
    }

    /// Calls `each` with region, offset and length for the parts of `len` bytes at `addr`, or not at all.
    pub(crate) fn for_each_part(
        &self,
        addr: u64,
        len: u64,
        mut each: impl FnMut(&Region, u64, u64),
    ) -> Result<(), Error> {
        self.for_each_span(addr, len, |_| {})?;
        let (mut addr, mut left) = (addr, len);
        while left != 0
            && let Some((region, offset)) = self.find(addr)
        {
            let part = left.min(region.spec.size - offset);
            each(region, offset, part);
            addr += part;
            left -= part;
        }
        Ok(())
    }

    /// The region that holds guest address `addr`, and the offset in it.
    #[inline]
    pub(crate) fn find(&self, addr: u64) -> Option<(&Region, u64)> {
        // Backwards, for there are few regions, and most of the memory is in the last.
        let below = |region: &&Region| region.spec.guest_addr <= addr;
        let region = self.regions.iter().rev().find(below)?;
        let offset = addr - region.spec.guest_addr;
        (offset < region.spec.size).then_some((region, offset))
    }

    /// `len` bytes at guest address `addr`, if they lie in one region.
    #[inline]
    pub fn host_slice(&self, addr: u64, len: usize) -> Option<HostSlice<'_>> {
        let (region, offset) = self.find(addr)?;
        let ptr = region.mapping.span(usize::try_from(offset).ok()?, len)?;
        Some(HostSlice {
            ptr,
            len,
            memory: PhantomData,
        })
    }

    /// `len` bytes at front-end address `user_addr`, if they lie in one region. Ring addresses are given so.
    pub fn user_slice(&self, user_addr: u64, len: usize) -> Option<HostSlice<'_>> {
        self.host_slice(self.user_to_guest(user_addr)?, len)
    }

    /// The guest address behind a front-end address.
    pub fn user_to_guest(&self, user_addr: u64) -> Option<u64> {
        self.regions.iter().find_map(|r| {
            let offset = user_addr.checked_sub(r.spec.user_addr)?;
            (offset < r.spec.size).then(|| r.spec.guest_addr + offset)
        })
    }

    /// A ring area at front-end address `user_addr`. The result is used only while this snapshot is held.
    pub fn user_ring(&self, user_addr: u64, len: usize) -> Option<RingMemory> {
        self.user_slice(user_addr, len).map(HostSlice::ring_memory)
    }

    /// Appends the host spans of `segments` to `out`, split at region borders.
    ///
    /// On an error `out` is as it was before, as far as it can matter: the caller gives the request up.
    #[inline]
    pub fn iovecs(&self, segments: &[Segment], out: &mut IoVecs) -> Result<(), Error> {
        segments
            .iter()
            .try_for_each(|s| self.for_each_span(s.addr, u64::from(s.len), |slice| out.push(slice)))
    }

    /// Calls `each` for the spans that make up `len` bytes at guest address `addr`, in order.
    #[inline]
    pub fn for_each_span<'a>(
        &'a self,
        mut addr: u64,
        len: u64,
        mut each: impl FnMut(HostSlice<'a>),
    ) -> Result<(), Error> {
        let hole = Error::Hole { addr, len };
        let mut left = len;
        while left != 0 {
            let Some((region, offset)) = self.find(addr) else {
                return Err(hole);
            };
            let part = left.min(region.spec.size - offset);
            let Some(ptr) = region.mapping.span(offset as usize, part as usize) else {
                return Err(hole);
            };
            each(HostSlice {
                ptr,
                len: part as usize,
                memory: PhantomData,
            });
            // Regions end below the last page of the address space, so neither can wrap.
            addr += part;
            left -= part;
        }
        Ok(())
    }

    /// The first of the spans that make up `len` bytes at guest address `addr`.
    pub(crate) fn first_span(&self, addr: u64, len: usize) -> Result<HostSlice<'_>, Error> {
        let found = self.find(addr).and_then(|(region, offset)| {
            let part = (region.spec.size - offset).min(len as u64);
            self.host_slice(addr, part as usize)
        });
        found.ok_or(Error::Hole {
            addr,
            len: len as u64,
        })
    }

    /// Copies from guest address `addr`.
    #[inline]
    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Error> {
        let Some(slice) = self.host_slice(addr, out.len()) else {
            return self.read_spans(addr, out);
        };
        slice.read(out);
        Ok(())
    }

    /// As `read`, over region borders.
    fn read_spans(&self, addr: u64, out: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        let len = out.len() as u64;
        self.for_each_span(addr, len, |slice| {
            let Some(target) = out.get_mut(done..done + slice.len()) else {
                return;
            };
            slice.read(target);
            done += slice.len();
        })
    }

    /// Copies to guest address `addr` and marks the pages dirty.
    #[inline]
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), Error> {
        let Some(slice) = self.host_slice(addr, data.len()) else {
            return self.write_spans(addr, data);
        };
        slice.write(data);
        self.mark_dirty(addr, data.len() as u64);
        Ok(())
    }

    /// As `write`, over region borders.
    fn write_spans(&self, addr: u64, data: &[u8]) -> Result<(), Error> {
        // A range with a hole must not be half written.
        self.for_each_span(addr, data.len() as u64, |_| {})?;
        let mut done = 0;
        self.for_each_span(addr, data.len() as u64, |slice| {
            let Some(source) = data.get(done..done + slice.len()) else {
                return;
            };
            slice.write(source);
            done += slice.len();
        })?;
        self.mark_dirty(addr, data.len() as u64);
        Ok(())
    }

    /// Whether writes are to be logged.
    #[inline]
    pub fn is_logging(&self) -> bool {
        self.log.is_some()
    }

    /// Marks `len` bytes at guest address `addr` dirty, if logging. Call it after the data was written and before
    /// the buffer is used. Buffers completed through `device_model::Queue` are marked by it.
    #[inline]
    pub fn mark_dirty(&self, addr: u64, len: u64) {
        if let Some(log) = &self.log {
            log.mark(addr, len);
        }
    }
}

impl PeerMemory for GuestMemory {
    #[inline]
    fn span(&self, addr: u64, len: usize) -> Option<RingMemory> {
        self.host_slice(addr, len).map(HostSlice::ring_memory)
    }
}

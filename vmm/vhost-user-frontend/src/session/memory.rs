//! The guest memory that is shared with the backend. Rule: this side never maps it; the few ring indices that a
//! reconnect needs are read through the file, so that no unsafe code and no SIGBUS can occur here.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vhost_user_protocol::MemoryRegion;

use crate::Error;
use crate::Result;

/// One region of guest memory: a shared file (memfd, hugetlbfs, tmpfs) and where it stands.
#[derive(Debug, Clone)]
pub struct Region {
    /// Guest-physical address of the first byte.
    pub guest_addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// Address by which ring addresses are told to the backend. Any value that is unique will do; a VMM usually
    /// gives the address of its own mapping.
    pub user_addr: u64,
    /// The file behind the region.
    pub file: Arc<File>,
    /// Offset of the first byte in `file`.
    pub offset: u64,
}

impl Region {
    pub(crate) fn describe(&self) -> MemoryRegion {
        MemoryRegion {
            guest_addr: self.guest_addr,
            size: self.size,
            user_addr: self.user_addr,
            mmap_offset: self.offset,
        }
    }
}

/// All regions, checked.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    regions: Vec<Region>,
}

impl Memory {
    /// Takes regions that do not overlap, in guest or user addresses, and do not wrap.
    pub fn new(regions: Vec<Region>) -> Result<Self> {
        let mut memory = Self::default();
        for region in regions {
            memory.add(region)?;
        }
        Ok(memory)
    }

    /// Adds a region.
    pub fn add(&mut self, region: Region) -> Result<()> {
        let end = |start: u64| start.checked_add(region.size);
        let (Some(guest_end), Some(user_end), Some(_)) = (
            end(region.guest_addr),
            end(region.user_addr),
            end(region.offset),
        ) else {
            return Err(Error::Memory("a region wraps around"));
        };
        if region.size == 0 {
            return Err(Error::Memory("a region is empty"));
        }
        let clash = self.regions.iter().any(|other| {
            (region.guest_addr < other.guest_addr + other.size && other.guest_addr < guest_end)
                || (region.user_addr < other.user_addr + other.size && other.user_addr < user_end)
        });
        if clash {
            return Err(Error::Memory("two regions overlap"));
        }
        self.regions.push(region);
        Ok(())
    }

    /// Removes the region that starts at `guest_addr` and returns it.
    pub fn remove(&mut self, guest_addr: u64) -> Option<Region> {
        let at = self
            .regions
            .iter()
            .position(|region| region.guest_addr == guest_addr)?;
        Some(self.regions.remove(at))
    }

    /// The regions.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The user address of `len` bytes at guest address `guest_addr`, when they lie in one region.
    pub fn user_addr(&self, guest_addr: u64, len: u64) -> Option<u64> {
        let (region, offset) = self.find(guest_addr, len)?;
        Some(region.user_addr + offset)
    }

    /// Reads a little-endian 16-bit value.
    pub fn read_u16(&self, guest_addr: u64) -> Option<u16> {
        let (region, offset) = self.find(guest_addr, 2)?;
        let mut bytes = [0; 2];
        region
            .file
            .read_exact_at(&mut bytes, region.offset + offset)
            .ok()?;
        Some(u16::from_le_bytes(bytes))
    }

    fn find(&self, guest_addr: u64, len: u64) -> Option<(&Region, u64)> {
        self.regions.iter().find_map(|region| {
            let offset = guest_addr.checked_sub(region.guest_addr)?;
            (offset.checked_add(len)? <= region.size).then_some((region, offset))
        })
    }
}

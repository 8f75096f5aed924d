//! Guest RAM: one shared memfd, seen by the guest below and above the 32-bit hole.
//!
//! Its one rule: an address counts only if a region holds it; nothing is clipped or wrapped.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use kvm::GuestRam;

use crate::Error;
use crate::Result;
use crate::layout;

/// RAM must be a multiple of this many bytes.
pub const GRANULE: u64 = 2 << 20;

/// One contiguous piece of guest RAM, as vhost-user's memory table wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRegion {
    /// First guest physical address.
    pub guest_addr: u64,
    /// Bytes.
    pub size: u64,
    /// Where this process sees the first byte ("user address" of vhost-user); never dereferenced by the VMM.
    pub host_addr: u64,
    /// Offset of the first byte in [`Ram::fd`].
    pub fd_offset: u64,
}

/// The guest's memory. Cheap to share; lives as long as any holder.
#[derive(Debug)]
pub struct Ram {
    memory: Arc<GuestRam>,
    regions: Vec<RamRegion>,
}

impl Ram {
    /// Makes `size` bytes of zeroed guest RAM: up to 3 GiB from address 0, the rest from 4 GiB.
    pub fn new(size: u64) -> Result<Self> {
        if size == 0 || !size.is_multiple_of(GRANULE) || size > layout::MAX_RAM {
            return Err(Error::MemorySize(size));
        }
        let memory = Arc::new(GuestRam::new("paravane-ram", size)?);
        let host = memory.host_address();
        let low = size.min(layout::LOW_RAM_END);
        let mut regions = vec![RamRegion {
            guest_addr: 0,
            size: low,
            host_addr: host,
            fd_offset: 0,
        }];
        if size > low {
            regions.push(RamRegion {
                guest_addr: layout::HIGH_RAM,
                size: size - low,
                host_addr: host + low,
                fd_offset: low,
            });
        }
        Ok(Self { memory, regions })
    }

    /// The regions, ascending by guest address. They never change.
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// The memfd behind all regions.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// Total size in bytes.
    pub fn size(&self) -> u64 {
        self.memory.len()
    }

    /// The first address above all RAM.
    pub fn end(&self) -> u64 {
        self.regions
            .last()
            .map_or(0, |region| region.guest_addr + region.size)
    }

    /// Translates a guest physical range that lies in one region to this process's address of it.
    pub fn host_addr(&self, address: u64, len: u64) -> Option<u64> {
        let (region, offset) = self.find(address, len)?;
        region.host_addr.checked_add(offset)
    }

    /// True if any byte of the range is RAM.
    pub fn overlaps(&self, address: u64, size: u64) -> bool {
        let end = address.saturating_add(size);
        self.regions
            .iter()
            .any(|r| address < r.guest_addr + r.size && r.guest_addr < end)
    }

    /// Reads guest memory; the whole range must lie in one region.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<()> {
        let offset = self.fd_offset(address, out.len() as u64)?;
        Ok(self.memory.read(offset, out)?)
    }

    /// Writes guest memory; the whole range must lie in one region.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<()> {
        let offset = self.fd_offset(address, data.len() as u64)?;
        Ok(self.memory.write(offset, data)?)
    }

    /// Zeroes guest memory; the whole range must lie in one region.
    pub fn zero(&self, address: u64, len: u64) -> Result<()> {
        let offset = self.fd_offset(address, len)?;
        Ok(self.memory.zero(offset, len)?)
    }

    /// The memory object, for KVM's memory slots.
    pub(crate) fn memory(&self) -> &Arc<GuestRam> {
        &self.memory
    }

    fn fd_offset(&self, address: u64, len: u64) -> Result<u64> {
        self.find(address, len)
            .and_then(|(region, offset)| region.fd_offset.checked_add(offset))
            .ok_or(Error::NotRam { address, len })
    }

    fn find(&self, address: u64, len: u64) -> Option<(&RamRegion, u64)> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.guest_addr)?;
            let fits = offset.checked_add(len)? <= region.size;
            fits.then_some((region, offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ram_is_one_region() {
        let ram = Ram::new(64 << 20).unwrap();
        assert_eq!(ram.regions().len(), 1);
        assert_eq!(ram.end(), 64 << 20);
        assert_eq!(
            ram.host_addr(0x1000, 4),
            Some(ram.regions()[0].host_addr + 0x1000)
        );
    }

    #[test]
    fn ram_above_three_gib_continues_above_the_hole() {
        let ram = Ram::new(5 << 30).unwrap();
        assert_eq!(ram.regions().len(), 2);
        assert_eq!(ram.end(), 6 << 30);
        ram.write(layout::HIGH_RAM, b"high").unwrap();
        let mut out = [0; 4];
        ram.read(layout::HIGH_RAM, &mut out).unwrap();
        assert_eq!(&out, b"high");
        assert!(ram.read(layout::LOW_RAM_END, &mut out).is_err());
        assert!(ram.read(layout::LOW_RAM_END - 2, &mut out).is_err());
        assert_eq!(ram.host_addr(layout::LOW_RAM_END - 2, 4), None);
        assert!(!ram.overlaps(layout::LOW_RAM_END, 1 << 30));
        assert!(ram.overlaps(layout::LOW_RAM_END, (1 << 30) + 1));
    }

    #[test]
    fn odd_sizes_are_refused() {
        for size in [0, 1, GRANULE + 1, u64::MAX, layout::MAX_RAM + GRANULE] {
            assert!(matches!(Ram::new(size), Err(Error::MemorySize(_))));
        }
    }
}

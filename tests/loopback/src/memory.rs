//! Memory that both sides see: a memfd, mapped as guest memory, with the driver's arena over all of it.
//!
//! Rule: guest, user and device addresses are the same number.
use std::sync::Arc;

use anyhow::Context;
use driver_fakes::Arena;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use guest_memory::SharedMemory;
use virtqueue::PeerMemory;

const BASE: u64 = 0x1_0000_0000;

/// Makes `size` bytes of shared memory.
///
/// # Errors
/// No memfd, or it cannot be mapped.
pub fn shared_arena(size: u64) -> anyhow::Result<(Arc<GuestMemory>, Arena)> {
    let (_, fd) = SharedMemory::create("loopback", size)?;
    let region = RegionSpec {
        guest_addr: BASE,
        size,
        user_addr: BASE,
        mmap_offset: 0,
    };
    let memory = Arc::new(GuestMemory::new(vec![(region, fd)])?);
    let span = memory
        .span(BASE, usize::try_from(size)?)
        .context("the memory is in one piece")?;
    let arena = Arena::over(span, BASE, memory.clone());
    Ok((memory, arena))
}

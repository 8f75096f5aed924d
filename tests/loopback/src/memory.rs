//! Memory that both sides see: a memfd, mapped as guest memory, with the driver's arena over all of it.
//!
//! Rule: guest, user and device addresses are the same number.
use std::fs::File;
use std::sync::Arc;

use anyhow::Context;
use driver_fakes::Arena;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use guest_memory::SharedMemory;
use virtqueue::PeerMemory;

const BASE: u64 = 0x1_0000_0000;

/// Makes `size` bytes of shared memory, all of it for DMA.
///
/// # Errors
/// No memfd, or it cannot be mapped.
pub fn shared_arena(size: u64) -> anyhow::Result<(Arc<GuestMemory>, Arena)> {
    let shared = shared_memory(size, size)?;
    Ok((shared.memory, shared.arena))
}

/// A guest's memory of which a part is for DMA.
#[derive(Debug)]
pub struct Shared {
    /// All of it.
    pub memory: Arc<GuestMemory>,
    /// Its first part.
    pub arena: Arena,
    /// Guest address of what follows the arena.
    pub rest: u64,
    /// The memfd, to ask the kernel how much of it is there.
    pub file: File,
}

/// Makes `size` bytes of shared memory, the first `arena` bytes for DMA.
///
/// # Errors
/// No memfd, or it cannot be mapped.
pub fn shared_memory(size: u64, arena: u64) -> anyhow::Result<Shared> {
    let (_, fd) = SharedMemory::create("loopback", size)?;
    let file = File::from(fd.try_clone()?);
    let region = RegionSpec {
        guest_addr: BASE,
        size,
        user_addr: BASE,
        mmap_offset: 0,
    };
    let memory = Arc::new(GuestMemory::new(vec![(region, fd)])?);
    let span = memory
        .span(BASE, usize::try_from(arena)?)
        .context("the memory is in one piece")?;
    Ok(Shared {
        arena: Arena::over(span, BASE, memory.clone()),
        memory,
        rest: BASE + arena,
        file,
    })
}

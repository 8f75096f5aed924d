//! A platform that does not punish: buffers are where the device sees them, time is real time. For measuring in one process.
//!
//! Rule: nothing is copied, filled or checked on the request path.
#![expect(unsafe_code, reason = "Dma is an unsafe trait")]
use std::time::Instant;

use driver_platform::BufferBytes;
use driver_platform::Clock;
use driver_platform::Coherent;
use driver_platform::DeviceRange;
use driver_platform::Direction;
use driver_platform::Dma;
use driver_platform::DmaError;
use driver_platform::Event;
use driver_platform::Log;
use virtqueue::RingMemory;

use crate::arena::Arena;

/// A buffer in shared memory.
#[derive(Debug)]
pub struct DirectBuffer {
    /// Its bytes.
    pub memory: RingMemory,
    addr: u64,
}

/// Memory and time without checks.
#[derive(Debug)]
pub struct DirectPlatform {
    arena: Arena,
    start: Instant,
}

impl DirectPlatform {
    /// A platform over an arena.
    pub fn new(arena: Arena) -> Self {
        Self {
            arena,
            start: Instant::now(),
        }
    }

    /// A page-aligned buffer; lives as long as the arena.
    pub fn buffer(&self, len: usize) -> Option<DirectBuffer> {
        let (memory, addr) = self.arena.allocate(len, 4096, 0)?;
        Some(DirectBuffer { memory, addr })
    }
}

// SAFETY: areas are zeroed, aligned, disjoint and stay until they are released; a buffer is an area of its own, which the driver owns
// while it is mapped.
unsafe impl Dma for DirectPlatform {
    type Buffer = DirectBuffer;

    fn allocate(&self, len: usize, align: usize) -> Result<Coherent, DmaError> {
        let (span, device_addr) = self
            .arena
            .allocate(len, align, 0)
            .ok_or(DmaError::Exhausted)?;
        Ok(Coherent {
            span,
            device_addr,
            len,
        })
    }

    // SAFETY: the caller's duties are the trait's; the arena checks that it knows the area.
    unsafe fn release(&self, memory: Coherent) {
        self.arena.release(memory.device_addr);
    }

    fn buffer_len(&self, buffer: &DirectBuffer) -> u64 {
        buffer.memory.len() as u64
    }

    fn map(
        &self,
        buffer: &mut DirectBuffer,
        _: Direction,
        mut piece: impl FnMut(DeviceRange),
    ) -> Result<(), DmaError> {
        let len = u32::try_from(buffer.memory.len()).map_err(|_| DmaError::Unmappable)?;
        piece(DeviceRange {
            addr: buffer.addr,
            len,
        });
        Ok(())
    }

    fn unmap(&self, _: &mut DirectBuffer, _: Direction) {}
}

impl BufferBytes for DirectPlatform {
    fn read_bytes(&self, buffer: &DirectBuffer, offset: usize, out: &mut [u8]) -> bool {
        buffer.memory.read(offset, out)
    }

    fn write_bytes(&self, buffer: &mut DirectBuffer, offset: usize, bytes: &[u8]) -> bool {
        buffer.memory.write(offset, bytes)
    }
}

impl Clock for DirectPlatform {
    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Log for DirectPlatform {
    fn log(&self, _: Event) {}
}

//! The platform of the drivers: identity-mapped DMA memory, the time-stamp counter as clock, the serial line as log.
//!
//! Rule: a device address is the address.
#![expect(unsafe_code, reason = "DMA memory is raw memory")]
use alloc::alloc::alloc;
use alloc::alloc::alloc_zeroed;
use core::alloc::Layout;
use core::ptr::NonNull;

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

use crate::cpu;
use crate::json::Line;

/// A data buffer; shown to the device in pieces of `piece` bytes.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: RingMemory,
    addr: u64,
    /// Bytes in use.
    pub(crate) len: u32,
    piece: u32,
}

impl Buffer {
    /// A buffer over memory that a job has already.
    pub(crate) fn over(memory: RingMemory, addr: u64) -> Self {
        let len = memory.len() as u32;
        Self {
            memory,
            addr,
            len,
            piece: len.max(512),
        }
    }

    /// The same buffer, of which only `len` bytes are in use.
    pub(crate) fn with_len(self, len: u32) -> Self {
        Self {
            len: len.min(self.memory.len() as u32),
            ..self
        }
    }

    /// Bytes that it has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Copies bytes out.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        self.memory.read(offset, out)
    }

    /// Copies bytes in.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) -> bool {
        self.memory.write(offset, data)
    }
}

/// Memory and time.
#[derive(Debug)]
pub(crate) struct Platform {
    /// TSC ticks in a millisecond.
    pub(crate) khz: u64,
}

impl Platform {
    /// A page-aligned buffer of at most `len` bytes.
    pub(crate) fn buffer(&self, len: u32, piece: u32) -> Option<Buffer> {
        let (memory, addr) = take(len as usize, 4096)?;
        Some(Buffer {
            memory,
            addr,
            len,
            piece: piece.max(512),
        })
    }

    /// Memory that this guest has not touched, for the length of a job.
    pub(crate) fn untouched(&self, len: usize, align: usize) -> Option<(RingMemory, u64)> {
        let layout = Layout::from_size_align(len.max(1), align.max(8)).ok()?;
        // SAFETY: the size is not 0.
        let area = NonNull::new(unsafe { alloc(layout) })?;
        let addr = area.as_ptr().expose_provenance() as u64;
        // SAFETY: as in `take`; RAM holds some bytes or other from the start.
        let memory = unsafe { RingMemory::new(area, len) };
        Some((memory, addr))
    }

    /// Nanoseconds of so many TSC ticks.
    pub(crate) fn nanoseconds(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000 / u128::from(self.khz.max(1))) as u64
    }

    /// TSC ticks of so many milliseconds.
    pub(crate) fn ticks(&self, milliseconds: u64) -> u64 {
        milliseconds.saturating_mul(self.khz)
    }
}

fn take(len: usize, align: usize) -> Option<(RingMemory, u64)> {
    let layout = Layout::from_size_align(len.max(1), align.max(8)).ok()?;
    // SAFETY: the size is not 0.
    let area = unsafe { alloc_zeroed(layout) };
    let area = NonNull::new(area)?;
    let addr = area.as_ptr().expose_provenance() as u64;
    // SAFETY: fresh memory that is given back only with the whole scope of a job, after the device was reset.
    let memory = unsafe { RingMemory::new(area, len) };
    Some((memory, addr))
}

// SAFETY: areas are fresh, zeroed, aligned and contiguous, because memory is identity-mapped; a buffer is owned by the driver while it is
// mapped.
unsafe impl Dma for Platform {
    type Buffer = Buffer;

    fn allocate(&self, len: usize, align: usize) -> Result<Coherent, DmaError> {
        let (span, device_addr) = take(len, align).ok_or(DmaError::Exhausted)?;
        Ok(Coherent {
            span,
            device_addr,
            len,
        })
    }

    unsafe fn release(&self, _memory: Coherent) {
        // Goes with the scope of the job.
    }

    fn buffer_len(&self, buffer: &Buffer) -> u64 {
        u64::from(buffer.len)
    }

    #[inline]
    fn map(
        &self,
        buffer: &mut Buffer,
        _: Direction,
        mut piece: impl FnMut(DeviceRange),
    ) -> Result<(), DmaError> {
        let mut at = 0;
        while at < buffer.len {
            let len = buffer.piece.min(buffer.len - at);
            piece(DeviceRange {
                addr: buffer.addr + u64::from(at),
                len,
            });
            at += len;
        }
        Ok(())
    }

    fn unmap(&self, _: &mut Buffer, _: Direction) {}
}

impl BufferBytes for Platform {
    #[inline]
    fn read_bytes(&self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> bool {
        buffer.read(offset, out)
    }

    #[inline]
    fn write_bytes(&self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> bool {
        buffer.write(offset, bytes)
    }
}

impl Clock for Platform {
    fn now_us(&self) -> u64 {
        self.nanoseconds(cpu::tsc()) / 1000
    }
}

impl Log for Platform {
    fn log(&self, event: Event) {
        let mut line = Line::new("log");
        line.text("what", event.what)
            .number("value", event.value)
            .print();
    }
}

//! DMA memory: coherent areas that live as long as the driver, and mappings of the caller's buffers for one request.
//!
//! Rule: a device address exists only between a successful `allocate` or `map` and its `release` or `unmap`.
use core::error::Error;
use core::fmt;

use virtqueue::RingMemory;

/// Which way the data of a mapped buffer flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads the buffer (a disk write).
    ToDevice,
    /// The device writes the buffer (a disk read).
    FromDevice,
}

/// A piece of a mapped buffer as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRange {
    /// Device (bus) address of the first byte.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
}

/// Memory shared with the device for as long as the driver runs: rings, request headers, indirect tables.
///
/// It is deliberately not `Clone`: the holder is its one owner and hands it back through [`Dma::release`].
#[derive(Debug)]
pub struct Coherent {
    /// The bytes, as the driver reaches them.
    pub span: RingMemory,
    /// Device address of the first byte.
    pub device_addr: u64,
    /// Length in bytes.
    pub len: usize,
}

/// Why the platform could not provide memory or a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaError {
    /// No memory, or no bounce space, is left now; the caller may try again later.
    Exhausted,
    /// The buffer can never be mapped (too long, wrong kind of memory, beyond the device's address width).
    Unmappable,
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exhausted => "DMA memory is exhausted",
            Self::Unmappable => "The buffer cannot be mapped for the device",
        })
    }
}

impl Error for DmaError {}

/// DMA services of the operating system.
///
/// # Safety
///
/// The implementor guarantees that
/// - every [`Coherent`] area is zeroed, aligned as asked, contiguous for the device at `device_addr`, reachable through `span`, used
///   for nothing else and stays so until `release`;
/// - every range that `map` reports leads the device to the bytes of that buffer (or of a bounce copy of it) and to nothing else
///   until `unmap`; the buffer's memory can neither be freed nor borrowed by anyone while it is mapped;
/// - both are callable at the interrupt level at which the driver core submits and polls requests, and never block.
///
/// The caller guarantees that it names to the device only addresses inside what was allocated or mapped, in the direction given, and
/// that it unmaps or releases only what the device no longer uses (the request completed, or the queue or the device was reset).
#[expect(
    unsafe_code,
    reason = "a wrong device address lets the device overwrite arbitrary memory"
)]
pub unsafe trait Dma {
    /// The operating system's handle of one data buffer, for instance a scatter-gather list. The driver owns it while the request
    /// is outstanding.
    type Buffer;

    /// Allocates zeroed memory shared with the device. `align` is a power of two. Called only while the driver starts.
    ///
    /// # Errors
    /// [`DmaError::Exhausted`] when there is no such memory.
    fn allocate(&self, len: usize, align: usize) -> Result<Coherent, DmaError>;

    /// Gives coherent memory back.
    ///
    /// # Safety
    /// The device no longer uses the area (it was reset), and no copy of `memory.span` is used afterwards. Driver cores never call
    /// this: they hand the area to their shell when they are taken apart.
    unsafe fn release(&self, memory: Coherent);

    /// Length of a buffer in bytes.
    fn buffer_len(&self, buffer: &Self::Buffer) -> u64;

    /// Makes `buffer` reachable for the device and reports its pieces in order. Called once per request.
    ///
    /// # Errors
    /// [`DmaError`]; then nothing stays mapped, whatever `piece` has already been told.
    fn map(
        &self,
        buffer: &mut Self::Buffer,
        direction: Direction,
        piece: impl FnMut(DeviceRange),
    ) -> Result<(), DmaError>;

    /// Ends the mapping; for [`Direction::FromDevice`] the buffer holds the data afterwards. Called exactly once per successful `map`.
    fn unmap(&self, buffer: &mut Self::Buffer, direction: Direction);
}

/// The bytes of buffers while they are not mapped, for what a driver reads and writes in place: the headers of network frames.
pub trait BufferBytes: Dma {
    /// Copies bytes out; `false`, and `out` unspecified, when they are not all inside. What a device that misbehaves still writes to
    /// the buffer may be seen in part.
    fn read_bytes(&self, buffer: &Self::Buffer, offset: usize, out: &mut [u8]) -> bool;

    /// Copies bytes in; `false`, and nothing copied, when they do not fit.
    fn write_bytes(&self, buffer: &mut Self::Buffer, offset: usize, bytes: &[u8]) -> bool;
}

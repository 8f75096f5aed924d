//! The platform of the tests: bouncing DMA, a clock that the test moves, a log that it can read.
//!
//! Rule: a buffer's bytes are where the device can see them only between `map` and `unmap`.
#![expect(unsafe_code, reason = "Dma is an unsafe trait")]
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use driver_platform::BufferBytes;
use driver_platform::Clock;
use driver_platform::Coherent;
use driver_platform::DeviceRange;
use driver_platform::Direction;
use driver_platform::Dma;
use driver_platform::DmaError;
use driver_platform::Event;
use driver_platform::Interrupts;
use driver_platform::Log;
use virtqueue::RingMemory;

use crate::arena::Arena;
use crate::heap;
use crate::random::Random;

/// Fills what the device is to write.
const FRESH: u8 = 0xa5;
/// Smallest piece that a buffer is scattered into, and the granularity of pieces.
const PIECE: usize = 512;

/// A data buffer of a request.
#[derive(Debug, Default)]
pub struct FakeBuffer {
    /// The bytes, as the operating system sees them.
    pub data: Vec<u8>,
    pieces: Vec<(RingMemory, u64)>,
}

impl FakeBuffer {
    /// A buffer with these bytes.
    pub fn new(data: Vec<u8>) -> Self {
        Self {
            data,
            pieces: Vec::new(),
        }
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Self::new(vec![0; len])
    }
}

impl Drop for FakeBuffer {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking() || self.pieces.is_empty(),
            "a mapped buffer was dropped"
        );
    }
}

/// The operating system, played by seed.
#[derive(Debug)]
pub struct FakePlatform {
    arena: Arena,
    random: Mutex<Random>,
    events: Mutex<Vec<Event>>,
    now_us: AtomicU64,
    mapped: AtomicU64,
    allocations: AtomicU64,
    /// The coherent allocation with this number is refused, counting from 0.
    pub refused_allocation: Option<u64>,
    /// One mapping in this many fails with `Exhausted`; 0: none.
    pub exhausted_one_in: u64,
    /// Whether buffers are scattered at any byte rather than at multiples of 512.
    pub odd_pieces: bool,
}

impl FakePlatform {
    /// A platform with 8 MiB of DMA memory.
    pub fn new(seed: u64) -> Self {
        Self::with_arena(seed, Arena::new(8 << 20, 0x10_0000_0000))
    }

    /// A platform over a given arena.
    pub fn with_arena(seed: u64, arena: Arena) -> Self {
        Self {
            arena,
            random: Mutex::new(Random::new(seed)),
            events: Mutex::default(),
            now_us: AtomicU64::new(1),
            mapped: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            refused_allocation: None,
            exhausted_one_in: 0,
            odd_pieces: false,
        }
    }

    /// The DMA memory.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Lets time pass.
    pub fn advance_us(&self, us: u64) {
        self.now_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Buffers mapped now.
    pub fn mapped(&self) -> u64 {
        self.mapped.load(Ordering::Relaxed)
    }

    /// What was logged.
    pub fn events(&self) -> Vec<Event> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Gives memory back that a driver handed out after its device was reset.
    pub fn release_all(&self, memory: impl IntoIterator<Item = Coherent>) {
        for area in memory {
            self.arena.release(area.device_addr);
        }
    }

    fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lengths of the pieces of a buffer.
    fn scatter(&self, len: usize) -> Vec<usize> {
        let mut random = self.random();
        let unit = if self.odd_pieces { 1 } else { PIECE };
        let mut left = len;
        let mut pieces = Vec::new();
        while left > 0 {
            let units = left.div_ceil(unit);
            let most = if random.one_in(3) {
                units
            } else {
                units.min(4096 / unit)
            };
            let piece = ((1 + random.index(most)) * unit).min(left);
            pieces.push(piece);
            left -= piece;
        }
        pieces
    }
}

// SAFETY: areas are zeroed, aligned, disjoint and belong to the driver until they are released; mapped pieces lead to a bounce copy that
// belongs to the one buffer until `unmap`, and the buffer itself is owned by the driver meanwhile.
unsafe impl Dma for FakePlatform {
    type Buffer = FakeBuffer;

    fn allocate(&self, len: usize, align: usize) -> Result<Coherent, DmaError> {
        let nth = self.allocations.fetch_add(1, Ordering::Relaxed);
        if self.refused_allocation == Some(nth) {
            return Err(DmaError::Exhausted);
        }
        let area = heap::exempt(|| self.arena.allocate(len, align, 0));
        let (span, device_addr) = area.ok_or(DmaError::Exhausted)?;
        Ok(Coherent {
            span,
            device_addr,
            len,
        })
    }

    unsafe fn release(&self, memory: Coherent) {
        self.arena.release(memory.device_addr);
    }

    fn buffer_len(&self, buffer: &FakeBuffer) -> u64 {
        buffer.data.len() as u64
    }

    fn map(
        &self,
        buffer: &mut FakeBuffer,
        direction: Direction,
        mut piece: impl FnMut(DeviceRange),
    ) -> Result<(), DmaError> {
        assert!(buffer.pieces.is_empty(), "a buffer was mapped twice");
        if self.exhausted_one_in > 0 && self.random().one_in(self.exhausted_one_in) {
            return Err(DmaError::Exhausted);
        }
        let mut at = 0;
        for len in self.scatter(buffer.data.len()) {
            let Some((span, addr)) = self.arena.allocate(len, 1, FRESH) else {
                buffer
                    .pieces
                    .drain(..)
                    .for_each(|(_, addr)| self.arena.release(addr));
                return Err(DmaError::Exhausted);
            };
            if direction == Direction::ToDevice {
                span.write(0, &buffer.data[at..at + len]);
            }
            piece(DeviceRange {
                addr,
                len: u32::try_from(len).unwrap_or(u32::MAX),
            });
            buffer.pieces.push((span, addr));
            at += len;
        }
        self.mapped.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn unmap(&self, buffer: &mut FakeBuffer, direction: Direction) {
        assert!(
            !buffer.pieces.is_empty(),
            "a buffer was unmapped that is not mapped"
        );
        let mut at = 0;
        for (span, addr) in buffer.pieces.drain(..) {
            if direction == Direction::FromDevice {
                span.read(0, &mut buffer.data[at..at + span.len()]);
            }
            at += span.len();
            self.arena.release(addr);
        }
        self.mapped.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BufferBytes for FakePlatform {
    fn read_bytes(&self, buffer: &FakeBuffer, offset: usize, out: &mut [u8]) -> bool {
        assert!(buffer.pieces.is_empty(), "a mapped buffer was read");
        let end = offset.saturating_add(out.len());
        let found = buffer.data.get(offset..end);
        if let Some(bytes) = found {
            out.copy_from_slice(bytes);
        }
        found.is_some()
    }

    fn write_bytes(&self, buffer: &mut FakeBuffer, offset: usize, bytes: &[u8]) -> bool {
        assert!(buffer.pieces.is_empty(), "a mapped buffer was written");
        let end = offset.saturating_add(bytes.len());
        let found = buffer.data.get_mut(offset..end);
        let fits = found.is_some();
        if let Some(place) = found {
            place.copy_from_slice(bytes);
        }
        fits
    }
}

impl Clock for FakePlatform {
    fn now_us(&self) -> u64 {
        self.now_us.load(Ordering::Relaxed)
    }

    fn relax(&self) {
        self.advance_us(1000);
    }
}

impl Log for FakePlatform {
    fn log(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        heap::exempt(|| events.push(event));
    }
}

/// A number of MSI-X messages.
#[derive(Clone, Copy, Debug)]
pub struct FakeInterrupts(pub u16);

impl Interrupts for FakeInterrupts {
    fn messages(&self) -> u16 {
        self.0
    }

    fn mask(&self, message: u16) {
        assert!(message < self.0, "message {message} of {}", self.0);
    }

    fn unmask(&self, message: u16) {
        assert!(message < self.0, "message {message} of {}", self.0);
    }

    fn set_target(&self, message: u16, _: u32) -> bool {
        message < self.0
    }
}

/// MSI-X messages that remember what was done to them.
#[derive(Debug)]
pub struct FakeMessages {
    states: Mutex<Vec<(bool, u32)>>,
}

impl FakeMessages {
    /// `count` messages, let through to processor 0.
    pub fn new(count: u16) -> Self {
        Self {
            states: Mutex::new(vec![(false, 0); usize::from(count)]),
        }
    }

    /// Whether each message is held back, and the processor that it goes to.
    pub fn states(&self) -> Vec<(bool, u32)> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(bool, u32)>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interrupts for FakeMessages {
    fn messages(&self) -> u16 {
        u16::try_from(self.lock().len()).unwrap_or(u16::MAX)
    }

    fn mask(&self, message: u16) {
        self.lock()[usize::from(message)].0 = true;
    }

    fn unmask(&self, message: u16) {
        self.lock()[usize::from(message)].0 = false;
    }

    fn set_target(&self, message: u16, processor: u32) -> bool {
        let mut states = self.lock();
        let state = states.get_mut(usize::from(message));
        state.map(|state| state.1 = processor).is_some()
    }
}

//! A checked part of a BAR.
//!
//! Rule: made only after its bounds were compared with the BAR's, so that register offsets inside the promised length cannot miss.
use driver_platform::Mmio;

/// `len` bytes from `base` in a BAR.
#[derive(Clone, Debug)]
pub(crate) struct Window<B> {
    bar: B,
    base: u64,
    len: u64,
}

impl<B: Mmio> Window<B> {
    /// `None` when the window is not inside the BAR.
    pub(crate) fn new(bar: B, base: u64, len: u64) -> Option<Self> {
        let end = base.checked_add(len)?;
        (end <= bar.len()).then_some(Self { bar, base, len })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn read_u8(&self, offset: usize) -> u8 {
        self.bar.read_u8(self.at(offset))
    }

    pub(crate) fn read_u16(&self, offset: usize) -> u16 {
        self.bar.read_u16(self.at(offset))
    }

    pub(crate) fn read_u32(&self, offset: usize) -> u32 {
        self.bar.read_u32(self.at(offset))
    }

    pub(crate) fn write_u8(&self, offset: usize, value: u8) {
        self.bar.write_u8(self.at(offset), value);
    }

    pub(crate) fn write_u16(&self, offset: usize, value: u16) {
        self.bar.write_u16(self.at(offset), value);
    }

    pub(crate) fn write_u32(&self, offset: usize, value: u32) {
        self.bar.write_u32(self.at(offset), value);
    }

    /// 64-bit registers are written as two halves, low first (sec. 4.1.3.1).
    pub(crate) fn write_u64(&self, offset: usize, value: u64) {
        self.write_u32(offset, (value & 0xffff_ffff) as u32);
        self.write_u32(offset + 4, (value >> 32) as u32);
    }

    /// The BAR and the offset in it, for a handle that outlives the window.
    pub(crate) fn locate(&self, offset: u64) -> (B, u64) {
        (self.bar.clone(), self.base + offset)
    }

    fn at(&self, offset: usize) -> u64 {
        self.base + offset as u64
    }
}

//! The PCI function in front of the registers: configuration space with the virtio capabilities, and one BAR.
//!
//! Rule: the configuration space is plain bytes that a test may overwrite at will.
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use driver_platform::Mmio;
use driver_platform::PciFunction;
use virtio_spec::feature;
use virtio_spec::pci;
use virtio_spec::pci::cap_type;

use crate::registers::Registers;
use crate::registers::notify_name;

/// Where the structures are in the BAR.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Common configuration.
    pub common: u64,
    /// Interrupt status.
    pub isr: u64,
    /// Device configuration.
    pub device: u64,
    /// Doorbells.
    pub notify: u64,
    /// Bytes between two doorbells.
    pub multiplier: u32,
    /// Length of the BAR.
    pub bar_len: u64,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            common: 0,
            isr: 0x1000,
            device: 0x2000,
            notify: 0x3000,
            multiplier: 4,
            bar_len: 0x4000,
        }
    }
}

#[derive(Debug)]
struct Inner {
    config: Mutex<[u8; 256]>,
    registers: Mutex<Registers>,
    layout: Layout,
    changes: AtomicU64,
}

/// A fake virtio-pci function; clones are the same function.
#[derive(Clone, Debug)]
pub struct FakeFunction {
    inner: Arc<Inner>,
}

impl FakeFunction {
    /// A function of the given device type (sec. 5).
    pub fn new(device_type: u16, registers: Registers, layout: Layout) -> Self {
        let config = config_space(device_type, &layout, registers.config.len());
        let (config, registers) = (Mutex::new(config), Mutex::new(registers));
        Self {
            inner: Arc::new(Inner {
                config,
                registers,
                layout,
                changes: AtomicU64::new(1),
            }),
        }
    }

    /// The registers, to look at or to change.
    pub fn registers(&self) -> MutexGuard<'_, Registers> {
        self.inner
            .registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what the driver wrote to registers other than doorbells: while it stays the same, so do status and queues.
    pub fn changes(&self) -> u64 {
        self.inner.changes.load(Ordering::Acquire)
    }

    /// The configuration space, to look at or to change.
    pub fn config_space(&self) -> MutexGuard<'_, [u8; 256]> {
        self.inner
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn config_bytes<const N: usize>(&self, offset: u16) -> [u8; N] {
        let config = self.config_space();
        let mut out = [0xff; N];
        for (index, byte) in out.iter_mut().enumerate() {
            *byte = config
                .get(usize::from(offset) + index)
                .copied()
                .unwrap_or(0xff);
        }
        out
    }
}

impl PciFunction for FakeFunction {
    type Bar = FakeBar;

    fn config_read_u8(&self, offset: u16) -> u8 {
        u8::from_le_bytes(self.config_bytes(offset))
    }

    fn config_read_u16(&self, offset: u16) -> u16 {
        u16::from_le_bytes(self.config_bytes(offset))
    }

    fn config_read_u32(&self, offset: u16) -> u32 {
        u32::from_le_bytes(self.config_bytes(offset))
    }

    fn config_write_u16(&self, offset: u16, value: u16) {
        let mut config = self.config_space();
        for (index, byte) in value.to_le_bytes().into_iter().enumerate() {
            if let Some(target) = config.get_mut(usize::from(offset) + index) {
                *target = byte;
            }
        }
    }

    fn bar(&self, index: u8) -> Option<FakeBar> {
        (index == 4).then(|| FakeBar {
            inner: self.inner.clone(),
        })
    }
}

/// Builds header and capability list.
fn config_space(device_type: u16, layout: &Layout, config_len: usize) -> [u8; 256] {
    let mut space = [0_u8; 256];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &pci::VENDOR_ID.to_le_bytes());
    put(2, &(pci::DEVICE_ID_BASE + device_type).to_le_bytes());
    put(6, &0x10_u16.to_le_bytes());
    put(8, &[pci::REVISION_ID]);
    put(0x34, &[0x40]);
    let notify_len = layout.bar_len.saturating_sub(layout.notify) as u32;
    let structures = [
        (cap_type::COMMON, layout.common, pci::common::SIZE as u32),
        (cap_type::ISR, layout.isr, 1),
        (cap_type::DEVICE, layout.device, config_len as u32),
        (cap_type::NOTIFY, layout.notify, notify_len),
    ];
    for (index, (kind, offset, len)) in structures.into_iter().enumerate() {
        let at = 0x40 + index * 0x20;
        let next = if index + 1 < structures.len() {
            (at + 0x20) as u8
        } else {
            0
        };
        put(at, &[pci::CAPABILITY_ID, next, 20, kind, 4]);
        put(at + 8, &(offset as u32).to_le_bytes());
        put(at + 12, &len.to_le_bytes());
        put(at + 16, &layout.multiplier.to_le_bytes());
    }
    space
}

/// The BAR. Accesses outside of it fail the test: the driver has to check before.
#[derive(Clone, Debug)]
pub struct FakeBar {
    inner: Arc<Inner>,
}

impl FakeBar {
    fn read(&self, offset: u64, width: u64) -> u32 {
        let layout = self.inner.layout;
        assert!(
            offset + width <= layout.bar_len,
            "read at {offset:#x} is outside the BAR"
        );
        assert!(
            offset.is_multiple_of(width),
            "read at {offset:#x} is not aligned"
        );
        let mut registers = self
            .inner
            .registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if offset >= layout.notify {
            return 0;
        }
        if offset >= layout.device {
            let at = (offset - layout.device) as usize;
            let mut bytes = [0xff_u8; 4];
            for (index, byte) in bytes.iter_mut().enumerate().take(width as usize) {
                *byte = registers.config.get(at + index).copied().unwrap_or(0xff);
            }
            return u32::from_le_bytes(bytes);
        }
        if offset >= layout.isr {
            return u32::from(std::mem::take(&mut registers.isr));
        }
        registers.read_common((offset - layout.common) as usize)
    }

    fn write(&self, offset: u64, width: u64, value: u32) {
        let layout = self.inner.layout;
        assert!(
            offset + width <= layout.bar_len,
            "write at {offset:#x} is outside the BAR"
        );
        assert!(
            offset.is_multiple_of(width),
            "write at {offset:#x} is not aligned"
        );
        let mut registers = self
            .inner
            .registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if offset >= layout.notify {
            let index = match layout.multiplier {
                0 if registers.accepted & feature::NOTIF_CONFIG_DATA != 0 => {
                    usize::from(notify_name(value as u16))
                }
                0 => usize::from(value as u16),
                multiplier => ((offset - layout.notify) / u64::from(multiplier)) as usize,
            };
            if let Some(queue) = registers.queues.get_mut(index) {
                queue.rings += 1;
                queue.last_ring = value;
            }
        } else if offset >= layout.device {
            let at = (offset - layout.device) as usize;
            for (index, byte) in value.to_le_bytes().iter().enumerate().take(width as usize) {
                if let Some(target) = registers.config.get_mut(at + index) {
                    *target = *byte;
                }
            }
        } else if offset < layout.isr {
            registers.write_common((offset - layout.common) as usize, value);
            self.inner.changes.fetch_add(1, Ordering::Release);
        }
    }
}

impl Mmio for FakeBar {
    fn len(&self) -> u64 {
        self.inner.layout.bar_len
    }

    fn read_u8(&self, offset: u64) -> u8 {
        self.read(offset, 1) as u8
    }

    fn read_u16(&self, offset: u64) -> u16 {
        self.read(offset, 2) as u16
    }

    fn read_u32(&self, offset: u64) -> u32 {
        self.read(offset, 4)
    }

    fn write_u8(&self, offset: u64, value: u8) {
        self.write(offset, 1, u32::from(value));
    }

    fn write_u16(&self, offset: u64, value: u16) {
        self.write(offset, 2, u32::from(value));
    }

    fn write_u32(&self, offset: u64, value: u32) {
        self.write(offset, 4, value);
    }
}

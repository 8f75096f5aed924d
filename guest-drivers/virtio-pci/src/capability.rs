//! Finds the virtio structures through the vendor capabilities (virtio 1.4 sec. 4.1.4).
//!
//! Rule: the walk ends after [`MAX_CAPABILITIES`] steps whatever the list looks like, and the first usable structure of a type wins.
use driver_platform::Mmio;
use driver_platform::PciFunction;
use virtio_spec::pci;
use virtio_spec::pci::cap;
use virtio_spec::pci::cap_type;
use virtio_spec::pci::common;

use crate::error::Error;
use crate::window::Window;

/// Most capabilities that fit into the 192 bytes after the header.
pub const MAX_CAPABILITIES: usize = 48;

const STATUS: u16 = 0x06;
const STATUS_CAPABILITY_LIST: u16 = 0x10;
const CAPABILITY_POINTER: u16 = 0x34;
const FIRST_CAPABILITY: u16 = 0x40;
/// Without `queue_notif_config_data` and what follows: what virtio 1.0 devices have.
const COMMON_SIZE_MIN: u64 = common::QUEUE_NOTIF_CONFIG_DATA as u64;

/// The structures that a driver needs.
#[derive(Debug)]
pub(crate) struct Structures<B> {
    pub(crate) common: Window<B>,
    pub(crate) notify: Window<B>,
    pub(crate) notify_multiplier: u32,
    pub(crate) isr: Window<B>,
    /// Optional: some device types have no configuration.
    pub(crate) device: Option<Window<B>>,
}

struct Capability {
    offset: u16,
    length: u8,
    kind: u8,
}

pub(crate) fn find<F: PciFunction>(function: &F) -> Result<Structures<F::Bar>, Error> {
    let mut common = None;
    let mut notify = None;
    let mut isr = None;
    let mut device = None;
    for_each_virtio_capability(function, |capability| match capability.kind {
        cap_type::COMMON => fill(&mut common, || {
            window(function, capability, COMMON_SIZE_MIN, 4)
        }),
        cap_type::NOTIFY => fill(&mut notify, || notify_window(function, capability)),
        cap_type::ISR => fill(&mut isr, || window(function, capability, 1, 1)),
        cap_type::DEVICE => fill(&mut device, || window(function, capability, 1, 4)),
        _ => {}
    });
    let (notify, notify_multiplier) = notify.ok_or(Error::BadCapability)?;
    Ok(Structures {
        common: common.ok_or(Error::BadCapability)?,
        notify,
        notify_multiplier,
        isr: isr.ok_or(Error::BadCapability)?,
        device,
    })
}

fn fill<T>(slot: &mut Option<T>, make: impl FnOnce() -> Option<T>) {
    if slot.is_none() {
        *slot = make();
    }
}

fn for_each_virtio_capability<F: PciFunction>(function: &F, mut visit: impl FnMut(&Capability)) {
    if function.config_read_u16(STATUS) & STATUS_CAPABILITY_LIST == 0 {
        return;
    }
    let mut offset = u16::from(function.config_read_u8(CAPABILITY_POINTER) & 0xfc);
    for _ in 0..MAX_CAPABILITIES {
        if offset < FIRST_CAPABILITY {
            return;
        }
        let id = function.config_read_u8(offset + cap::VENDOR as u16);
        let length = function.config_read_u8(offset + cap::LENGTH as u16);
        // Offsets are below 256, so adding a length stays far from the end of u16.
        if id == pci::CAPABILITY_ID
            && usize::from(length) >= cap::SIZE
            && offset + u16::from(length) <= 256
        {
            let kind = function.config_read_u8(offset + cap::TYPE as u16);
            visit(&Capability {
                offset,
                length,
                kind,
            });
        }
        offset = u16::from(function.config_read_u8(offset + cap::NEXT as u16) & 0xfc);
    }
}

fn window<F: PciFunction>(
    function: &F,
    capability: &Capability,
    needed: u64,
    align: u64,
) -> Option<Window<F::Bar>> {
    // Bars 6 to 255 are reserved: such a structure must be ignored (sec. 4.1.4.1).
    let bar = function.config_read_u8(capability.offset + cap::BAR as u16);
    let bar = if bar <= 5 {
        function.bar(bar)?
    } else {
        return None;
    };
    let base = u64::from(function.config_read_u32(capability.offset + cap::OFFSET as u16));
    let len = u64::from(function.config_read_u32(capability.offset + cap::STRUCTURE_LENGTH as u16));
    if len < needed || !base.is_multiple_of(align) || bar.is_empty() {
        return None;
    }
    Window::new(bar, base, len)
}

fn notify_window<F: PciFunction>(
    function: &F,
    capability: &Capability,
) -> Option<(Window<F::Bar>, u32)> {
    if usize::from(capability.length) < cap::NOTIFY_SIZE {
        return None;
    }
    let multiplier =
        function.config_read_u32(capability.offset + cap::NOTIFY_OFF_MULTIPLIER as u16);
    // An even power of two, or 0 (sec. 4.1.4.4.1).
    if multiplier != 0 && (!multiplier.is_power_of_two() || multiplier == 1) {
        return None;
    }
    let window = window(function, capability, 2, 2)?;
    Some((window, multiplier))
}

//! Where things lie in the BAR, and the capabilities that say so (virtio 1.4, 4.1.4). Rule: every structure has a page
//! of its own, and every queue an address of its own in the notify page, so that each gets its own doorbell.

use machine::pci::BarKind;
use machine::pci::ConfigSpace;
use machine::pci::Identity;
use machine::pci::MsixLayout;
use virtio_spec::device_id;
use virtio_spec::pci::CAPABILITY_ID;
use virtio_spec::pci::DEVICE_ID_BASE;
use virtio_spec::pci::REVISION_ID;
use virtio_spec::pci::VENDOR_ID;
use virtio_spec::pci::cap;
use virtio_spec::pci::cap_type;

use crate::Error;
use crate::Result;

/// The only BAR.
pub(crate) const BAR: u8 = 0;
/// Its size in bytes.
pub(crate) const BAR_SIZE: u64 = 0x1_0000;
/// Bytes for each structure.
pub(crate) const PAGE: u64 = 0x1000;

pub(crate) const COMMON: u64 = 0x0000;
pub(crate) const ISR: u64 = 0x1000;
pub(crate) const DEVICE: u64 = 0x2000;
pub(crate) const NOTIFY: u64 = 0x3000;
pub(crate) const MSIX_TABLE: u64 = 0x4000;
pub(crate) const MSIX_PENDING: u64 = 0x8000;

/// Bytes between the doorbells of two queues. Four, so that a 32-bit write (NOTIFICATION_DATA) touches one only.
pub(crate) const NOTIFY_MULTIPLIER: u32 = 4;

/// Most queues: each has a doorbell, and a vector beside that of the configuration.
pub(crate) const QUEUES_MAX: u16 = {
    let doorbells = PAGE / NOTIFY_MULTIPLIER as u64;
    let vectors = (MSIX_PENDING - MSIX_TABLE) / 16;
    let queues = if doorbells < vectors {
        doorbells
    } else {
        vectors - 1
    };
    queues as u16
};

/// Subsystem id of every modern virtio device under QEMU; Windows driver packages match on it.
const SUBSYSTEM_ID: u16 = 0x1100;

/// The address of a queue's doorbell when the BAR is at `bar_address`.
pub(crate) fn doorbell(bar_address: u64, queue: u16) -> u64 {
    bar_address + NOTIFY + u64::from(NOTIFY_MULTIPLIER) * u64::from(queue)
}

/// The queue whose doorbell is at `offset` in the BAR.
pub(crate) fn doorbell_queue(offset: u64) -> Option<u16> {
    let at = offset.checked_sub(NOTIFY)?;
    let multiplier = u64::from(NOTIFY_MULTIPLIER);
    if at >= PAGE || !at.is_multiple_of(multiplier) {
        return None;
    }
    u16::try_from(at / multiplier).ok()
}

pub(crate) fn msix() -> MsixLayout {
    let offset = |at: u64| u32::try_from(at).unwrap_or(0);
    MsixLayout {
        table_bar: BAR,
        table_offset: offset(MSIX_TABLE),
        pba_bar: BAR,
        pba_offset: offset(MSIX_PENDING),
    }
}

/// The header, the BAR and the virtio capabilities. Also returns the offset of the PCI configuration access capability.
pub(crate) fn config_space(device: u32, config_len: u32) -> Result<(ConfigSpace, u16)> {
    let device_number = u16::try_from(device).map_err(|_| Error::Spec("the device id"))?;
    let mut space = ConfigSpace::new(Identity {
        vendor: VENDOR_ID,
        device: DEVICE_ID_BASE + device_number,
        revision: REVISION_ID,
        class: class(device),
        subsystem_vendor: VENDOR_ID,
        subsystem: SUBSYSTEM_ID,
    });
    let machine = |what| {
        move |error: machine::Error| Error::Machine {
            what,
            reason: error.to_string(),
        }
    };
    space
        .add_bar(BAR, BarKind::Memory32, BAR_SIZE)
        .map_err(machine("a BAR"))?;
    let mut add = |body: &[u8], writable: &[u8]| {
        space
            .add_capability(CAPABILITY_ID, body, writable)
            .map_err(machine("a capability"))
    };
    let notify_extra = NOTIFY_MULTIPLIER.to_le_bytes();
    let common_len = u32::try_from(virtio_spec::pci::common::SIZE).unwrap_or(0);
    let page = u32::try_from(PAGE).unwrap_or(0);
    add(&body(cap_type::COMMON, COMMON, common_len, &[]), &[])?;
    add(&body(cap_type::NOTIFY, NOTIFY, page, &notify_extra), &[])?;
    add(&body(cap_type::ISR, ISR, 1, &[]), &[])?;
    if config_len != 0 {
        add(&body(cap_type::DEVICE, DEVICE, config_len, &[]), &[])?;
    }
    let window = add(&body(cap_type::PCI, 0, 0, &[0; 4]), &window_writable())?;
    Ok((space, window))
}

/// A capability without its id and next bytes, which `ConfigSpace` writes.
fn body(kind: u8, offset: u64, len: u32, extra: &[u8]) -> Vec<u8> {
    let total = cap::SIZE + extra.len();
    let mut body = vec![0; total - cap::LENGTH];
    let mut put = |at: usize, bytes: &[u8]| {
        let at = at - cap::LENGTH;
        if let Some(place) = body.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(cap::LENGTH, &[u8::try_from(total).unwrap_or(u8::MAX)]);
    put(cap::TYPE, &[kind]);
    put(cap::BAR, &[BAR]);
    put(
        cap::OFFSET,
        &u32::try_from(offset).unwrap_or(0).to_le_bytes(),
    );
    put(cap::STRUCTURE_LENGTH, &len.to_le_bytes());
    put(cap::SIZE, extra);
    body
}

/// The driver chooses BAR, offset and length of the window, and writes its data (4.1.4.9).
fn window_writable() -> Vec<u8> {
    let mut mask = vec![0; cap::PCI_CFG_SIZE - cap::LENGTH];
    for (at, byte) in mask.iter_mut().enumerate() {
        let at = at + cap::LENGTH;
        if at == cap::BAR || (cap::OFFSET..cap::PCI_CFG_SIZE).contains(&at) {
            *byte = 0xff;
        }
    }
    mask
}

/// PCI class code of a virtio device.
fn class(device: u32) -> u32 {
    match device {
        device_id::NET => 0x02_0000,
        device_id::BLOCK => 0x01_0000,
        _ => 0xff_0000,
    }
}

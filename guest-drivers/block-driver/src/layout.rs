//! What stands in a slot: request header, range, serial and status byte, in one cache line.
//!
//! Rule: the status byte holds what no device writes until the device has written it.
use virtio_core::QueueMemory;
use virtio_core::Slot;
use virtio_spec::block;
use virtio_spec::block::DiscardWriteZeroes;
use virtio_spec::block::RequestHeader;
use virtqueue::Segment;
use zerocopy::IntoBytes;

/// Bytes of one slot: header at 0, range at 16, serial at 32, status at 63.
pub(crate) const SLOT: usize = 64;
const RANGE: usize = 16;
const SERIAL: usize = 32;
const STATUS: usize = 63;
/// No status has this value.
pub(crate) const NO_STATUS: u8 = 0xff;

/// Writes a slot's header and takes its status back; returns both as the device sees them.
#[inline]
pub(crate) fn write_header(
    memory: &QueueMemory,
    slot: &Slot,
    request_type: u32,
    sector: u64,
) -> (Segment, Segment) {
    let header = RequestHeader {
        request_type: request_type.into(),
        reserved: 0.into(),
        sector: sector.into(),
    };
    (
        memory.write(slot, 0, header.as_bytes()),
        memory.write(slot, STATUS, &[NO_STATUS]),
    )
}

/// Writes a slot's range.
pub(crate) fn write_range(
    memory: &QueueMemory,
    slot: &Slot,
    sector: u64,
    sectors: u32,
    flags: u32,
) -> Segment {
    let range = DiscardWriteZeroes {
        sector: sector.into(),
        num_sectors: sectors.into(),
        flags: flags.into(),
    };
    memory.write(slot, RANGE, range.as_bytes())
}

/// Where the device writes the serial.
pub(crate) fn serial_segment(memory: &QueueMemory, slot: &Slot) -> Segment {
    memory.segment(slot, SERIAL, block::ID_SIZE)
}

/// The status byte as the device left it.
#[inline]
pub(crate) fn status(memory: &QueueMemory, slot: &Slot) -> u8 {
    let mut status = [NO_STATUS];
    memory.read(slot, STATUS, &mut status);
    status[0]
}

/// The serial as the device left it.
pub(crate) fn serial(memory: &QueueMemory, slot: &Slot) -> [u8; block::ID_SIZE] {
    let mut serial = [0; block::ID_SIZE];
    memory.read(slot, SERIAL, &mut serial);
    serial
}

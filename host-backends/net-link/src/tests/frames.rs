//! Guest memory with frames in it.
//!
//! Rule: frames are built byte by byte here, by nothing that the links use.

use guest_memory::GuestMemory;
use guest_memory::IoVecs;
use guest_memory::RegionSpec;
use virtqueue::Segment;

use crate::HEADER_BYTES;

pub(crate) const RAM: u64 = 8 << 20;

pub(crate) fn ram() -> GuestMemory {
    let fd = host_os::memfd::create("guest", RAM).unwrap();
    let region = RegionSpec {
        guest_addr: 0,
        user_addr: 0,
        size: RAM,
        mmap_offset: 0,
    };
    GuestMemory::new(vec![(region, fd)]).unwrap()
}

/// Spans of guest memory: (address, length) each.
pub(crate) fn spans(memory: &GuestMemory, parts: &[(u64, u32)]) -> IoVecs {
    let segments: Vec<_> = parts
        .iter()
        .map(|(addr, len)| Segment {
            addr: *addr,
            len: *len,
        })
        .collect();
    let mut list = IoVecs::new();
    memory.iovecs(&segments, &mut list).unwrap();
    list
}

/// A virtio-net header of zeros.
pub(crate) const PLAIN: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

/// Ethernet, IPv4 and UDP around `data`, without checksum of UDP.
pub(crate) fn udp4(from: ([u8; 6], [u8; 4]), to: ([u8; 6], [u8; 4]), data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(28 + data.len()).unwrap().to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(from.1);
    frame.extend(to.1);
    let sum: u32 = frame[14..34]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(4000u16.to_be_bytes());
    frame.extend(5000u16.to_be_bytes());
    frame.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(data);
    frame
}

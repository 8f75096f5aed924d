//! Turns a descriptor chain into a request, or into the status that refuses it.
//!
//! Rule: the guest's bytes are read once into owned values, checked, then used; how they were cut into descriptors makes
//! no difference.

use virtio_spec::block::DiscardWriteZeroes;
use virtio_spec::block::ID_SIZE;
use virtio_spec::block::RANGE_FLAG_UNMAP;
use virtio_spec::block::RequestHeader;
use virtio_spec::block::SECTOR_SIZE;
use virtio_spec::block::request_type;
use virtio_spec::block::status;
use virtqueue::Segment;
use zerocopy::FromBytes;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;

/// Bytes of a request's head.
pub(crate) const HEADER_BYTES: u64 = size_of::<RequestHeader>() as u64;
/// Bytes of one range of a discard or write-zeroes request.
pub(crate) const RANGE_BYTES: usize = size_of::<DiscardWriteZeroes>();
/// Most ranges that one discard or write-zeroes request may hold.
pub(crate) const MAX_RANGES: usize = 32;
/// Most sectors in one such range: 1 GiB.
pub(crate) const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// How a request reads the guest's memory.
pub(crate) trait Source {
    /// Fills `out` from guest address `addr`; false when that is not all memory.
    fn read(&self, addr: u64, out: &mut [u8]) -> bool;
}

/// What the disk allows at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of the disk.
    pub size: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    pub readonly: bool,
    pub discard: bool,
    pub write_zeroes: bool,
}

/// Bytes of the disk, checked to lie within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub offset: u64,
    pub len: u64,
    /// The range may be deallocated.
    pub unmap: bool,
}

/// What the guest asks for, all bounds checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Fill the data segments from `offset`.
    Read { offset: u64, len: u64 },
    /// Store the data segments at `offset`.
    Write { offset: u64, len: u64 },
    /// Make earlier completed writes durable.
    Flush,
    /// Put the serial into the data segments.
    GetId,
    /// Give the ranges back; they are in [`Parsed::ranges`].
    Discard,
    /// Zero the ranges; they are in [`Parsed::ranges`].
    WriteZeroes,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no byte for a status: the chain goes back with nothing written.
    NoStatus,
    /// The chain ends before the request does, or its ranges are cut off.
    Malformed,
    /// The data is no whole number of logical blocks, or does not start on one.
    Unaligned,
    /// It reaches past the end of the disk.
    OutOfBounds,
    /// It would change a read-only disk.
    ReadOnly,
    /// A descriptor points to no memory.
    BadAddress,
    /// Unknown or not offered.
    Unsupported,
}

impl Refusal {
    /// The status byte that says so.
    pub fn status(self) -> u8 {
        match self {
            Self::Unsupported => status::UNSUPP,
            _ => status::IOERR,
        }
    }
}

/// A request with its parts; reused, so that parsing allocates nothing once warm.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// Guest address of the status byte.
    pub status_addr: u64,
    /// Data segments: of a write without the head, of a read without the status byte.
    pub data: Vec<Segment>,
    /// Ranges of a discard or write-zeroes request.
    pub ranges: Vec<Range>,
}

impl Parsed {
    /// Reads one request out of `readable` and `writable`.
    ///
    /// After any refusal but [`Refusal::NoStatus`] `status_addr` is valid.
    pub fn parse(
        &mut self,
        readable: &[Segment],
        writable: &[Segment],
        memory: &impl Source,
        limits: &Limits,
    ) -> Result<Operation, Refusal> {
        self.data.clear();
        self.ranges.clear();
        self.status_addr = status_address(writable).ok_or(Refusal::NoStatus)?;
        let header = self.header(readable, memory)?;
        let sector = header.sector.get();
        match header.request_type.get() {
            request_type::IN => {
                let (offset, len) = self.transfer(sector, writable, Part::AllButLast, limits)?;
                Ok(Operation::Read { offset, len })
            }
            request_type::OUT if limits.readonly => Err(Refusal::ReadOnly),
            request_type::OUT => {
                let (offset, len) = self.transfer(sector, readable, Part::AfterHeader, limits)?;
                Ok(Operation::Write { offset, len })
            }
            request_type::FLUSH => Ok(Operation::Flush),
            request_type::GET_ID => {
                cut(writable, Part::AllButLast, &mut self.data);
                Ok(Operation::GetId)
            }
            kind @ (request_type::DISCARD | request_type::WRITE_ZEROES) => {
                let zeroing = kind == request_type::WRITE_ZEROES;
                let offered = if zeroing {
                    limits.write_zeroes
                } else {
                    limits.discard
                };
                if limits.readonly {
                    return Err(Refusal::ReadOnly);
                } else if !offered {
                    return Err(Refusal::Unsupported);
                }
                self.read_ranges(readable, memory, limits, zeroing)?;
                Ok(if zeroing {
                    Operation::WriteZeroes
                } else {
                    Operation::Discard
                })
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    fn header(
        &mut self,
        readable: &[Segment],
        memory: &impl Source,
    ) -> Result<RequestHeader, Refusal> {
        let mut header = RequestHeader::new_zeroed();
        if let Some(first) = readable.first()
            && u64::from(first.len) >= HEADER_BYTES
        {
            let whole = memory.read(first.addr, header.as_mut_bytes());
            return if whole {
                Ok(header)
            } else {
                Err(Refusal::BadAddress)
            };
        }
        gather(readable, 0, header.as_mut_bytes(), memory)?;
        Ok(header)
    }

    fn transfer(
        &mut self,
        sector: u64,
        segments: &[Segment],
        part: Part,
        limits: &Limits,
    ) -> Result<(u64, u64), Refusal> {
        let len = cut(segments, part, &mut self.data);
        // The used length that goes back counts the status byte too and has 32 bits.
        if len >= u64::from(u32::MAX) {
            return Err(Refusal::OutOfBounds);
        }
        let offset = bytes_at(sector, len, limits)?;
        Ok((offset, len))
    }

    fn read_ranges(
        &mut self,
        readable: &[Segment],
        memory: &impl Source,
        limits: &Limits,
        zeroing: bool,
    ) -> Result<(), Refusal> {
        let len = total(readable).saturating_sub(HEADER_BYTES);
        let len = usize::try_from(len).map_err(|_| Refusal::Malformed)?;
        if len == 0 || len % RANGE_BYTES != 0 || len / RANGE_BYTES > MAX_RANGES {
            return Err(Refusal::Malformed);
        }
        let mut bytes = [0; MAX_RANGES * RANGE_BYTES];
        let bytes = bytes.get_mut(..len).ok_or(Refusal::Malformed)?;
        gather(readable, HEADER_BYTES, bytes, memory)?;
        for entry in bytes.chunks_exact(RANGE_BYTES) {
            let entry =
                DiscardWriteZeroes::read_from_bytes(entry).map_err(|_| Refusal::Malformed)?;
            let known = if zeroing { RANGE_FLAG_UNMAP } else { 0 };
            if entry.flags.get() & !known != 0 {
                return Err(Refusal::Unsupported);
            }
            let sectors = entry.num_sectors.get();
            if sectors > MAX_RANGE_SECTORS {
                return Err(Refusal::OutOfBounds);
            }
            let len = u64::from(sectors) * SECTOR_SIZE;
            let offset = bytes_at(entry.sector.get(), len, limits)?;
            let unmap = !zeroing || entry.flags.get() & RANGE_FLAG_UNMAP != 0;
            self.ranges.push(Range { offset, len, unmap });
        }
        Ok(())
    }
}

/// Bytes that a GET_ID answer holds: the serial, padded with NULs.
pub(crate) fn id_bytes(serial: &str) -> [u8; ID_SIZE] {
    let mut id = [0; ID_SIZE];
    for (to, from) in id.iter_mut().zip(serial.bytes()) {
        *to = from;
    }
    id
}

/// Byte offset of `sector`, when `len` bytes from there lie within the disk and both are whole blocks.
fn bytes_at(sector: u64, len: u64, limits: &Limits) -> Result<u64, Refusal> {
    let offset = sector
        .checked_mul(SECTOR_SIZE)
        .ok_or(Refusal::OutOfBounds)?;
    let end = offset.checked_add(len).ok_or(Refusal::OutOfBounds)?;
    if end > limits.size {
        return Err(Refusal::OutOfBounds);
    }
    let mask = u64::from(limits.block_size) - 1;
    if (offset | len) & mask != 0 {
        return Err(Refusal::Unaligned);
    }
    Ok(offset)
}

/// Which bytes of a direction are data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    AfterHeader,
    AllButLast,
}

fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// Address of the last device-writable byte.
fn status_address(writable: &[Segment]) -> Option<u64> {
    let last = writable.iter().rev().find(|segment| segment.len != 0)?;
    last.addr.checked_add(u64::from(last.len) - 1)
}

/// Appends the data bytes of `segments` to `out`; returns how many.
fn cut(segments: &[Segment], part: Part, out: &mut Vec<Segment>) -> u64 {
    let all = total(segments);
    let (mut skip, keep) = match part {
        Part::AfterHeader => (HEADER_BYTES, all.saturating_sub(HEADER_BYTES)),
        Part::AllButLast => (0, all.saturating_sub(1)),
    };
    let mut left = keep;
    for segment in segments {
        let len = u64::from(segment.len);
        let drop = skip.min(len);
        skip -= drop;
        let take = (len - drop).min(left);
        left -= take;
        if take != 0 {
            out.push(Segment {
                addr: segment.addr.wrapping_add(drop),
                len: u32::try_from(take).unwrap_or(segment.len),
            });
        }
    }
    keep
}

/// Fills `out` from the bytes of `segments` that follow the first `skip`.
fn gather(
    segments: &[Segment],
    mut skip: u64,
    mut out: &mut [u8],
    memory: &impl Source,
) -> Result<(), Refusal> {
    for segment in segments {
        let drop = skip.min(u64::from(segment.len));
        skip -= drop;
        let left = usize::try_from(u64::from(segment.len) - drop).unwrap_or(usize::MAX);
        let (now, later) = out.split_at_mut(left.min(out.len()));
        if !now.is_empty() && !memory.read(segment.addr.wrapping_add(drop), now) {
            return Err(Refusal::BadAddress);
        }
        out = later;
    }
    if out.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Malformed)
    }
}

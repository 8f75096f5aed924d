//! Checks a request against the disk before anything is mapped or sent.
//!
//! Rule: a request that passes is inside the disk, aligned, and of a kind that the device offers.
use driver_platform::Direction;
use virtio_spec::block::request_type;

use crate::config::DiskInfo;
use crate::error::Refusal;
use crate::request::Operation;

/// A request in the device's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) request_type: u32,
    pub(crate) sector: u64,
    pub(crate) payload: Payload,
}

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    None,
    Data(Direction),
    /// A range descriptor; the sectors are all that are still to do.
    Range {
        sectors: u64,
        per_request: u32,
        flags: u32,
    },
    Serial,
}

/// `len` is the buffer's length, if there is a buffer.
pub(crate) fn plan(
    info: &DiskInfo,
    capacity: u64,
    operation: Operation,
    len: Option<u64>,
) -> Result<Plan, Refusal> {
    match operation {
        Operation::Read { sector } => {
            check_data(info, capacity, sector, len)?;
            Ok(Plan {
                request_type: request_type::IN,
                sector,
                payload: Payload::Data(Direction::FromDevice),
            })
        }
        Operation::Write { sector } => {
            writable(info)?;
            check_data(info, capacity, sector, len)?;
            Ok(Plan {
                request_type: request_type::OUT,
                sector,
                payload: Payload::Data(Direction::ToDevice),
            })
        }
        Operation::Raw {
            request_type,
            sector,
        } => plan_raw(request_type, sector, len),
        _ if len.is_some() => Err(Refusal::BadBuffer),
        Operation::Flush if !info.flush => Err(Refusal::Unsupported),
        Operation::Flush => Ok(Plan {
            request_type: request_type::FLUSH,
            sector: 0,
            payload: Payload::None,
        }),
        Operation::GetSerial => Ok(Plan {
            request_type: request_type::GET_ID,
            sector: 0,
            payload: Payload::Serial,
        }),
        Operation::Discard { sector, sectors } => {
            let range = Payload::Range {
                sectors,
                per_request: info.max_discard_sectors,
                flags: 0,
            };
            plan_range(info, capacity, request_type::DISCARD, sector, range)
        }
        Operation::WriteZeroes {
            sector,
            sectors,
            unmap,
        } => {
            let flags = u32::from(unmap && info.write_zeroes_may_unmap)
                * virtio_spec::block::RANGE_FLAG_UNMAP;
            let range = Payload::Range {
                sectors,
                per_request: info.max_write_zeroes_sectors,
                flags,
            };
            plan_range(info, capacity, request_type::WRITE_ZEROES, sector, range)
        }
    }
}

/// Whether the device reads or writes a raw request's buffer is in the type's lowest bit.
fn plan_raw(request_type: u32, sector: u64, len: Option<u64>) -> Result<Plan, Refusal> {
    let payload = match len {
        None => Payload::None,
        Some(0) => return Err(Refusal::Unaligned),
        Some(_) if request_type % 2 == 1 => Payload::Data(Direction::ToDevice),
        Some(_) => Payload::Data(Direction::FromDevice),
    };
    Ok(Plan {
        request_type,
        sector,
        payload,
    })
}

fn plan_range(
    info: &DiskInfo,
    capacity: u64,
    request_type: u32,
    sector: u64,
    payload: Payload,
) -> Result<Plan, Refusal> {
    let Payload::Range {
        sectors,
        per_request,
        ..
    } = payload
    else {
        return Err(Refusal::BadBuffer);
    };
    if per_request == 0 {
        return Err(Refusal::Unsupported);
    }
    writable(info)?;
    in_disk(info, capacity, sector, sectors)?;
    Ok(Plan {
        request_type,
        sector,
        payload,
    })
}

fn check_data(
    info: &DiskInfo,
    capacity: u64,
    sector: u64,
    len: Option<u64>,
) -> Result<(), Refusal> {
    let len = len.ok_or(Refusal::BadBuffer)?;
    if !len.is_multiple_of(512) {
        return Err(Refusal::Unaligned);
    }
    in_disk(info, capacity, sector, len / 512)
}

fn in_disk(info: &DiskInfo, capacity: u64, sector: u64, sectors: u64) -> Result<(), Refusal> {
    let block = info.sectors_per_block();
    if sectors == 0 || !sector.is_multiple_of(block) || !sectors.is_multiple_of(block) {
        return Err(Refusal::Unaligned);
    }
    match sector.checked_add(sectors) {
        Some(end) if end <= capacity => Ok(()),
        _ => Err(Refusal::OutOfRange),
    }
}

fn writable(info: &DiskInfo) -> Result<(), Refusal> {
    if info.read_only {
        Err(Refusal::ReadOnly)
    } else {
        Ok(())
    }
}

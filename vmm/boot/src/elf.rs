//! Loads a 64-bit ELF kernel and finds its PVH entry point.
//!
//! One rule: the image is untrusted; every offset is checked, sizes never wrap, loops are bounded by the file.

use crate::Error;
use crate::Result;
use crate::Sink;
use crate::pvh::BOOT_DATA_END;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const MACHINE_X86_64: u16 = 62;
const PROGRAM_HEADER: u64 = 56;
/// XEN_ELFNOTE_PHYS32_ENTRY: the PVH entry point.
const PHYS32_ENTRY: u32 = 18;

/// A kernel in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadedKernel {
    /// Where to start in 32-bit protected mode.
    pub entry: u32,
    /// The first address above all segments.
    pub end: u64,
}

struct Image<'a>(&'a [u8]);

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_len: u64,
    memory_len: u64,
    align: u64,
}

/// Copies the segments of `image` to their physical addresses and clears the rest of each.
pub fn load_kernel(image: &[u8], memory: &mut dyn Sink) -> Result<LoadedKernel> {
    let image = Image(image);
    let segments = image.segments()?;
    let entry = segments
        .iter()
        .filter(|segment| segment.kind == PT_NOTE)
        .find_map(|segment| image.pvh_entry(segment))
        .ok_or(Error::NoPvhEntry)?;
    let mut end = 0;
    let mut holds_entry = false;
    for segment in segments
        .iter()
        .filter(|s| s.kind == PT_LOAD && s.memory_len > 0)
    {
        let last = image.load(segment, memory)?;
        end = end.max(last);
        holds_entry |= (segment.address..last).contains(&u64::from(entry));
    }
    if !holds_entry {
        return Err(Error::BadElf("the PVH entry point lies in no segment"));
    }
    Ok(LoadedKernel { entry, end })
}

impl Image<'_> {
    fn segments(&self) -> Result<Vec<Segment>> {
        let ident = self.bytes(0, 6).ok_or(Error::NotElf)?;
        // Magic, 64 bits, little endian.
        if ident != b"\x7fELF\x02\x01" || self.u16(18) != Some(MACHINE_X86_64) {
            return Err(Error::NotElf);
        }
        let damaged = Error::BadElf("program headers lie outside the file");
        let header = || {
            let table = self.u64(32)?;
            let size = u64::from(self.u16(54)?);
            let count = u64::from(self.u16(56)?);
            Some((table, size, count))
        };
        let (table, size, count) = header().ok_or(Error::NotElf)?;
        if size < PROGRAM_HEADER {
            return Err(Error::BadElf("program headers are too small"));
        }
        (0..count)
            .map(|index| self.segment(table.checked_add(index.checked_mul(size)?)?))
            .collect::<Option<_>>()
            .ok_or(damaged)
    }

    fn segment(&self, at: u64) -> Option<Segment> {
        Some(Segment {
            kind: self.u32(at)?,
            offset: self.u64(at.checked_add(8)?)?,
            address: self.u64(at.checked_add(24)?)?,
            file_len: self.u64(at.checked_add(32)?)?,
            memory_len: self.u64(at.checked_add(40)?)?,
            align: self.u64(at.checked_add(48)?)?,
        })
    }

    /// Returns the segment's end.
    fn load(&self, segment: &Segment, memory: &mut dyn Sink) -> Result<u64> {
        let (address, len) = (segment.address, segment.memory_len);
        let outside = Error::KernelOutsideRam { address, len };
        let end = address.checked_add(len).ok_or(outside.clone())?;
        if address < BOOT_DATA_END {
            return Err(Error::KernelOnBootData { address, len });
        }
        let content = self
            .bytes(segment.offset, segment.file_len)
            .ok_or(Error::BadElf("a segment lies outside the file"))?;
        let rest = len.checked_sub(segment.file_len).ok_or(Error::BadElf(
            "a segment is longer in the file than in memory",
        ))?;
        let stored = memory.write(address, content)
            && (rest == 0 || memory.zero(address + segment.file_len, rest));
        if stored { Ok(end) } else { Err(outside) }
    }

    /// Looks through the notes of a segment.
    fn pvh_entry(&self, segment: &Segment) -> Option<u32> {
        let notes = Image(self.bytes(segment.offset, segment.file_len)?);
        // Notes are aligned to 4 bytes, or to 8 if the segment says so.
        let align = if segment.align == 8 { 8 } else { 4 };
        let mut at = 0u64;
        loop {
            let name_len = u64::from(notes.u32(at)?);
            let value_len = u64::from(notes.u32(at + 4)?);
            let kind = notes.u32(at + 8)?;
            let name = at + 12;
            let value = (name + name_len).next_multiple_of(align);
            if kind == PHYS32_ENTRY && notes.bytes(name, name_len) == Some(b"Xen\0") {
                return match value_len {
                    4 => notes.u32(value),
                    8 => u32::try_from(notes.u64(value)?).ok(),
                    _ => None,
                };
            }
            at = (value + value_len).next_multiple_of(align);
        }
    }

    fn bytes(&self, at: u64, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(at).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        self.0.get(start..end)
    }

    fn u16(&self, at: u64) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(at, 2)?.try_into().ok()?))
    }

    fn u32(&self, at: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(at, 4)?.try_into().ok()?))
    }

    fn u64(&self, at: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(at, 8)?.try_into().ok()?))
    }
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;

//! A recording of frames in a file (pcapng), turned on and off while frames pass.
//!
//! Rule: a recording costs the frame path a copy of at most the snap length, and the disk at most its limit; when it
//! cannot go on it stops and says so in its counters, and frames pass as before.

use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use host_os::sync::lock;

use crate::offload::Tail;

/// Bytes of a frame that are recorded unless asked otherwise: all of the largest.
pub const SNAP_LENGTH: usize = 65_557;
/// Bytes of a file unless asked otherwise.
pub const FILE_LIMIT: u64 = 1 << 30;

/// Bytes that are gathered before they are written.
const BUFFER: usize = 256 << 10;
/// Type of a file's first block, the same in either byte order.
const SECTION: u32 = 0x0a0d_0d0a;
const ETHERNET: u16 = 1;
/// What a record has beside the frame, with its one option.
const RECORD: usize = 28 + 8 + 4 + 4;

/// Which way a frame goes, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the guest.
    Received,
    /// From the guest.
    Sent,
}

/// What a recording has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Frames in the file or about to be.
    pub frames: u64,
    /// Frames that came while it was on, but the file was full or could not be written.
    pub lost: u64,
}

/// A recording, shared by all workers of a port.
#[derive(Debug)]
pub struct Capture {
    on: AtomicBool,
    /// Something waits to be written.
    unwritten: AtomicBool,
    frames: AtomicU64,
    lost: AtomicU64,
    snap_length: usize,
    file: Mutex<Output>,
}

#[derive(Debug)]
struct Output {
    file: File,
    buffer: Vec<u8>,
    /// Bytes that may still be gathered.
    left: u64,
}

impl Capture {
    /// Makes the file, readable by its owner only, or empties an earlier recording, and begins, unless `paused`. To be
    /// called before the process is confined.
    ///
    /// # Errors
    /// When the file cannot be made, or holds something else.
    pub fn create(path: &Path, paused: bool) -> io::Result<Self> {
        let ours = |head: &[u8]| head.starts_with(&SECTION.to_le_bytes());
        let file = host_os::output_file::open(path, "recording of frames (pcapng)", ours)?;
        file.set_len(0)?;
        Self::to_file(file, SNAP_LENGTH, FILE_LIMIT, paused)
    }

    /// Records to `file`: at most `snap_length` bytes of each frame, and `limit` bytes in all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn to_file(file: File, snap_length: usize, limit: u64, paused: bool) -> io::Result<Self> {
        let snap_length = snap_length.clamp(1, SNAP_LENGTH);
        let mut output = Output {
            file,
            buffer: Vec::with_capacity(BUFFER),
            left: limit,
        };
        output.begin(snap_length);
        output.write()?;
        Ok(Self {
            on: AtomicBool::new(!paused),
            unwritten: AtomicBool::new(false),
            frames: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            snap_length,
            file: Mutex::new(output),
        })
    }

    /// Whether frames are to be handed in. One load.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Turns recording on or off.
    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
        if !on {
            self.flush();
        }
    }

    /// What was recorded.
    pub fn captured(&self) -> Captured {
        Captured {
            frames: self.frames.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    /// Records a frame without its virtio-net header: the head that we own, and what follows it. `time` is since 1970.
    pub fn record<T: Tail + ?Sized>(
        &self,
        direction: Direction,
        time: Duration,
        head: &[u8],
        tail: &T,
    ) {
        if !self.is_on() {
            return;
        }
        let mut output = lock(&self.file);
        let kept = output.push(direction, time, head, tail, self.snap_length);
        if kept {
            self.frames.fetch_add(1, Ordering::Relaxed);
            self.unwritten.store(true, Ordering::Relaxed);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what was gathered; for workers that are about to sleep. One load when there is nothing.
    pub fn flush(&self) {
        if !self.unwritten.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut output = lock(&self.file);
        if let Err(error) = output.write() {
            tracing::warn!(%error, "Cannot write the capture file, recording ends");
            output.left = 0;
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Output {
    /// The section and its one interface: Ethernet, nanoseconds.
    fn begin(&mut self, snap_length: usize) {
        let mut header = Vec::with_capacity(64);
        header.extend(SECTION.to_le_bytes());
        header.extend(28u32.to_le_bytes());
        header.extend(0x1a2b_3c4d_u32.to_le_bytes());
        header.extend([1, 0, 0, 0]);
        header.extend(u64::MAX.to_le_bytes());
        header.extend(28u32.to_le_bytes());

        header.extend(1u32.to_le_bytes());
        header.extend(32u32.to_le_bytes());
        header.extend(ETHERNET.to_le_bytes());
        header.extend([0, 0]);
        header.extend(low32(snap_length as u64).to_le_bytes());
        // if_tsresol: 10^-9 seconds; end of options.
        header.extend([9, 0, 1, 0, 9, 0, 0, 0]);
        header.extend([0; 4]);
        header.extend(32u32.to_le_bytes());
        self.left = self.left.saturating_sub(header.len() as u64);
        self.buffer.extend(header);
    }

    /// Gathers one record; whether there was room.
    fn push<T: Tail + ?Sized>(
        &mut self,
        direction: Direction,
        time: Duration,
        head: &[u8],
        tail: &T,
        snap_length: usize,
    ) -> bool {
        let length = head.len().saturating_add(tail.len());
        let kept = length.min(snap_length);
        let padded = kept.next_multiple_of(4);
        let block = RECORD + padded;
        if self.left < block as u64 {
            self.left = 0;
            return false;
        }
        if self.buffer.len() + block > BUFFER
            && let Err(error) = self.write()
        {
            tracing::warn!(%error, "Cannot write the capture file, recording ends");
            self.left = 0;
            return false;
        }
        self.left -= block as u64;
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let buffer = &mut self.buffer;
        buffer.extend(6u32.to_le_bytes());
        buffer.extend(low32(block as u64).to_le_bytes());
        buffer.extend([0; 4]);
        buffer.extend(low32(nanoseconds >> 32).to_le_bytes());
        buffer.extend(low32(nanoseconds).to_le_bytes());
        buffer.extend(low32(kept as u64).to_le_bytes());
        buffer.extend(low32(length as u64).to_le_bytes());
        let start = buffer.len();
        let own = head.get(..kept).unwrap_or(head);
        buffer.extend_from_slice(own);
        buffer.resize(start + padded, 0);
        if let Some(rest) = buffer.get_mut(start + own.len()..start + kept) {
            // What is not there any more stays zero.
            let _ = tail.read(0, rest);
        }
        // epb_flags: 1 inbound, 2 outbound, as the guest's interface sees it; end of options.
        let way = match direction {
            Direction::Received => 1,
            Direction::Sent => 2,
        };
        buffer.extend([2, 0, 4, 0, way, 0, 0, 0]);
        buffer.extend([0; 4]);
        buffer.extend(low32(block as u64).to_le_bytes());
        true
    }

    fn write(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written
    }
}

/// The low half of a number, as a field of the file.
fn low32(number: u64) -> u32 {
    u32::try_from(number & 0xffff_ffff).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! The end of a network as a load sees it: through a daemon, or straight on the host's TAP.
//!
//! One rule: both send what is prepared beforehand, from as many buffers, and look only at the head of what comes, so
//! that the difference between the two is the daemon.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::uio::writev;
use virtio_spec::device_id;
use virtio_spec::feature;
use virtio_spec::net::feature as net;
use virtqueue::Segment;

use crate::wire::Wire;
use crate::wire::WireSpec;

/// Bytes of the virtio-net header.
pub const HEADER: usize = 12;
/// Bytes of a frame's head that a load gives and gets: Ethernet, IP and TCP headers with room to spare.
pub const HEAD: usize = 128;
/// Longest frame that is sent.
pub const FRAME_MAX: usize = 65_550;
/// Entries of the rings.
const QUEUE: u16 = 256;
/// Bytes of a receive buffer; frames span several.
const RECEIVE: usize = 4096;
/// Bytes between transmit buffers.
const TRANSMIT: usize = 68 << 10;
/// Most frames that are added before the daemon is told.
const BATCH: usize = 32;

/// A received frame: its first bytes, and its length without the virtio-net header.
pub struct Received {
    /// The first bytes, virtio-net header excluded.
    pub head: [u8; HEAD],
    /// Length of the whole frame in bytes.
    pub len: usize,
}

/// Sends and receives frames.
pub trait Port {
    /// Sends `head` followed by filler up to `len` bytes in all, behind the virtio-net header `header`. False: no room now.
    fn send(&mut self, header: &[u8; HEADER], head: &[u8], len: usize) -> Result<bool>;
    /// Makes what was sent go out.
    fn flush(&mut self) -> Result<()>;
    /// The next frame, if one waits.
    fn receive(&mut self) -> Result<Option<Received>>;
    /// Frames that left.
    fn sent(&self) -> u64;
    /// Whether a daemon is between it and the TAP.
    fn is_served(&self) -> bool;
}

/// Through a vhost-user daemon.
pub struct Daemon {
    wire: Wire,
    /// Transmit buffers that are free.
    free: Vec<u32>,
    /// Which buffer each chain id holds.
    slots: Vec<u32>,
    receive: Vec<u32>,
    unpublished: usize,
    sent: u64,
    received_at: u64,
}

impl Daemon {
    /// Connects to the daemon at `socket`.
    pub fn connect(socket: &Path, packed: bool) -> Result<Self> {
        let mut features = feature::VERSION_1
            | feature::RING_EVENT_IDX
            | net::CSUM
            | net::GUEST_CSUM
            | net::HOST_TSO4
            | net::GUEST_TSO4
            | net::MRG_RXBUF;
        if packed {
            features |= feature::RING_PACKED;
        }
        let queue = usize::from(QUEUE);
        let wire = Wire::connect(&WireSpec {
            socket,
            device_id: device_id::NET,
            config_len: 12,
            features,
            queue_count: 3,
            started: &[0, 1],
            queue_size: QUEUE,
            buffers: queue * (TRANSMIT + RECEIVE),
        })?;
        ensure!(
            wire.features & net::MRG_RXBUF != 0,
            "the daemon has no mergeable buffers"
        );
        let received_at = wire.buffers + (queue * TRANSMIT) as u64;
        let mut this = Self {
            wire,
            free: (0..u32::from(QUEUE)).collect(),
            slots: vec![0; queue],
            receive: vec![0; queue],
            unpublished: 0,
            sent: 0,
            received_at,
        };
        for slot in 0..u32::from(QUEUE) {
            this.post(slot)?;
        }
        this.wire.lanes[0].publish();
        Ok(this)
    }

    fn post(&mut self, slot: u32) -> Result<()> {
        let segment = Segment {
            addr: self.received_at + u64::from(slot) * RECEIVE as u64,
            len: RECEIVE as u32,
        };
        let id = self.wire.lanes[0].ring.add(&[], &[segment], None);
        let id = id.ok().context("the receive ring is full")?;
        self.receive[usize::from(id)] = slot;
        Ok(())
    }

    fn reclaim(&mut self) -> Result<()> {
        while let Some(used) = self.wire.lanes[1].ring.pop()? {
            self.free.push(self.slots[usize::from(used.id)]);
            self.sent += 1;
        }
        Ok(())
    }

    /// The next used receive buffer: its slot and the bytes in it.
    fn next_buffer(&mut self) -> Result<Option<(u32, usize)>> {
        let used = self.wire.lanes[0].ring.pop()?;
        Ok(used.map(|used| (self.receive[usize::from(used.id)], used.written as usize)))
    }
}

impl Port for Daemon {
    fn send(&mut self, header: &[u8; HEADER], head: &[u8], len: usize) -> Result<bool> {
        if self.free.is_empty() {
            self.reclaim()?;
        }
        let Some(slot) = self.free.pop() else {
            return Ok(false);
        };
        let addr = self.wire.buffers + u64::from(slot) * TRANSMIT as u64;
        self.wire.put(addr, header);
        self.wire.put(addr + HEADER as u64, head);
        let segment = Segment {
            addr,
            len: (HEADER + len) as u32,
        };
        let id = self.wire.lanes[1].ring.add(&[segment], &[], None);
        let id = id.ok().context("the transmit ring is full")?;
        self.slots[usize::from(id)] = slot;
        self.unpublished += 1;
        if self.unpublished == BATCH {
            self.flush()?;
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        if self.unpublished != 0 {
            self.unpublished = 0;
            self.wire.lanes[1].publish();
        }
        self.reclaim()
    }

    fn receive(&mut self) -> Result<Option<Received>> {
        let Some((first, written)) = self.next_buffer()? else {
            return Ok(None);
        };
        let mut bytes = [0; HEADER + HEAD];
        let addr = self.received_at + u64::from(first) * RECEIVE as u64;
        let known = written.min(bytes.len());
        self.wire.get(addr, &mut bytes[..known]);
        let buffers = u16::from_le_bytes([bytes[10], bytes[11]]);
        let mut len = written
            .checked_sub(HEADER)
            .context("a frame without header")?;
        self.post(first)?;
        for _ in 1..buffers {
            let next = self.next_buffer()?;
            let (slot, written) = next.context("a frame ends before its last buffer")?;
            len += written;
            self.post(slot)?;
        }
        self.wire.lanes[0].publish();
        let mut head = [0; HEAD];
        head.copy_from_slice(&bytes[HEADER..]);
        Ok(Some(Received { head, len }))
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn is_served(&self) -> bool {
        true
    }
}

/// Straight on a TAP: what the host itself reaches.
pub struct Tap {
    file: File,
    /// Transmit buffers, used in turn: one alone would never leave the CPU's cache.
    filler: Vec<u8>,
    next: usize,
    buffer: Vec<u8>,
    sent: u64,
}

impl Tap {
    /// On an attached TAP queue with vnet headers.
    pub fn new(file: File) -> Self {
        Self {
            file,
            // Written once, so that each has memory of its own.
            filler: vec![1; usize::from(QUEUE) * TRANSMIT],
            next: 0,
            buffer: vec![0; HEADER + FRAME_MAX],
            sent: 0,
        }
    }
}

impl Port for Tap {
    fn send(&mut self, header: &[u8; HEADER], head: &[u8], len: usize) -> Result<bool> {
        let rest = &self.filler[self.next * TRANSMIT..][..len - head.len()];
        let parts = [&header[..], head, rest].map(io::IoSlice::new);
        match writev(&self.file, &parts) {
            Ok(_) => {
                self.sent += 1;
                self.next = (self.next + 1) % usize::from(QUEUE);
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(false),
            Err(error) => Err(error).context("writing to the TAP"),
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<Received>> {
        match self.file.read(&mut self.buffer) {
            Ok(read) => {
                let mut head = [0; HEAD];
                let known = read.saturating_sub(HEADER).min(HEAD);
                head[..known].copy_from_slice(&self.buffer[HEADER..HEADER + known]);
                let len = read.saturating_sub(HEADER);
                Ok(Some(Received { head, len }))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("reading from the TAP"),
        }
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn is_served(&self) -> bool {
        false
    }
}

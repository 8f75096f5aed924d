//! The guest's side: memory in a memfd and driver queues on it. One rule: this is the friendly guest; hostile tests write
//! to the memory themselves.

use crate::DEADLINE;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use guest_memory::GuestMemory;
use guest_memory::RegionSpec;
use host_os::EventFd;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use vhost_user_frontend::session::Memory;
use vhost_user_frontend::session::Region;
use vhost_user_protocol::MemoryRegion;
use virtio_spec::feature;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::Rings;
use virtqueue::Segment;

/// Where memory starts in the guest's and in the pretended front-end's address space.
const GUEST_ADDR: u64 = 0x10_0000;
const USER_ADDR: u64 = 0x7f00_0000_0000;
/// Room for each queue's ring areas.
const RING_ROOM: u64 = 0x2_0000;
/// Where request buffers start.
const BUFFERS: u64 = 0x80_0000;

/// One region of guest memory.
pub struct Guest {
    /// The region's file.
    pub file: OwnedFd,
    /// Its geometry.
    pub spec: RegionSpec,
    /// Our own mapping of it.
    pub memory: GuestMemory,
}

impl Guest {
    /// 16 MiB at 1 MiB.
    pub fn new() -> Result<Self> {
        Self::with_region(GUEST_ADDR, USER_ADDR, 16 << 20)
    }

    /// A region of `size` bytes, at most 16 MiB worth of rings and buffers being used of it.
    pub fn with_region(guest_addr: u64, user_addr: u64, size: u64) -> Result<Self> {
        let file = host_os::memfd::create("guest", size)?;
        let spec = RegionSpec {
            guest_addr,
            size,
            user_addr,
            mmap_offset: 0,
        };
        let memory = GuestMemory::new(vec![(spec, file.try_clone()?)])?;
        Ok(Self { file, spec, memory })
    }

    /// Its memory as our own front-end takes it.
    pub fn for_own_frontend(&self) -> Result<Memory> {
        let region = Region {
            guest_addr: self.spec.guest_addr,
            size: self.spec.size,
            user_addr: self.spec.user_addr,
            file: Arc::new(File::from(self.file.try_clone()?)),
            offset: self.spec.mmap_offset,
        };
        Ok(Memory::new(vec![region])?)
    }

    /// The region as messages carry it.
    pub fn region(&self) -> MemoryRegion {
        let RegionSpec {
            guest_addr,
            size,
            user_addr,
            mmap_offset,
        } = self.spec;
        MemoryRegion {
            guest_addr,
            size,
            user_addr,
            mmap_offset,
        }
    }

    /// Guest address of buffer `index`, 4 KiB each.
    pub fn buffer(&self, index: u64) -> u64 {
        self.spec.guest_addr + BUFFERS + index * 4096
    }

    /// A driver queue on freshly zeroed rings.
    pub fn queue(&self, index: u16, shape: QueueShape) -> Result<GuestQueue> {
        GuestQueue::new(self, index, shape)
    }
}

/// Parameters of a driver queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueShape {
    /// Entries.
    pub size: u16,
    /// Virtio features; ring format and suppression follow from them.
    pub features: u64,
}

impl QueueShape {
    /// A split ring with EVENT_IDX.
    pub const SPLIT: Self = Self {
        size: 64,
        features: feature::VERSION_1 | feature::RING_EVENT_IDX,
    };
    /// A packed ring with EVENT_IDX.
    pub const PACKED: Self = Self {
        size: 64,
        features: feature::VERSION_1 | feature::RING_EVENT_IDX | feature::RING_PACKED,
    };
}

impl QueueShape {
    /// The vring base of a ring that was never used.
    pub fn fresh_base(&self) -> u32 {
        let packed = self.features & feature::RING_PACKED != 0;
        if packed { 0x8000_8000 } else { 0 }
    }
}

/// A driver queue with its eventfds.
pub struct GuestQueue {
    /// Its index.
    pub index: u16,
    /// The driver half.
    pub driver: DriverQueue,
    /// Front-end addresses of descriptor, driver and device area.
    pub user_areas: [u64; 3],
    /// Guest addresses of the same.
    pub guest_areas: [u64; 3],
    /// Doorbell.
    pub kick: EventFd,
    /// Interrupt.
    pub call: EventFd,
    /// Error signal.
    pub err: EventFd,
    /// What it was made with.
    pub shape: QueueShape,
}

impl GuestQueue {
    fn new(guest: &Guest, index: u16, shape: QueueShape) -> Result<Self> {
        let config = QueueConfig::from_features(shape.size, shape.features)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let layout = config.layout();
        let base = u64::from(index) * RING_ROOM;
        let driver_at = base + (layout.descriptors.size as u64).next_multiple_of(4096);
        let device_at = driver_at + (layout.driver.size as u64).next_multiple_of(4096);
        let offsets = [base, driver_at, device_at];
        let user_areas = offsets.map(|offset| guest.spec.user_addr + offset);
        let find = |at: usize, len: usize| {
            let addr = user_areas.get(at).copied().unwrap_or(0);
            guest
                .memory
                .user_ring(addr, len)
                .context("rings do not fit the region")
        };
        let rings = Rings {
            descriptors: find(0, layout.descriptors.size)?,
            driver: find(1, layout.driver.size)?,
            device: find(2, layout.device.size)?,
        };
        let driver = DriverQueue::new(config, rings).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self {
            index,
            driver,
            user_areas,
            guest_areas: offsets.map(|offset| guest.spec.guest_addr + offset),
            kick: EventFd::new()?,
            call: EventFd::new()?,
            err: EventFd::new()?,
            shape,
        })
    }

    /// Adds an echo request of `data` in buffer `slot`, its answer going to buffer `slot + 1`.
    pub fn add(&mut self, guest: &Guest, slot: u64, data: &[u8]) -> Result<u16> {
        guest.memory.write(guest.buffer(slot), data)?;
        let len = data.len() as u32;
        let readable = [Segment {
            addr: guest.buffer(slot),
            len,
        }];
        let writable = [Segment {
            addr: guest.buffer(slot + 1),
            len,
        }];
        let id = self.driver.add(&readable, &writable, None);
        id.map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Publishes and kicks if the device wants it.
    pub fn publish(&mut self) {
        if self.driver.publish() {
            self.kick.notify();
        }
    }

    /// The next completion that is there already.
    pub fn pop(&mut self) -> Result<Option<virtqueue::Used>> {
        self.driver
            .pop()
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Waits for `count` completions, by interrupt as a driver does.
    pub fn wait(&mut self, count: usize) -> Result<Vec<(u16, u32)>> {
        let deadline = Instant::now() + DEADLINE;
        let mut done = Vec::new();
        while done.len() < count {
            let used = self
                .driver
                .pop()
                .map_err(|error| anyhow::anyhow!("{error}"))?;
            if let Some(used) = used {
                done.push((used.id, used.written));
                continue;
            }
            if self.driver.arm() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "{} of {count} completions came in time",
                done.len()
            );
            wait_readable(&self.call, left)?;
            self.call.drain();
        }
        Ok(done)
    }

    /// One echo round trip, checked.
    pub fn echo(&mut self, guest: &Guest, data: &[u8]) -> Result<()> {
        let id = self.add(guest, 0, data)?;
        self.publish();
        let done = self.wait(1)?;
        ensure!(
            done == [(id, data.len() as u32)],
            "unexpected completion {done:?}"
        );
        let mut answer = vec![0; data.len()];
        guest.memory.read(guest.buffer(1), &mut answer)?;
        ensure!(answer == data, "the answer differs");
        Ok(())
    }
}

fn wait_readable(fd: &EventFd, time: std::time::Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    nix::poll::poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout)?;
    Ok(())
}

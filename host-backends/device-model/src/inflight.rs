//! The in-flight area shared with the front-end (the vhost-user document, "Inflight I/O tracking"): one region per
//! queue. One rule: the front-end and a former life of ours wrote these bytes; nothing in them is believed unchecked.

use crate::DeviceRecord;
use crate::Error;
use guest_memory::SharedMemory;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vhost_user_protocol::inflight::PackedRegion;
use vhost_user_protocol::inflight::REGION_ALIGN;
use vhost_user_protocol::inflight::SplitRegion;
use vhost_user_protocol::inflight::VERSION_OFFSET;
use virtqueue::Format;

/// The whole area, mapped.
#[derive(Debug, Clone)]
pub struct InflightRegion {
    memory: Arc<SharedMemory>,
    num_queues: u16,
    queue_size: u16,
    device: Option<DeviceRecord>,
}

/// A new area, for the front-end to keep.
#[derive(Debug)]
pub struct NewInflight {
    /// The file.
    pub fd: OwnedFd,
    /// Where in it the area begins; before it stands the device's record, if it has one.
    pub offset: u64,
    /// Bytes of the area.
    pub size: u64,
}

impl InflightRegion {
    /// Bytes for `num_queues` queues of `queue_size` entries. `None` as format means "not known yet": enough for both.
    pub fn size(num_queues: u16, queue_size: u16, format: Option<Format>) -> u64 {
        u64::from(num_queues) * stride(queue_size, format.unwrap_or(Format::Packed))
    }

    /// Makes a new, uninitialised (all zero) area, with room for `state` bytes of the device's own.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn create(
        num_queues: u16,
        queue_size: u16,
        format: Option<Format>,
        state: u32,
    ) -> Result<NewInflight, Error> {
        let size = Self::size(num_queues, queue_size, format);
        let offset = DeviceRecord::room(state);
        let (_, fd) = SharedMemory::create("vhost-inflight", offset + size)?;
        if offset != 0 {
            DeviceRecord::create(fd.as_fd(), offset)?;
        }
        Ok(NewInflight { fd, offset, size })
    }

    /// Maps the area that the front-end kept over our restart.
    ///
    /// # Errors
    /// When the file is too small for what the front-end says about it, or that makes no sense.
    pub fn from_fd(
        fd: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        num_queues: u16,
        queue_size: u16,
    ) -> Result<Self, Error> {
        if num_queues == 0 || queue_size == 0 {
            return Err(Error::Record("no queues, or queues without entries"));
        }
        if !offset.is_multiple_of(REGION_ALIGN) {
            return Err(Error::Record("offset is not aligned"));
        }
        if size < Self::size(num_queues, queue_size, Some(Format::Split)) {
            return Err(Error::Record("area is too small for its queues"));
        }
        // Only what the layout can use is mapped, so that a huge announced size costs nothing.
        let size = size.min(Self::size(num_queues, queue_size, None));
        let memory = SharedMemory::from_fd(fd, offset, size)?;
        Ok(Self {
            memory: Arc::new(memory),
            num_queues,
            queue_size,
            device: DeviceRecord::in_front(fd, offset)?,
        })
    }

    /// Where the device keeps a state of its own, if there is room for one.
    pub fn device(&self) -> Option<DeviceRecord> {
        self.device.clone()
    }

    /// Whether the front-end truncated the area under us.
    pub fn poisoned(&self) -> bool {
        let device = self.device.as_ref();
        self.memory.poisoned() || device.is_some_and(DeviceRecord::poisoned)
    }

    /// Forgets everything recorded of queues; for a device reset, with no queue running.
    pub fn wipe(&self) {
        for at in (0..self.memory.len()).step_by(8) {
            self.memory
                .store_u64(at, 0, std::sync::atomic::Ordering::Release);
        }
    }

    /// The region of queue `index`.
    ///
    /// # Errors
    /// When the area has no such region.
    pub fn record(&self, index: u16, format: Format) -> Result<QueueRecord, Error> {
        if index >= self.num_queues {
            return Err(Error::Record("area has no region for this queue"));
        }
        let stride = stride(self.queue_size, format);
        let base = u64::from(index) * stride;
        if base + stride > self.memory.len() as u64 {
            return Err(Error::Record("area is too small for this ring format"));
        }
        let base = usize::try_from(base).map_err(|_| Error::Record("area is too large"))?;
        let len = stride as usize;
        Ok(QueueRecord {
            memory: self.memory.clone(),
            base,
            len,
            entries: self.queue_size,
        })
    }
}

fn stride(queue_size: u16, format: Format) -> u64 {
    match format {
        Format::Split => SplitRegion::bytes(queue_size),
        Format::Packed => PackedRegion::bytes(queue_size),
    }
}

/// One queue's region.
#[derive(Debug, Clone)]
pub struct QueueRecord {
    pub(crate) memory: Arc<SharedMemory>,
    base: usize,
    len: usize,
    pub(crate) entries: u16,
}

impl QueueRecord {
    /// Marks the record as uninitialised: nothing is in flight, and from now on the vring base that the front-end was
    /// told counts, not the record. For an orderly stop of the queue.
    pub fn forget(&self) {
        let version = self.at(VERSION_OFFSET);
        self.memory
            .store_u16(version, 0, std::sync::atomic::Ordering::Release);
    }

    /// Offset in the area of the field at `at` of this region; for a field outside it, one that every access ignores.
    #[inline]
    pub(crate) fn at(&self, at: usize) -> usize {
        if at < self.len {
            self.base + at
        } else {
            usize::MAX
        }
    }
}

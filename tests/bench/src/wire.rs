//! A driver without a virtual machine: queues of ours on shared memory, served by a vhost-user daemon.
//!
//! One rule: it speaks to the daemon as a VMM does, and no measured operation passes through anything but the rings.
#![expect(unsafe_code, reason = "rings in memory shared with another process")]

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use host_os::EventFd;
use vhost_user_frontend::session::Memory;
use vhost_user_frontend::session::QueueSetup;
use vhost_user_frontend::session::Region;
use vhost_user_frontend::session::Session;
use vhost_user_frontend::session::SessionSpec;
use virtio_spec::feature;
use virtqueue::DriverQueue;
use virtqueue::QueueConfig;
use virtqueue::RingMemory;
use virtqueue::Rings;

use crate::memory::SharedMemory;

/// Room for the ring of each queue, in bytes.
const RING_ROOM: usize = 128 << 10;
/// How long a daemon may take to listen.
const CONNECT: Duration = Duration::from_secs(10);

/// What to connect to, and how.
pub struct WireSpec<'a> {
    /// The daemon's socket.
    pub socket: &'a Path,
    /// Virtio device id.
    pub device_id: u32,
    /// Bytes of configuration space to read.
    pub config_len: u32,
    /// Features to accept, of those that are offered.
    pub features: u64,
    /// Queues of the device; those whose number stands in `started` are started.
    pub queue_count: u16,
    /// Queues to start.
    pub started: &'a [u16],
    /// Entries of each queue.
    pub queue_size: u16,
    /// Bytes of memory for buffers.
    pub buffers: usize,
}

/// One queue: the driver's half, and how the daemon is told. Nobody waits for its interrupts.
pub struct Lane {
    /// The ring.
    pub ring: DriverQueue,
    /// Tells the daemon.
    pub kick: Arc<EventFd>,
}

impl Lane {
    /// Shows the daemon what was added and tells it if it wants that.
    #[inline]
    pub fn publish(&mut self) {
        if self.ring.publish() {
            self.kick.notify();
        }
    }
}

/// A connected, running device.
pub struct Wire {
    /// Queues stop when it ends.
    _session: Session,
    /// The queues that were started, in the order asked for.
    pub lanes: Vec<Lane>,
    /// Features that both sides accepted.
    pub features: u64,
    /// First address for buffers, in the device's terms.
    pub buffers: u64,
    /// Last field: rings and buffers lie in it.
    pub memory: SharedMemory,
}

impl Wire {
    /// Connects, negotiates and starts.
    pub fn connect(spec: &WireSpec<'_>) -> Result<Self> {
        let rings = RING_ROOM * spec.started.len();
        let memory = SharedMemory::new(rings + spec.buffers)?;
        // SAFETY: the descriptor is open as long as `memory` is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(memory.fd()) };
        let file = File::from(fd.try_clone_to_owned()?);
        let region = Region {
            guest_addr: 0,
            size: memory.len() as u64,
            user_addr: memory.address() as u64,
            file: Arc::new(file),
            offset: 0,
        };
        let mut session = SessionSpec::new(spec.socket, spec.device_id);
        session.queue_count = spec.queue_count;
        session.queue_size_max = spec.queue_size;
        session.config_len = spec.config_len;
        session.connect_timeout = CONNECT;
        let session = Session::connect(session, Memory::new(vec![region])?, Arc::new(()))
            .with_context(|| format!("no daemon at {}", spec.socket.display()))?;
        let features = spec.features & session.offered();
        ensure!(
            features & feature::VERSION_1 != 0,
            "the daemon offers no modern device"
        );
        let mut lanes = Vec::new();
        let mut setups = Vec::new();
        for (at, index) in spec.started.iter().enumerate() {
            let (lane, setup) = lane(&memory, at * RING_ROOM, *index, spec.queue_size, features)?;
            lanes.push(lane);
            setups.push(setup);
        }
        session.start(features, setups)?;
        Ok(Self {
            _session: session,
            lanes,
            features,
            buffers: rings as u64,
            memory,
        })
    }

    /// Writes to buffer memory at device address `addr`.
    #[inline]
    pub fn put(&self, addr: u64, bytes: &[u8]) {
        let room = self.memory.len().saturating_sub(addr as usize);
        assert!(bytes.len() <= room, "inside the memory");
        // SAFETY: inside the mapping by the check above, and no reference to it exists.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.memory.at(addr as usize),
                bytes.len(),
            );
        }
    }

    /// Reads buffer memory at device address `addr`.
    #[inline]
    pub fn get(&self, addr: u64, out: &mut [u8]) {
        let room = self.memory.len().saturating_sub(addr as usize);
        assert!(out.len() <= room, "inside the memory");
        // SAFETY: as in `put`, the other way round.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.memory.at(addr as usize),
                out.as_mut_ptr(),
                out.len(),
            );
        }
    }
}

fn lane(
    memory: &SharedMemory,
    start: usize,
    index: u16,
    size: u16,
    features: u64,
) -> Result<(Lane, QueueSetup)> {
    let config = QueueConfig::from_features(size, features)?;
    let layout = config.layout();
    let driver = (start + layout.descriptors.size).next_multiple_of(4096);
    let device = (driver + layout.driver.size).next_multiple_of(4096);
    ensure!(
        device + layout.device.size <= start + RING_ROOM,
        "a ring of {size} entries needs more room"
    );
    let span = |at: usize, len: usize| -> Result<RingMemory> {
        let ptr = NonNull::new(memory.at(at)).context("a null mapping")?;
        // SAFETY: inside the mapping by the check above; it lives as long as the `Wire`.
        Ok(unsafe { RingMemory::new(ptr, len) })
    };
    let rings = Rings {
        descriptors: span(start, layout.descriptors.size)?,
        driver: span(driver, layout.driver.size)?,
        device: span(device, layout.device.size)?,
    };
    let kick = Arc::new(EventFd::new()?);
    let call = Arc::new(EventFd::new()?);
    let setup = QueueSetup {
        index,
        size,
        descriptors: start as u64,
        driver: driver as u64,
        device: device as u64,
        kick: kick.clone(),
        call,
        base: None,
    };
    let ring = DriverQueue::new(config, rings)?;
    Ok((Lane { ring, kick }, setup))
}

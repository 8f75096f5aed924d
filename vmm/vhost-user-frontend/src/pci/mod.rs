//! The virtio-pci transport (virtio 1.4, 4.1), modern only, over a vhost-user session. Rule: registers are a pure
//! state machine ([`registers`]); only [`VhostUserDevice`] turns what it says into requests, doorbells and interrupts.

mod core;
mod device;
mod layout;
pub mod registers;

use std::fs::File;
use std::mem::offset_of;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use machine::Ram;
use virtio_spec::balloon;
use virtio_spec::block;
use virtio_spec::device_id;
use virtio_spec::feature;
use virtio_spec::net;

use crate::Error;
use crate::Result;
use crate::session::Memory;
use crate::session::Region;
use crate::session::SessionSpec;

pub use self::device::VhostUserDevice;

/// Bytes of `struct virtio_blk_config` up to and with `write_zeroes_may_unmap` and its padding (virtio 1.4, 5.2.4);
/// every backend has these, later fields are of features that few offer.
const BLOCK_CONFIG_LEN: u32 = offset_of!(block::Config, max_secure_erase_sectors) as u32;

/// Bytes of `struct virtio_net_config` (virtio 1.4, 5.1.4).
const NET_CONFIG_LEN: u32 = size_of::<net::Config>() as u32;
/// Without the tunnel types, and with nothing but address, status, pairs and MTU.
const NET_CONFIG_SHORTER: &[u32] = &[net::CONFIG_SIZE_UNTUNNELED as u32, 12];
/// Bytes of `struct virtio_balloon_config` (virtio 1.4, 5.5.4).
const BALLOON_CONFIG_LEN: u32 = size_of::<balloon::Config>() as u32;

/// One device, as the operator describes it.
#[derive(Debug, Clone)]
pub struct FrontendSpec {
    /// Socket on which the backend listens.
    pub socket: PathBuf,
    /// Virtio device id (2 for a disk).
    pub device_id: u32,
    /// Most queues; the backend may have fewer.
    pub queues: u16,
    /// Largest size of each queue, a power of two.
    pub queue_size: u16,
    /// Bytes of device configuration.
    pub config_len: u32,
    /// Lengths to try, in this order, when the backend refuses `config_len`.
    pub config_shorter: &'static [u32],
    /// The configuration of a device whose backend has none.
    pub config_own: Option<Vec<u8>>,
    /// MTU to tell a network backend.
    pub mtu: Option<u16>,
    /// Mask of virtio features to let through to the guest.
    pub features: u64,
    /// How long to wait for the backend to listen.
    pub connect_timeout: Duration,
}

impl FrontendSpec {
    /// A disk with one queue of 256 entries.
    pub fn block(socket: impl Into<PathBuf>) -> Self {
        Self::new(socket.into(), device_id::BLOCK, 1, BLOCK_CONFIG_LEN)
    }

    /// A network interface with all the queue pairs that the backend has: which queue is the control queue hangs on
    /// their number (virtio 1.4, 5.1.2), so that there cannot be fewer here than there.
    ///
    /// `mac` is the address with a backend that has no configuration space, such as DPDK's or passt's; any other has its
    /// own.
    pub fn net(socket: impl Into<PathBuf>, mac: [u8; 6]) -> Self {
        let mut own = mac.to_vec();
        own.resize(size_of::<net::Config>(), 0);
        Self {
            config_own: Some(own),
            config_shorter: NET_CONFIG_SHORTER,
            ..Self::new(socket.into(), device_id::NET, 255, NET_CONFIG_LEN)
        }
    }

    /// A memory balloon with all its five queues (virtio 1.4, 5.5.2).
    pub fn balloon(socket: impl Into<PathBuf>) -> Self {
        let queues = balloon::queue::MAX;
        Self {
            queue_size: 128,
            // Backends without FREE_PAGE_HINT may have two fields only.
            config_shorter: &[8],
            ..Self::new(
                socket.into(),
                device_id::BALLOON,
                queues,
                BALLOON_CONFIG_LEN,
            )
        }
    }

    fn new(socket: PathBuf, device_id: u32, queues: u16, config_len: u32) -> Self {
        Self {
            socket,
            device_id,
            queues,
            queue_size: 256,
            config_len,
            config_shorter: &[],
            config_own: None,
            mtu: None,
            // A doorbell has no use for the data, which costs the driver a moment to compute.
            features: !feature::NOTIFICATION_DATA,
            connect_timeout: Duration::from_secs(10),
        }
    }

    pub(crate) fn session(&self) -> Result<SessionSpec> {
        if !self.queue_size.is_power_of_two() || self.queue_size > 32768 {
            return Err(Error::Spec("a queue size is a power of two up to 32768"));
        }
        if self.queues > layout::QUEUES_MAX {
            return Err(Error::Spec("the BAR has room for 1023 queues"));
        }
        if !(1..=63).contains(&self.device_id) {
            return Err(Error::Spec("a virtio device id is 1 to 63"));
        }
        Ok(SessionSpec {
            queue_count: self.queues,
            queue_size_max: self.queue_size,
            config_len: self.config_len,
            config_shorter: self.config_shorter,
            config_own: self.config_own.clone(),
            mtu: self.mtu,
            connect_timeout: self.connect_timeout,
            ..SessionSpec::new(&self.socket, self.device_id)
        })
    }
}

/// The machine's RAM as the backend is to see it.
pub fn shared_memory(ram: &Ram) -> Result<Memory> {
    let file = ram.fd().try_clone_to_owned();
    let file = file.map_err(|source| Error::Resource {
        what: "a second descriptor of guest memory",
        source,
    })?;
    let file = Arc::new(File::from(file));
    let region = |region: &machine::RamRegion| Region {
        guest_addr: region.guest_addr,
        size: region.size,
        user_addr: region.host_addr,
        file: Arc::clone(&file),
        offset: region.fd_offset,
    };
    Memory::new(ram.regions().iter().map(region).collect())
}

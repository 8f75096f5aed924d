//! What the owner of a session tells it, and hears from it. Rule: plain data, and one trait whose methods may be
//! called at any time.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host_os::EventFd;
use vhost_user_protocol::LogBase;
use vhost_user_protocol::feature::protocol;

use crate::Error;

/// Protocol features that this front-end can make use of.
pub const PROTOCOL_FEATURES: u64 = protocol::MQ
    | protocol::LOG_SHMFD
    | protocol::REPLY_ACK
    | protocol::BACKEND_REQ
    | protocol::CONFIG
    | protocol::INFLIGHT_SHMFD
    | protocol::RESET_DEVICE
    | protocol::NET_MTU
    | protocol::RARP
    | protocol::CONFIGURE_MEM_SLOTS
    | protocol::STATUS
    | protocol::DEVICE_STATE;

/// What the session needs to know of the device and how patient it is.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    /// Socket on which the backend listens.
    pub socket: PathBuf,
    /// Virtio device id, for the check that a returning backend is still the same device.
    pub device_id: u32,
    /// Most queues wanted, at most 255; [`super::Session::queue_count`] says how many the backend has.
    pub queue_count: u16,
    /// Largest queue size; the in-flight record is sized for it.
    pub queue_size_max: u16,
    /// Bytes of configuration space to fetch; 0 for none.
    pub config_len: u32,
    /// Lengths to try, in this order, when the backend refuses `config_len`.
    pub config_shorter: &'static [u32],
    /// The configuration of a device whose backend has none (CONFIG): a network that only moves frames.
    pub config_own: Option<Vec<u8>>,
    /// MTU to tell a network backend, which must then take it.
    pub mtu: Option<u16>,
    /// Mask of protocol features to use, normally [`PROTOCOL_FEATURES`].
    pub protocol_features: u64,
    /// How long [`super::Session::connect`] waits for a backend to listen.
    pub connect_timeout: Duration,
    /// How long a reply may take.
    pub reply_timeout: Duration,
    /// How long the backend may take to finish requests in flight when it is stopped.
    pub drain_timeout: Duration,
    /// Longest pause between two attempts to reconnect; the first comes at once.
    pub reconnect_pause_max: Duration,
}

impl SessionSpec {
    /// A session with default patience for one queue.
    pub fn new(socket: impl Into<PathBuf>, device_id: u32) -> Self {
        Self {
            socket: socket.into(),
            device_id,
            queue_count: 1,
            queue_size_max: 256,
            config_len: 0,
            config_shorter: &[],
            config_own: None,
            mtu: None,
            protocol_features: PROTOCOL_FEATURES,
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(60),
            reconnect_pause_max: Duration::from_millis(500),
        }
    }
}

/// What happens on the backend's side. Called from the session's own thread, with no lock of the session held;
/// a method may call the session, and must not wait for another thread that does.
pub trait Events: Send + Sync {
    /// The configuration space changed to `config`.
    fn config_changed(&self, _config: &[u8]) {}
    /// The device cannot go on until the driver resets it.
    fn needs_reset(&self, reason: &Error) {
        tracing::error!(%reason, "the device needs a reset");
    }
    /// The backend went away. The session reconnects on its own.
    fn disconnected(&self) {}
    /// A backend is there again, and every started queue has been handed to it.
    fn reconnected(&self) {}
}

/// Takes no notice.
impl Events for () {}

/// One queue, as its driver set it up.
#[derive(Debug, Clone)]
pub struct QueueSetup {
    /// Queue number.
    pub index: u16,
    /// Entries.
    pub size: u16,
    /// Guest address of the descriptor area (packed: the ring).
    pub descriptors: u64,
    /// Guest address of the available ring (packed: driver event suppression).
    pub driver: u64,
    /// Guest address of the used ring (packed: device event suppression).
    pub device: u64,
    /// The driver's notifications.
    pub kick: Arc<EventFd>,
    /// The device's interrupts.
    pub call: Arc<EventFd>,
    /// Where to begin: `None` for a fresh ring, or what [`super::Session::stop`] returned.
    pub base: Option<u32>,
}

/// How a session fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether a backend is connected.
    pub connected: bool,
    /// Queues that a driver has started.
    pub queues: usize,
    /// How often the session has reconnected.
    pub reconnects: u64,
    /// Why the last attempt to reconnect failed; `None` when connected.
    pub last_error: Option<String>,
}

/// A dirty log: a shared file with one bit for each 4 KiB page of guest memory.
#[derive(Debug, Clone)]
pub struct DirtyLog {
    /// The file.
    pub file: Arc<File>,
    /// Offset of the log in bytes.
    pub offset: u64,
    /// Length of the log in bytes.
    pub size: u64,
}

impl DirtyLog {
    pub(super) fn describe(&self) -> LogBase {
        LogBase {
            size: self.size,
            offset: self.offset,
        }
    }
}

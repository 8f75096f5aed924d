//! Numbers of a server. One rule: they can be read at any time without disturbing a queue.

use crate::rate_limit::RateLimit;
use crate::state_transfer::Helpers;
use device_model::QueueCounters;
use device_model::QueueStatistics;
use host_os::sync::lock;
use metrics::CounterSet as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

metrics::metrics! {
    /// What front-ends have done at a server's socket.
    pub struct SessionStatistics {
        /// Whether a front-end is connected.
        connected: bool as gauge,
        /// Whether another front-end came while the present one is served, which it has to wait for.
        waiting: bool as gauge,
        /// Sessions begun.
        sessions: u64 as counter,
        /// Sessions during which another front-end came and had to wait.
        waits: u64 as counter,
        /// Messages received whole.
        messages: u64 as counter,
        /// Messages refused.
        message_errors: u64 as counter,
    }
}

/// Numbers of a server at one moment.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Of its socket.
    pub session: SessionStatistics,
    /// By queue.
    pub queues: Vec<QueueStatistics>,
}

/// Where sessions count; outlives them.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) connected: AtomicBool,
    pub(crate) waiting: AtomicBool,
    pub(crate) sessions: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) message_errors: AtomicU64,
    /// A queue's handler is lost with what it held: only another process can serve the device.
    pub(crate) lost: AtomicBool,
    pub(crate) queues: Vec<Arc<QueueCounters>>,
    pub(crate) helpers: Helpers,
    log_limit: Mutex<RateLimit>,
}

impl Shared {
    pub(crate) fn new(queues: u16) -> Self {
        Self {
            connected: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            sessions: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            message_errors: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            helpers: Helpers::default(),
            log_limit: Mutex::new(RateLimit::new()),
            queues: (0..queues)
                .map(|_| Arc::new(QueueCounters::default()))
                .collect(),
        }
    }

    /// Whether a line that the front-end caused may be logged; how many were not before it. The limit is the server's,
    /// so that connecting anew does not lift it.
    pub(crate) fn admit_log(&self) -> Option<u64> {
        lock(&self.log_limit).admit()
    }

    pub(crate) fn snapshot(&self) -> Statistics {
        Statistics {
            session: SessionStatistics {
                connected: self.connected.load(Ordering::Relaxed),
                waiting: self.waiting.load(Ordering::Relaxed),
                sessions: self.sessions.load(Ordering::Relaxed),
                waits: self.waits.load(Ordering::Relaxed),
                messages: self.messages.load(Ordering::Relaxed),
                message_errors: self.message_errors.load(Ordering::Relaxed),
            },
            queues: self.queues.iter().map(|counters| counters.sums()).collect(),
        }
    }
}

//! Numbers of a server. One rule: they can be read at any time without disturbing a queue.

use device_model::QueueCounters;
use device_model::QueueStatistics;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Numbers of a server at one moment.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Whether a front-end is connected.
    pub connected: bool,
    /// Sessions begun.
    pub sessions: u64,
    /// Messages received whole.
    pub messages: u64,
    /// Messages refused.
    pub message_errors: u64,
    /// By queue.
    pub queues: Vec<QueueStatistics>,
}

/// Where sessions count; outlives them.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) connected: AtomicBool,
    pub(crate) sessions: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) message_errors: AtomicU64,
    pub(crate) queues: Vec<Arc<QueueCounters>>,
}

impl Shared {
    pub(crate) fn new(queues: u16) -> Self {
        Self {
            connected: AtomicBool::new(false),
            sessions: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            message_errors: AtomicU64::new(0),
            queues: (0..queues)
                .map(|_| Arc::new(QueueCounters::default()))
                .collect(),
        }
    }

    pub(crate) fn snapshot(&self) -> Statistics {
        Statistics {
            connected: self.connected.load(Ordering::Relaxed),
            sessions: self.sessions.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            message_errors: self.message_errors.load(Ordering::Relaxed),
            queues: self
                .queues
                .iter()
                .map(|counters| counters.snapshot())
                .collect(),
        }
    }
}

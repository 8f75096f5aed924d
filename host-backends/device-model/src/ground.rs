//! What a queue stands on. One rule: the front-end may cut any of it short at any moment.

use guest_memory::GuestMemory;
use guest_memory::SharedMemory;
use std::sync::Arc;

/// All that the front-end shares with a queue, and may cut short under it: memory with its dirty log, and the in-flight
/// record.
#[derive(Debug, Clone)]
pub struct QueueMemory {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) record: Option<Arc<SharedMemory>>,
}

impl QueueMemory {
    /// Whether any of it was truncated; what was read of it since is void.
    #[inline]
    pub fn poisoned(&self) -> bool {
        self.memory.poisoned() || self.record.as_ref().is_some_and(|it| it.poisoned())
    }
}

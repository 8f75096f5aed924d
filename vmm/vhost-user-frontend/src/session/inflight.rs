//! The in-flight record. Rule: the memory belongs to this side, so that it outlives the backend; its content is the
//! backend's, and is only looked at when a packed ring has to be recovered.

use std::fs::File;

use vhost_user_protocol::Inflight;

/// The shared area and its description, as the first backend handed it out.
#[derive(Debug)]
pub(crate) struct InflightArea {
    pub description: Inflight,
    pub file: File,
}

impl InflightArea {
    /// Offset in the file at which the record of queue `index` starts; all records have the same size.
    pub(crate) fn queue_start(&self, index: u16) -> Option<u64> {
        let queues = u64::from(self.description.num_queues);
        let size = self.description.mmap_size.checked_div(queues)?;
        let start = size.checked_mul(index.into())?;
        (u64::from(index) < queues)
            .then(|| self.description.mmap_offset.checked_add(start))
            .flatten()
    }
}

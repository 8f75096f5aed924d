//! Skeleton.
#![expect(unused_variables, reason = "skeleton")]
use crate::*;
#[derive(Debug)]
pub(crate) struct PackedDriver {
    config: QueueConfig,
}
impl PackedDriver {
    pub(crate) fn new(config: QueueConfig, rings: &Rings) -> Result<Self, RingError> {
        rings.check(&config)?;
        Ok(Self { config })
    }
    pub(crate) fn add(
        &mut self,
        readable: &[Segment],
        writable: &[Segment],
        indirect: Option<(RingMemory, u64)>,
    ) -> Result<u16, AddError> {
        Err(AddError::Full)
    }
    pub(crate) fn publish(&mut self) -> bool {
        false
    }
    pub(crate) fn notification_data(&self, queue: u16) -> u32 {
        0
    }
    pub(crate) fn pop(&mut self) -> Result<Option<Used>, RingError> {
        Ok(None)
    }
    pub(crate) fn arm(&mut self) -> bool {
        false
    }
    pub(crate) fn disarm(&mut self) {}
    pub(crate) fn has_used(&self) -> bool {
        false
    }
    pub(crate) fn free_descriptors(&self) -> u16 {
        0
    }
    pub(crate) fn in_flight(&self) -> u16 {
        0
    }
    pub(crate) fn overruns(&self) -> u64 {
        0
    }
    pub(crate) fn reset(&mut self, reclaim: impl FnMut(u16)) {}
    pub(crate) fn config(&self) -> &QueueConfig {
        &self.config
    }
}

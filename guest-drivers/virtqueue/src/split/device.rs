//! Skeleton.
#![expect(unused_variables, reason = "skeleton")]
use crate::*;
#[derive(Debug)]
pub(crate) struct SplitDevice {
    config: QueueConfig,
}
impl SplitDevice {
    pub(crate) fn new(
        config: QueueConfig,
        rings: &Rings,
        state: QueueState,
    ) -> Result<Self, RingError> {
        rings.check(&config)?;
        Ok(Self { config })
    }
    pub(crate) fn take(
        &mut self,
        memory: &impl PeerMemory,
        batch: &mut ChainBatch,
        max: usize,
    ) -> Result<usize, RingError> {
        Ok(0)
    }
    pub(crate) fn replay(
        &mut self,
        memory: &impl PeerMemory,
        batch: &mut ChainBatch,
        what: u16,
    ) -> Result<(), RingError> {
        Ok(())
    }
    pub(crate) fn complete(&mut self, token: Token, written: u32) -> Result<(), RingError> {
        Ok(())
    }
    pub(crate) fn publish(&mut self) -> bool {
        false
    }
    pub(crate) fn publishable(&self) -> usize {
        0
    }
    pub(crate) fn arm(&mut self) -> bool {
        false
    }
    pub(crate) fn disarm(&mut self) {}
    pub(crate) fn has_work(&self) -> bool {
        false
    }
    pub(crate) fn state(&self) -> QueueState {
        QueueState::fresh(self.config.format)
    }
    pub(crate) fn in_flight(&self) -> usize {
        0
    }
    pub(crate) fn config(&self) -> &QueueConfig {
        &self.config
    }
}

//! Chains that the device half gives back unused.
//!
//! One rule: for the driver it is as if they had never been taken.

use std::vec::Vec;

use super::Arena;
use super::all_configs;
use crate::ChainBatch;
use crate::DeviceQueue;
use crate::DriverQueue;
use crate::QueueConfig;
use crate::QueueState;
use crate::RingError;
use crate::Segment;
use crate::Token;

struct Receiver {
    arena: Arena,
    driver: DriverQueue,
    device: DeviceQueue,
    serial: u64,
}

impl Receiver {
    fn new(config: QueueConfig) -> Self {
        let arena = Arena::new(&config);
        let driver = DriverQueue::new(config, arena.rings).unwrap();
        let state = QueueState::fresh(config.format);
        let device = DeviceQueue::new(config, arena.rings, state).unwrap();
        Self {
            arena,
            driver,
            device,
            serial: 0,
        }
    }

    /// Makes buffers of one to three segments available, as many as fit; returns how many.
    fn refill(&mut self) -> usize {
        let mut added = 0;
        loop {
            let count = self.serial % 3 + 1;
            let segment = |n| Segment {
                addr: self.serial * 0x1000 + n * 0x100,
                len: 64,
            };
            let segments: Vec<_> = (0..count).map(segment).collect();
            if self.driver.add(&[], &segments, None).is_err() {
                let _ = self.driver.publish();
                return added;
            }
            self.serial += 1;
            added += 1;
        }
    }

    fn take(&mut self, batch: &mut ChainBatch, max: usize) -> usize {
        self.device.take(&self.arena, batch, max).unwrap()
    }
}

fn chains(batch: &ChainBatch) -> Vec<(Token, Vec<Segment>)> {
    batch
        .iter()
        .map(|chain| (chain.token, chain.writable.to_vec()))
        .collect()
}

#[test]
fn given_back_chains_come_again_in_their_order() {
    for config in all_configs(16) {
        let mut world = Receiver::new(config);
        let mut batch = ChainBatch::default();
        let mut expected = 0_u64;
        for round in 0..200_usize {
            world.refill();
            batch.clear();
            let taken = world.take(&mut batch, 1 + round % 9);
            let before = chains(&batch);
            let kept = taken.min(round % 4);
            world.device.give_back(&mut batch, taken - kept).unwrap();
            assert_eq!(chains(&batch), before[..kept], "{config:?}");
            assert_eq!(world.device.in_flight(), kept);
            assert!(world.device.has_work() || kept == taken);
            world.take(&mut batch, taken - kept);
            assert_eq!(chains(&batch), before, "{config:?}");
            world.device.give_back(&mut batch, taken - kept).unwrap();
            for (token, _) in chains(&batch) {
                world.device.complete(token, 64).unwrap();
            }
            let _ = world.device.publish();
            for (_, segments) in &before[..kept] {
                assert_eq!(segments[0].addr, expected * 0x1000, "{config:?}");
                expected += 1;
                assert!(world.driver.pop().unwrap().is_some(), "{config:?}");
            }
            assert!(world.driver.pop().unwrap().is_none(), "{config:?}");
        }
        assert!(expected > 100);
    }
}

#[test]
fn only_chains_in_flight_can_be_given_back() {
    for config in all_configs(8) {
        let mut world = Receiver::new(config);
        world.refill();
        let mut batch = ChainBatch::default();
        let taken = world.take(&mut batch, 3);
        let last = chains(&batch)[taken - 1].0;
        world.device.complete(last, 0).unwrap();
        let refused = world.device.give_back(&mut batch, 1);
        assert_eq!(refused, Err(RingError::NotInFlight), "{config:?}");
        assert_eq!(batch.len(), taken);
        let mut empty = ChainBatch::default();
        let refused = world.device.give_back(&mut empty, 1);
        assert_eq!(refused, Err(RingError::NotInFlight), "{config:?}");
    }
}

//! Both halves on threads of their own, sleeping whenever they are allowed to.
//!
//! One rule: a wait that does not end is a lost wake-up, and fails.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::Arena;
use super::all_configs;
use crate::AddError;
use crate::ChainBatch;
use crate::DeviceQueue;
use crate::DriverQueue;
use crate::QueueState;
use crate::Segment;

const CHAINS: u32 = 20_000;

/// What an eventfd is between processes.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let rung = self.rung.lock().unwrap();
        let patience = Duration::from_secs(20);
        let (mut rung, waited) = self
            .changed
            .wait_timeout_while(rung, patience, |rung| !*rung)
            .unwrap();
        assert!(!waited.timed_out(), "a wake-up was lost");
        *rung = false;
    }
}

fn serve(mut device: DeviceQueue, arena: &Arena, kick: &Bell, call: &Bell) {
    let mut batch = ChainBatch::with_capacity(64, 256);
    let mut served = 0;
    while served != CHAINS {
        batch.clear();
        if device.take(arena, &mut batch, 5).unwrap() == 0 {
            if !device.arm() {
                kick.wait();
            }
            device.disarm();
            continue;
        }
        for chain in batch.iter() {
            let addr = chain.writable[0].addr;
            device.complete(chain.token, addr as u32 % 9).unwrap();
            served += 1;
        }
        if device.publish() {
            call.ring();
        }
    }
}

fn drive(mut driver: DriverQueue, kick: &Bell, call: &Bell) {
    let (mut added, mut popped, mut written) = (0, 0, 0_u64);
    while popped != CHAINS {
        while added != CHAINS {
            let readable = [Segment { addr: 1, len: 16 }];
            let writable = [Segment {
                addr: u64::from(added),
                len: 8,
            }];
            match driver.add(&readable, &writable, None) {
                Ok(_) => added += 1,
                Err(AddError::Full) => break,
                Err(error) => panic!("{error}"),
            }
        }
        if driver.publish() {
            kick.ring();
        }
        let before = popped;
        while let Some(used) = driver.pop().unwrap() {
            written += u64::from(used.written);
            popped += 1;
        }
        if popped == before && !driver.arm() {
            call.wait();
            driver.disarm();
        }
    }
    assert_eq!(
        written,
        (0..u64::from(CHAINS)).map(|serial| serial % 9).sum::<u64>()
    );
}

#[test]
fn two_threads_that_sleep_whenever_they_may_lose_no_wake_up() {
    for config in all_configs(16) {
        let arena = Arc::new(Arena::new(&config));
        let driver = DriverQueue::new(config, arena.rings).unwrap();
        let state = QueueState::fresh(config.format);
        let device = DeviceQueue::new(config, arena.rings, state).unwrap();
        let (kick, call) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let backend = thread::spawn({
            let (arena, kick, call) = (Arc::clone(&arena), Arc::clone(&kick), Arc::clone(&call));
            move || serve(device, &arena, &kick, &call)
        });
        drive(driver, &kick, &call);
        backend.join().unwrap();
    }
}

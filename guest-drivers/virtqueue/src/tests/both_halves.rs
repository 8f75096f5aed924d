//! Our driver half against our device half.
//!
//! One rule: whatever the order of steps, every chain comes back once, with the bytes the device
//! wrote, and no side sleeps while the other waits for it.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::Arena;
use super::all_configs;
use super::bytes;
use super::config;
use crate::AddError;
use crate::ChainBatch;
use crate::DeviceQueue;
use crate::DriverQueue;
use crate::Format;
use crate::QueueConfig;
use crate::QueueState;
use crate::Replay;
use crate::Segment;
use crate::Token;
use crate::WrittenArea;

#[derive(Clone, Debug)]
pub enum Step {
    /// Add a chain of so many readable and writable segments, indirect or not.
    Add {
        readable: usize,
        writable: usize,
        indirect: bool,
    },
    DriverPublish,
    /// Take at most so many.
    Take(usize),
    /// Complete the chain in flight at this place, wholly or in part.
    Complete {
        pick: usize,
        whole: bool,
    },
    DevicePublish,
    Pop(usize),
    /// The device stops and goes on from its state, replaying what is in flight.
    Restart,
    DeviceArm,
    DeviceDisarm,
    DriverArm,
    DriverDisarm,
}

struct InFlight {
    token: Token,
    writable: u32,
    serial: u32,
    raw: Vec<virtio_spec::ring::PackedDescriptor>,
}

/// Runs steps on both halves and keeps the truth beside them.
pub struct World {
    config: QueueConfig,
    arena: Arena,
    driver: DriverQueue,
    device: DeviceQueue,
    batch: ChainBatch,
    serial: u32,
    /// By id: serial, readable count, writable segments.
    lent: HashMap<u16, (u32, Vec<Segment>, Vec<Segment>)>,
    added: VecDeque<u16>,
    visible: VecDeque<u16>,
    taken: Vec<InFlight>,
    /// Completed and not published, with the bytes written.
    completed: Vec<(InFlight, u32)>,
    used: HashMap<u32, u32>,
    returned: Vec<u32>,
    device_sleeps: bool,
    kicked: bool,
    driver_sleeps: bool,
    interrupted: bool,
}

impl World {
    pub fn new(config: QueueConfig) -> Self {
        let arena = Arena::new(&config);
        let driver = DriverQueue::new(config, arena.rings).unwrap();
        let state = QueueState::fresh(config.format);
        let device = DeviceQueue::new(config, arena.rings, state).unwrap();
        let mut batch = ChainBatch::with_capacity(8, 64);
        batch.keep_raw_descriptors();
        Self {
            config,
            arena,
            driver,
            device,
            batch,
            serial: 0,
            lent: HashMap::new(),
            added: VecDeque::new(),
            visible: VecDeque::new(),
            taken: Vec::new(),
            completed: Vec::new(),
            used: HashMap::new(),
            returned: Vec::new(),
            device_sleeps: false,
            kicked: false,
            driver_sleeps: false,
            interrupted: false,
        }
    }

    pub fn step(&mut self, step: &Step) {
        match *step {
            Step::Add {
                readable,
                writable,
                indirect,
            } => self.add(readable, writable, indirect),
            Step::DriverPublish => {
                let notify = self.driver.publish();
                if self.device_sleeps && !self.added.is_empty() {
                    assert!(notify, "the device sleeps and is not told");
                }
                self.kicked |= notify;
                self.device_sleeps &= !notify;
                self.visible.append(&mut self.added);
            }
            Step::Take(max) => self.take(max),
            Step::Complete { pick, whole } => self.complete(pick, whole),
            Step::DevicePublish => self.device_publish(),
            Step::Pop(max) => (0..max).for_each(|_| self.pop()),
            Step::Restart => self.restart(),
            Step::DeviceArm => {
                self.device_sleeps = !self.device.arm();
                assert_eq!(self.device_sleeps, self.visible.is_empty());
            }
            Step::DeviceDisarm => {
                self.device.disarm();
                self.device_sleeps = false;
            }
            Step::DriverArm => {
                self.driver_sleeps = !self.driver.arm();
                assert_eq!(self.driver_sleeps, self.used.is_empty());
            }
            Step::DriverDisarm => {
                self.driver.disarm();
                self.driver_sleeps = false;
            }
        }
        assert_eq!(usize::from(self.driver.in_flight()), self.lent.len());
        assert_eq!(self.device.has_work(), !self.visible.is_empty());
        assert_eq!(self.driver.has_used(), !self.used.is_empty());
    }

    fn add(&mut self, readable: usize, writable: usize, indirect: bool) {
        let indirect = indirect && self.config.indirect;
        let segment = |at: usize| Segment {
            addr: u64::from(self.serial) << 16 | at as u64,
            len: 1 + (self.serial % 100) + at as u32,
        };
        let readable: Vec<_> = (0..readable).map(segment).collect();
        let writable: Vec<_> = (100..100 + writable).map(segment).collect();
        let count = readable.len() + writable.len();
        let needs = if indirect { 1 } else { count };
        let table = indirect.then(|| self.arena.table((self.serial % 64) as u16));
        let free = usize::from(self.driver.free_descriptors());
        match self.driver.add(&readable, &writable, table) {
            Ok(id) => {
                assert!(needs <= free);
                let old = self.lent.insert(id, (self.serial, readable, writable));
                assert!(old.is_none(), "id {id} lent twice");
                self.added.push_back(id);
                self.serial += 1;
            }
            Err(AddError::Full) => assert!(needs > free),
            Err(AddError::TooLong) => assert!(count > usize::from(self.config.size)),
            Err(AddError::Empty) => assert_eq!(count, 0),
            Err(error) => panic!("{error}"),
        }
    }

    fn take(&mut self, max: usize) {
        self.batch.clear();
        let taken = self.device.take(&self.arena, &mut self.batch, max).unwrap();
        assert_eq!(taken, max.min(self.visible.len()));
        self.note_taken();
    }

    fn note_taken(&mut self) {
        for (position, chain) in self.batch.iter().enumerate() {
            let id = self.visible.pop_front().unwrap();
            assert_eq!(chain.token.id, id);
            let (serial, readable, writable) = &self.lent[&id];
            assert_eq!(chain.readable, readable);
            assert_eq!(chain.writable, writable);
            self.taken.push(InFlight {
                token: chain.token,
                writable: writable.iter().map(|segment| segment.len).sum(),
                serial: *serial,
                raw: self.batch.raw(position).to_vec(),
            });
        }
    }

    fn complete(&mut self, pick: usize, whole: bool) {
        if self.taken.is_empty() {
            return;
        }
        let chain = self.taken.remove(pick % self.taken.len());
        let written = if whole {
            chain.writable
        } else {
            chain.writable / 2
        };
        self.device.complete(chain.token, written).unwrap();
        assert!(
            self.device.complete(chain.token, written).is_err(),
            "completed twice"
        );
        self.completed.push((chain, written));
    }

    fn device_publish(&mut self) {
        // In order, what comes after a chain that is not completed has to wait.
        let taken = self.taken.iter().map(|chain| chain.serial);
        let first = taken
            .min()
            .filter(|_| self.config.in_order)
            .unwrap_or(u32::MAX);
        let completed = core::mem::take(&mut self.completed);
        let goes = |chain: &(InFlight, u32)| chain.0.serial < first;
        let (out, held): (Vec<_>, Vec<_>) = completed.into_iter().partition(goes);
        assert_eq!(self.device.publishable(), out.len());
        let interrupt = self.device.publish();
        self.completed = held;
        self.note_published(out, interrupt);
        assert_eq!(
            self.device.in_flight(),
            self.taken.len() + self.completed.len()
        );
    }

    fn note_published(&mut self, out: Vec<(InFlight, u32)>, interrupt: bool) {
        if self.driver_sleeps && !out.is_empty() {
            assert!(interrupt, "the driver sleeps and is not told");
        }
        self.interrupted |= interrupt;
        self.driver_sleeps &= !interrupt;
        self.used.extend(
            out.into_iter()
                .map(|(chain, written)| (chain.serial, written)),
        );
    }

    fn pop(&mut self) {
        let Some(used) = self.driver.pop().unwrap() else {
            assert!(self.used.is_empty(), "a used chain is not seen");
            return;
        };
        let (serial, _, _) = self.lent.remove(&used.id).unwrap();
        assert_eq!(self.used.remove(&serial), Some(used.written));
        if self.config.in_order {
            assert!(self.returned.last().is_none_or(|last| *last < serial));
        }
        self.returned.push(serial);
    }

    fn restart(&mut self) {
        // What was completed and not published is done again, as after a crash.
        let state = self.device.state();
        self.taken
            .extend(self.completed.drain(..).map(|(chain, _)| chain));
        self.taken.sort_unstable_by_key(|chain| chain.serial);
        self.device = DeviceQueue::new(self.config, self.arena.rings, state).unwrap();
        assert_eq!(self.device.state(), state);
        for chain in &mut self.taken {
            self.batch.clear();
            let replay = match self.config.format {
                Format::Split => Replay::Head(chain.token.id),
                Format::Packed => Replay::Descriptors(&chain.raw),
            };
            self.device
                .replay(&self.arena, &mut self.batch, replay)
                .unwrap();
            let again = self.batch.get(0).unwrap();
            assert_eq!(again.token, chain.token);
            let (_, readable, writable) = &self.lent[&chain.token.id];
            assert_eq!(again.readable, readable);
            assert_eq!(again.writable, writable);
        }
        assert_eq!(self.device.in_flight(), self.taken.len());
    }

    /// Brings everything to an end and checks that nothing is lost.
    pub fn finish(mut self) {
        self.finish_round();
        assert_eq!(self.returned.len(), self.serial as usize);
        assert_eq!(self.driver.overruns(), 0);
    }

    pub fn finish_round(&mut self) {
        self.step(&Step::DriverPublish);
        while !self.visible.is_empty() {
            self.step(&Step::Take(3));
        }
        while !self.taken.is_empty() {
            self.step(&Step::Complete {
                pick: 7,
                whole: false,
            });
        }
        self.step(&Step::DevicePublish);
        self.step(&Step::Pop(usize::from(self.config.size) + 1));
        assert_eq!(self.driver.free_descriptors(), self.config.size);
        assert_eq!(self.device.in_flight(), 0);
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let add = (0..4_usize, 0..4_usize, any::<bool>()).prop_map(|(readable, writable, indirect)| {
        Step::Add {
            readable,
            writable,
            indirect,
        }
    });
    let complete =
        (any::<usize>(), any::<bool>()).prop_map(|(pick, whole)| Step::Complete { pick, whole });
    let step = prop_oneof![
        8 => add,
        4 => Just(Step::DriverPublish),
        4 => (1..5_usize).prop_map(Step::Take),
        8 => complete,
        4 => Just(Step::DevicePublish),
        4 => (1..5_usize).prop_map(Step::Pop),
        1 => Just(Step::Restart),
        1 => Just(Step::DeviceArm),
        1 => Just(Step::DeviceDisarm),
        1 => Just(Step::DriverArm),
        1 => Just(Step::DriverDisarm),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_returns_every_chain_once(steps in steps(), log_size in 0..5_u32) {
        for config in all_configs(1 << log_size) {
            let mut world = World::new(config);
            steps.iter().for_each(|step| world.step(step));
            world.finish();
        }
    }

    #[test]
    fn packed_rings_need_no_power_of_two(steps in steps(), size in 1..12_u16) {
        for config in all_configs(size.next_power_of_two()) {
            if config.format == Format::Packed {
                let mut world = World::new(QueueConfig { size, ..config });
                steps.iter().for_each(|step| world.step(step));
                world.finish();
            }
        }
    }
}

/// All sequences of a few steps on the smallest queues.
#[test]
fn every_short_schedule_on_small_queues_is_right() {
    let menu = [
        Step::Add {
            readable: 1,
            writable: 1,
            indirect: false,
        },
        Step::Add {
            readable: 0,
            writable: 1,
            indirect: true,
        },
        Step::DriverPublish,
        Step::Take(1),
        Step::Complete {
            pick: 1,
            whole: true,
        },
        Step::DevicePublish,
        Step::Pop(1),
        Step::DeviceArm,
    ];
    const LENGTH: u32 = 5;
    for size in [1, 2, 4] {
        for config in all_configs(size) {
            for number in 0..menu.len().pow(LENGTH) {
                let mut world = World::new(config);
                let mut rest = number;
                for _ in 0..LENGTH {
                    world.step(&menu[rest % menu.len()]);
                    rest /= menu.len();
                }
                world.finish();
            }
        }
    }
}

#[test]
fn indices_and_wrap_counters_survive_their_wrap() {
    for config in all_configs(8) {
        let mut world = World::new(config);
        for round in 0..30_000_usize {
            for at in 0..3 {
                world.step(&Step::Add {
                    readable: 1,
                    writable: at % 2,
                    indirect: at == 1,
                });
            }
            world.step(&Step::DriverPublish);
            world.step(&Step::Take(3));
            for pick in 0..3 {
                world.step(&Step::Complete {
                    pick: pick + round,
                    whole: round % 2 == 0,
                });
            }
            world.step(&Step::DevicePublish);
            world.step(&Step::Pop(3));
            world.returned.clear();
        }
        assert!(world.serial > 65_536, "{config:?}");
        world.serial = 0;
        world.finish();
    }
}

#[test]
fn notifications_are_silent_when_nobody_waits() {
    for config in all_configs(4) {
        let mut world = World::new(config);
        world.step(&Step::DeviceDisarm);
        world.step(&Step::DriverDisarm);
        for _ in 0..100 {
            world.step(&Step::Add {
                readable: 1,
                writable: 1,
                indirect: false,
            });
            world.step(&Step::DriverPublish);
            world.step(&Step::Take(1));
            world.step(&Step::Complete {
                pick: 0,
                whole: true,
            });
            world.step(&Step::DevicePublish);
            world.step(&Step::Pop(1));
        }
        assert!(!world.kicked && !world.interrupted, "{config:?}");
    }
}

#[test]
fn with_event_idx_one_batch_costs_one_notification() {
    for format in [Format::Split, Format::Packed] {
        let mut world = World::new(QueueConfig {
            event_idx: true,
            ..config(format, 8)
        });
        world.step(&Step::DeviceArm);
        world.step(&Step::Add {
            readable: 1,
            writable: 0,
            indirect: false,
        });
        world.step(&Step::DriverPublish);
        assert!(world.kicked);
        world.kicked = false;
        for _ in 0..3 {
            world.step(&Step::Add {
                readable: 1,
                writable: 0,
                indirect: false,
            });
            world.step(&Step::DriverPublish);
        }
        assert!(
            !world.kicked,
            "{format:?}: told again before the device asked again"
        );
    }
}

#[test]
fn reset_hands_back_what_was_lent_and_starts_afresh() {
    for config in all_configs(4) {
        let mut world = World::new(config);
        let segment = [Segment { addr: 1, len: 1 }];
        let ids: Vec<_> = (0..3)
            .map(|_| world.driver.add(&segment, &[], None).unwrap())
            .collect();
        let _ = world.driver.publish();
        let mut back = vec![];
        world.driver.reset(|id| back.push(id));
        back.sort_unstable();
        let mut ids = ids;
        ids.sort_unstable();
        assert_eq!(back, ids);
        assert_eq!(world.driver.in_flight(), 0);
        assert_eq!(world.driver.free_descriptors(), 4);
        let mut fresh = World::new(config);
        core::mem::swap(&mut world.device, &mut fresh.device);
        let state = QueueState::fresh(config.format);
        world.device = DeviceQueue::new(config, world.arena.rings, state).unwrap();
        world.step(&Step::Add {
            readable: 1,
            writable: 1,
            indirect: false,
        });
        world.finish();
    }
}

#[test]
fn notification_data_names_the_next_descriptor() {
    let segment = [Segment { addr: 1, len: 1 }];
    let mut split = World::new(config(Format::Split, 4));
    split.driver.add(&segment, &[], None).unwrap();
    assert_eq!(split.driver.notification_data(7), 7, "not yet published");
    let _ = split.driver.publish();
    assert_eq!(split.driver.notification_data(7), 1 << 16 | 7);
    let mut packed = World::new(config(Format::Packed, 1));
    assert_eq!(packed.driver.notification_data(7), 1 << 31 | 7);
    packed.driver.add(&segment, &[], None).unwrap();
    let _ = packed.driver.publish();
    assert_eq!(packed.driver.notification_data(7), 7, "wrapped to slot 0");
}

#[test]
fn the_footprint_covers_all_that_a_publish_writes() {
    for config in all_configs(4) {
        let mut world = World::new(config);
        for round in 0..9 {
            for at in 0..3 {
                world.step(&Step::Add {
                    readable: 1,
                    writable: at % 2,
                    indirect: at == 1,
                });
            }
            world.step(&Step::DriverPublish);
            let rings = world.arena.rings;
            let before = [bytes(&rings.descriptors), bytes(&rings.device)];
            world.step(&Step::Take(3));
            for pick in 0..=round % 3 {
                world.step(&Step::Complete {
                    pick,
                    whole: pick == 1,
                });
            }
            let footprint = world.device.footprint();
            let ids = usize::from(world.device.publishable() != 0);
            world.step(&Step::DevicePublish);
            let after = [bytes(&rings.descriptors), bytes(&rings.device)];
            let areas = [WrittenArea::Descriptors, WrittenArea::Device];
            let mut changes = 0;
            for ((area, before), after) in areas.iter().zip(&before).zip(&after) {
                for at in (0..before.len()).filter(|&at| before[at] != after[at]) {
                    let covered = footprint.ranges.iter().any(|range| range.contains(&at));
                    assert!(
                        covered && *area == footprint.area,
                        "{config:?} {area:?} {at}"
                    );
                    changes += 1;
                }
            }
            assert_eq!(ids, usize::from(changes != 0));
            world.finish_round();
        }
    }
}

#[test]
fn completions_a_crash_cut_off_are_not_seen_behind_new_ones() {
    for config in all_configs(8) {
        let mut world = World::new(config);
        for _ in 0..4 {
            world.step(&Step::Add {
                readable: 0,
                writable: 1,
                indirect: false,
            });
        }
        world.step(&Step::DriverPublish);
        world.step(&Step::Take(4));
        for _ in 0..3 {
            world.step(&Step::Complete {
                pick: 0,
                whole: false,
            });
        }
        world.step(&Step::Restart);
        world.step(&Step::Complete {
            pick: 3,
            whole: true,
        });
        world.step(&Step::DevicePublish);
        world.step(&Step::Pop(4));
        world.finish();
    }
}

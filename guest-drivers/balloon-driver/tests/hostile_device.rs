//! A balloon that lies: registers, rings, target storms, floods of requests.
//!
//! Rule: a lie costs an error and a reset, never a page, a fault or an endless loop; the reset path empties the balloon whatever happened
//! before.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use balloon_driver::ConfigChange;
use balloon_driver::Error;
use balloon_driver::Progress;
use balloon_driver::ResetProgress;
use driver_fakes::BalloonHabits;
use driver_fakes::FakeFunction;
use driver_fakes::FakePlatform;
use driver_fakes::Layout;
use driver_fakes::Lies;
use driver_fakes::Owner;
use driver_fakes::Random;
use rig::*;
use virtio_pci::Error as Pci;
use virtio_spec::balloon::feature::*;
use virtio_spec::balloon::queue::Role;
use virtio_spec::feature;

const PACKED_USED: u16 = 1 << 15 | 1 << 7;

fn outcome(function: &FakeFunction) -> Result<(), Error> {
    let platform = FakePlatform::new(1);
    start(function, &platform, options()).map(|_| ())
}

fn with_lies(lies: Lies) -> Result<(), Error> {
    let mut registers = registers(ALL);
    registers.lies = lies;
    outcome(&function(registers))
}

/// Breaks the queue of a role in a full working balloon and expects an error that stays, then a clean way back.
fn broken_by(features: u64, lie: impl FnOnce(&Rig)) {
    let mut rig = rig(3, features | ALL);
    rig.pages.use_pages(500);
    rig.want(1000);
    rig.driver.work(&mut rig.pages).unwrap();
    lie(&rig);
    let error = rig.driver.work(&mut rig.pages);
    assert!(
        matches!(error, Err(Error::Ring(_) | Error::Broken)),
        "{error:?}"
    );
    assert_eq!(rig.driver.work(&mut rig.pages), error);
    assert!(rig.driver.report(&mut rig.pages).is_err());
    assert!(rig.driver.relieve(1, &mut rig.pages).is_err());
    assert!(rig.driver.arm(), "there is something to say");
    rig.reset();
    rig.restart().unwrap();
    rig.driver.config_changed(&rig.platform).unwrap();
    assert_eq!(rig.settle(), Progress::Settled);
    assert_eq!(rig.inside(), 1000);
    rig.finish();
}

fn split_used(rig: &Rig, role: Role, index: u16, elements: &[(u32, u32)]) {
    let used = rig.balloon.rings(role).unwrap().device;
    for (at, (id, len)) in elements.iter().enumerate() {
        used.write(4 + at * 8, &id.to_le_bytes());
        used.write(8 + at * 8, &len.to_le_bytes());
    }
    used.write(2, &index.to_le_bytes());
}

fn packed_used(rig: &Rig, role: Role, id: u16) {
    let ring = rig.balloon.rings(role).unwrap().descriptors;
    ring.write(12, &id.to_le_bytes());
    ring.write(14, &PACKED_USED.to_le_bytes());
}

#[test]
fn used_ids_that_are_not_outstanding_break_the_balloon() {
    for role in [
        Role::Inflate,
        Role::Deflate,
        Role::Stats,
        Role::FreePage,
        Role::Reporting,
    ] {
        for id in [31, 32, 0xffff, 0x1_0000, u32::MAX] {
            broken_by(0, |rig| split_used(rig, role, 1, &[(id, 0)]));
        }
    }
    // An idle packed ring is not looked at.
    for role in [Role::Inflate, Role::Stats] {
        for id in [31, 32, 0xffff] {
            broken_by(feature::RING_PACKED, |rig| packed_used(rig, role, id));
        }
    }
}

#[test]
fn used_indices_that_jump_break_the_balloon() {
    for index in [5, 33, 0x8000, 0xffff] {
        broken_by(0, |rig| {
            split_used(rig, Role::Inflate, index, &[(0, 0)]);
        });
    }
}

#[test]
fn a_batch_acknowledged_twice_breaks_the_balloon_and_counts_once() {
    broken_by(0, |rig| {
        split_used(rig, Role::Inflate, 2, &[(0, 0), (0, 0)]);
    });
}

#[test]
fn a_statistics_buffer_returned_twice_breaks_the_balloon() {
    let mut rig = rig(3, STATS_VQ);
    rig.settle();
    split_used(&rig, Role::Stats, 2, &[(0, 0), (0, 0)]);
    let error = rig.driver.work(&mut rig.pages);
    assert!(matches!(error, Err(Error::Ring(_))), "{error:?}");
    assert_eq!(rig.driver.counters().statistics, 0);
    rig.finish();
}

#[test]
fn a_flood_of_statistics_requests_is_answered_once_for_each_look() {
    let mut rig = rig(3, STATS_VQ);
    rig.balloon.habits.floods_statistics = true;
    for look in 0..1000 {
        rig.driver.work(&mut rig.pages).unwrap();
        rig.balloon.serve();
        assert!(rig.driver.counters().statistics <= look);
    }
    rig.balloon.habits.floods_statistics = false;
    rig.settle();
    rig.finish();
}

#[test]
fn lengths_that_the_device_claims_to_have_written_mean_nothing() {
    for features in [0, feature::RING_PACKED] {
        let mut rig = rig(3, features | ALL);
        rig.balloon.habits.written = u32::MAX;
        rig.want(1000);
        rig.settle();
        assert_eq!(rig.inside(), 1000);
        rig.driver.report(&mut rig.pages).unwrap();
        rig.settle();
        rig.finish();
    }
}

#[test]
fn a_storm_of_targets_ends_at_the_last_one() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut rig = rig(seed, ALL);
        rig.pages.use_pages(500);
        rig.balloon.habits = BalloonHabits {
            delays_one_in: 2,
            reorders: true,
            ..BalloonHabits::default()
        };
        for _ in 0..500 {
            rig.want(random.next_u64() as u32);
            let before = rig.driver.counters().batches;
            rig.driver.work(&mut rig.pages).unwrap();
            assert!(
                rig.driver.counters().batches <= before + 4,
                "unbounded work"
            );
            if random.one_in(3) {
                rig.balloon.serve();
            }
        }
        rig.want(777);
        rig.settle();
        assert_eq!(rig.inside(), 777);
        rig.finish();
    }
}

#[test]
fn a_storm_of_hint_commands_keeps_starts_and_stops_in_turn() {
    let mut rig = rig(3, FREE_PAGE_HINT);
    let mut random = Random::new(3);
    for _ in 0..2000 {
        rig.balloon.command(random.below(6) as u32);
        rig.driver.config_changed(&rig.platform).unwrap();
        rig.driver.work(&mut rig.pages).unwrap();
        if random.one_in(2) {
            rig.balloon.serve();
        }
    }
    rig.balloon.command(1);
    rig.driver.config_changed(&rig.platform).unwrap();
    rig.settle();
    for pair in rig.balloon.hint_messages.chunks(2) {
        assert!(pair[0] >= 2 && pair.get(1) == Some(&0), "{pair:?}");
    }
    assert_eq!(rig.pages.ram().count(Owner::Free), RAM);
    rig.finish();
}

#[test]
fn a_device_that_never_answers_holds_what_it_was_told_and_nothing_else() {
    let mut rig = rig(3, ALL);
    rig.want(u32::MAX);
    for _ in 0..100 {
        assert_eq!(rig.driver.work(&mut rig.pages), Ok(Progress::Waiting));
        assert_eq!(rig.driver.report(&mut rig.pages), Ok(false));
    }
    let ram = rig.pages.ram();
    assert_eq!(ram.count(Owner::Grabbed), 4 * 64);
    assert!(ram.count(Owner::Isolated) <= 4 * 8 * 64);
    assert_eq!(rig.driver.actual(), 0);
    rig.finish();
}

#[test]
fn messages_that_the_device_overwrote_do_not_lead_the_driver_astray() {
    let mut rig = rig(3, 0);
    rig.want(64);
    rig.driver.work(&mut rig.pages).unwrap();
    let table = rig.balloon.rings(Role::Inflate).unwrap().descriptors;
    let mut addr = [0; 8];
    table.read(0, &mut addr);
    // The device scribbles over the PFNs that it was sent, and over the descriptor.
    let memory = rig.platform.arena().device_memory();
    rig.balloon.serve();
    let span = virtqueue::PeerMemory::span(&memory, u64::from_le_bytes(addr), 256).unwrap();
    span.write(0, &[0xff; 256]);
    table.write(0, &[0xff; 16]);
    rig.settle();
    assert_eq!(rig.inside(), 64);
    rig.finish();
}

#[test]
fn random_writes_into_the_rings_never_lose_a_page() {
    let mut random = Random::new(7);
    for round in 0..400 {
        let sets = ring_feature_sets();
        let mut rig = rig(round, sets[random.index(sets.len())] | ALL);
        rig.pages.use_pages(1000);
        rig.want(400);
        rig.driver.work(&mut rig.pages).unwrap();
        rig.driver.report(&mut rig.pages).unwrap();
        if random.one_in(2) {
            rig.balloon.serve();
            rig.driver.work(&mut rig.pages).unwrap();
            rig.want(100);
            rig.driver.work(&mut rig.pages).unwrap();
        }
        let roles = [Role::Inflate, Role::Deflate, Role::Stats, Role::Reporting];
        for _ in 0..1 + random.below(8) {
            let rings = rig.balloon.rings(roles[random.index(4)]).unwrap();
            let area = match random.one_in(2) {
                true => rings.device,
                false => rings.descriptors,
            };
            area.write(random.index(area.len()), &[random.next_u64() as u8]);
        }
        for _ in 0..20 {
            if rig.driver.work(&mut rig.pages).is_err() {
                break;
            }
            let _ = rig.driver.arm();
        }
        rig.pages.verify_and_free(0);
        rig.reset();
        rig.restart().unwrap();
        rig.want(401);
        rig.settle();
        assert_eq!(rig.inside(), 401);
        rig.finish();
    }
}

#[test]
fn interrupts_for_nothing_do_nothing() {
    for features in ring_feature_sets() {
        let mut rig = rig(3, features | ALL);
        rig.settle();
        for _ in 0..3 {
            assert_eq!(rig.driver.work(&mut rig.pages), Ok(Progress::Settled));
            assert_eq!(
                rig.driver.config_changed(&rig.platform),
                Ok(ConfigChange::Nothing)
            );
            assert!(!rig.driver.arm());
        }
        rig.finish();
    }
}

#[test]
fn a_reset_empties_the_balloon_and_the_next_start_fills_it_again() {
    for must_tell in [0, MUST_TELL_HOST] {
        let mut rig = rig(3, must_tell | STATS_VQ | PAGE_REPORTING | FREE_PAGE_HINT);
        rig.pages.use_pages(500);
        rig.want(2000);
        rig.settle();
        rig.want(1500);
        rig.driver.work(&mut rig.pages).unwrap();
        rig.driver.report(&mut rig.pages).unwrap();
        rig.reset();
        assert_eq!(rig.driver.actual(), 0);
        assert_eq!(rig.pages.ram().count(Owner::Free), RAM - 500);
        rig.restart().unwrap();
        rig.driver.config_changed(&rig.platform).unwrap();
        rig.settle();
        assert_eq!(rig.inside(), 1500);
        rig.finish();
    }
}

#[test]
fn a_balloon_that_is_not_empty_is_not_started_again() {
    let mut rig = rig(3, 0);
    rig.want(1000);
    rig.settle();
    rig.driver.begin_reset(&rig.platform);
    let ResetProgress::Done(proof) = rig.driver.poll_reset(&rig.platform) else {
        panic!("pending")
    };
    let again = rig.driver.restart(&rig.platform, proof);
    assert_eq!(again, Err(Error::Outstanding));
    rig.finish();
}

#[test]
fn a_device_that_comes_back_as_another_one_is_refused() {
    let mut rig = rig(3, ALL);
    rig.reset();
    rig.function.registers().offered &= !STATS_VQ;
    assert_eq!(rig.restart(), Err(Error::Changed));
    rig.finish();
}

#[test]
fn a_device_that_never_finishes_its_reset_is_cut_off_before_pages_come_back() {
    let mut rig = rig(3, 0);
    rig.want(100);
    rig.settle();
    rig.function.registers().lies.never_resets = true;
    rig.driver.begin_reset(&rig.platform);
    assert!(matches!(
        rig.driver.poll_reset(&rig.platform),
        ResetProgress::Pending
    ));
    rig.platform.advance_us(virtio_pci::RESET_TIMEOUT_US + 1);
    let ResetProgress::GaveUp(_) = rig.driver.poll_reset(&rig.platform) else {
        panic!("still waiting")
    };
    assert_eq!(
        rig.function.config_space()[4] & 4,
        0,
        "bus mastering is still on"
    );
    rig.function.registers().lies.never_resets = false;
    rig.finish();
}

#[test]
fn a_device_that_asks_for_a_reset_is_heard() {
    let mut rig = rig(3, 0);
    rig.function.registers().lies.needs_reset = true;
    assert_eq!(
        rig.driver.config_changed(&rig.platform),
        Ok(ConfigChange::NeedsReset)
    );
    rig.function.registers().lies.needs_reset = false;
    rig.finish();
}

#[test]
fn lies_in_the_registers_end_in_an_error_and_cost_no_memory() {
    let lies = |lies: &dyn Fn(&mut Lies)| {
        let mut all = Lies::default();
        lies(&mut all);
        with_lies(all)
    };
    let refused = Err(Error::Transport(Pci::FeaturesRefused));
    assert_eq!(lies(&|l| l.refuses_features = true), refused);
    assert_eq!(lies(&|l| l.queue_count = Some(4)), Err(Error::NoQueue));
    for size in [0, 0x8001, 0xffff] {
        let mut registers = registers(ALL);
        registers.lies.queue_size = Some(size);
        let result = outcome(&function(registers));
        assert_eq!(result, Err(Error::Transport(Pci::NoQueue)), "{size}");
    }
    assert_eq!(
        lies(&|l| l.never_enables = true),
        Err(Error::Transport(Pci::BadQueue))
    );
    assert_eq!(
        lies(&|l| l.no_vectors = true),
        Err(Error::Transport(Pci::NoVector))
    );
    assert_eq!(
        lies(&|l| l.unstable_generation = true),
        Err(Error::Transport(Pci::ConfigUnstable))
    );
    assert!(lies(&|l| l.gone = true).is_err());
    let changing = (0..20).filter(|seed| match lies(&|l| l.changing_features = Some(*seed)) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error, Error::Transport(Pci::FeaturesRefused));
            false
        }
    });
    assert!(changing.count() > 10);
}

#[test]
fn a_configuration_that_is_too_short_is_refused() {
    for len in [0, 4, 8] {
        let mut registers = registers(FREE_PAGE_HINT);
        registers.config.truncate(len);
        assert_eq!(
            outcome(&function(registers)),
            Err(Error::Transport(Pci::ConfigOutOfRange)),
            "{len} bytes"
        );
    }
}

#[test]
fn queues_of_one_entry_are_enough() {
    for features in [0, feature::RING_PACKED] {
        let mut registers = registers(features | STATS_VQ | PAGE_REPORTING);
        registers.queues.iter_mut().for_each(|queue| {
            queue.size = 1;
            queue.size_max = 1;
        });
        let mut rig = rig_with(3, registers, options());
        rig.want(1000);
        rig.settle();
        assert_eq!(rig.inside(), 1000);
        while !rig.driver.report(&mut rig.pages).unwrap() {
            rig.balloon.serve();
        }
        rig.settle();
        rig.finish();
    }
}

#[test]
fn other_devices_are_refused() {
    let function = FakeFunction::new(2, registers(0), Layout::default());
    assert_eq!(outcome(&function), Err(Error::OtherType));
}

#[test]
fn a_start_without_memory_gives_everything_back() {
    for size in [1024, 2048, 4096] {
        let arena = driver_fakes::Arena::new(size, 0x1000);
        let platform = FakePlatform::with_arena(1, arena);
        let function = function(registers(ALL));
        let result = start(&function, &platform, options());
        assert!(matches!(result, Err(Error::Memory(_))), "{size}");
    }
}

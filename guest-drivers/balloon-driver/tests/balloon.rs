//! The balloon driver against a balloon that obeys, in every ring format, with reordering and delays by seed.
//!
//! Rule: a ledger of pages says what each side may do with each page, and the guest's data outside of the balloon stays.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use balloon_driver::Options;
use balloon_driver::Progress;
use driver_fakes::BalloonHabits;
use driver_fakes::Owner;
use driver_fakes::Random;
use rig::*;
use virtio_spec::balloon::feature::*;
use virtio_spec::balloon::hint_command;
use virtio_spec::balloon::stat;
use virtio_spec::feature;

#[test]
fn the_balloon_follows_its_target_in_every_ring_format() {
    for (seed, features) in ring_feature_sets().into_iter().enumerate() {
        for balloon in [0, ALL] {
            let mut rig = rig(seed as u64, features | balloon);
            assert_eq!(rig.driver.features() & features, features);
            rig.pages.use_pages(1000);
            for target in [1, 2000, 1999, 65, 3096, 0] {
                rig.want(target);
                assert_eq!(rig.settle(), Progress::Settled);
                assert_eq!(rig.inside(), target as usize);
                rig.pages.verify_and_free(0);
            }
            assert_eq!(rig.driver.counters().targets, 6);
            rig.finish();
        }
    }
}

#[test]
fn a_target_beyond_memory_takes_what_the_guest_can_spare_and_no_more() {
    let mut rig = rig(1, 0);
    rig.pages.use_pages(1000);
    rig.pages.reserve = 96;
    for target in [5000, u32::MAX] {
        rig.want(target);
        assert_eq!(rig.settle(), Progress::Short);
        assert_eq!(rig.inside(), 3000);
    }
    rig.pages.verify_and_free(100);
    assert_eq!(rig.settle(), Progress::Short);
    assert_eq!(rig.inside(), 3100);
    rig.finish();
}

#[test]
fn pages_come_back_only_when_the_device_acknowledged_them_if_it_must_be_told() {
    for (must_tell, free_at_once) in [(MUST_TELL_HOST, 0), (0, 64)] {
        let mut rig = rig(1, must_tell);
        rig.want(RAM as u32);
        rig.settle();
        rig.want(RAM as u32 - 64);
        rig.driver.work(&mut rig.pages).unwrap();
        assert_eq!(rig.pages.ram().count(Owner::Free), free_at_once);
        assert_eq!(rig.pages.use_pages(64), free_at_once);
        rig.settle();
        assert_eq!(rig.inside(), RAM - 64);
        rig.finish();
    }
}

#[test]
fn nothing_is_inflated_while_a_deflation_is_on_its_way() {
    let mut rig = rig(1, 0);
    rig.want(1000);
    rig.settle();
    rig.want(500);
    rig.driver.work(&mut rig.pages).unwrap();
    rig.want(2000);
    rig.driver.work(&mut rig.pages).unwrap();
    assert_eq!(rig.pages.ram().count(Owner::Grabbed), 0);
    rig.settle();
    assert_eq!(rig.inside(), 2000);
    rig.finish();
}

#[test]
fn targets_are_rounded_up_to_the_guests_page() {
    let options = Options {
        unit_pages: 16,
        ..options()
    };
    let mut rig = rig_with(1, registers(0), options);
    for (target, inside) in [(1, 16), (16, 16), (17, 32), (0, 0)] {
        rig.want(target);
        rig.settle();
        assert_eq!(rig.inside(), inside);
    }
    rig.want(u32::MAX);
    assert_eq!(rig.driver.target(), u32::MAX - 15);
    rig.finish();
}

#[test]
fn random_targets_and_use_of_memory_lose_nothing_whatever_the_device_delays() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let sets = ring_feature_sets();
        let balloon = random.next_u64() & ALL;
        let mut features = sets[random.index(sets.len())] | balloon;
        let in_order = features & feature::IN_ORDER != 0;
        if in_order {
            features &= !feature::RING_EVENT_IDX;
        }
        let mut rig = rig(seed, features);
        rig.balloon.habits = BalloonHabits {
            reorders: !in_order,
            delays_one_in: if in_order { 0 } else { 3 },
            ..BalloonHabits::default()
        };
        for _ in 0..200 {
            match random.below(7) {
                0 => rig.want(random.below(RAM as u64 + 500) as u32),
                1 => _ = rig.pages.use_pages(random.index(300)),
                2 => rig.pages.verify_and_free(random.index(300)),
                3 => _ = rig.balloon.ask_statistics(),
                4 => _ = rig.driver.report(&mut rig.pages).unwrap(),
                5 => {
                    let wanted = random.below(100) as u32;
                    rig.driver.relieve(wanted, &mut rig.pages).unwrap();
                }
                _ => rig.driver.resume(),
            }
            rig.driver.work(&mut rig.pages).unwrap();
            rig.balloon.serve();
        }
        rig.balloon.habits = BalloonHabits::default();
        rig.driver.resume();
        rig.want(0);
        assert_eq!(rig.settle(), Progress::Settled);
        assert_eq!(rig.inside(), 0);
        rig.finish();
    }
}

#[test]
fn a_guest_out_of_memory_takes_pages_and_the_balloon_does_not_grow_back_by_itself() {
    for must_tell in [0, MUST_TELL_HOST] {
        let mut rig = rig(1, DEFLATE_ON_OOM | must_tell);
        rig.want(RAM as u32);
        rig.settle();
        assert_eq!(rig.pages.use_pages(1), 0);
        assert_eq!(rig.driver.relieve(100, &mut rig.pages), Ok(100));
        assert_eq!(rig.settle(), Progress::Settled, "it wants to grow again");
        assert_eq!(rig.inside(), RAM - 100);
        assert_eq!(rig.driver.counters().relieved_pages, 100);
        rig.want(RAM as u32);
        assert_eq!(rig.settle(), Progress::Settled);
        assert_eq!(rig.inside(), RAM - 100, "the same target is no new one");
        rig.want(RAM as u32 - 1);
        rig.settle();
        assert_eq!(rig.inside(), RAM - 1);
        rig.driver.relieve(10, &mut rig.pages).unwrap();
        rig.settle();
        rig.driver.resume();
        rig.settle();
        assert_eq!(rig.inside(), RAM - 1);
        rig.finish();
    }
}

#[test]
fn without_the_feature_memory_pressure_takes_nothing_out_of_the_balloon() {
    let mut rig = rig(1, 0);
    rig.want(100);
    rig.settle();
    assert_eq!(rig.driver.relieve(10, &mut rig.pages), Ok(0));
    rig.settle();
    assert_eq!(rig.inside(), 100);
    rig.finish();
}

#[test]
fn statistics_wait_with_the_device_and_are_fresh_whenever_it_asks() {
    let mut rig = rig(1, ALL);
    assert!(!rig.balloon.ask_statistics(), "nothing was sent yet");
    rig.settle();
    let total = RAM as u64 * 4096;
    assert_eq!(
        rig.balloon.statistics,
        [(stat::MEMFREE, 1), (stat::MEMTOT, total)]
    );
    rig.pages.statistics.set(stat::MEMFREE, 2);
    rig.settle();
    assert_eq!(rig.balloon.statistics[0], (stat::MEMFREE, 1));
    assert!(rig.balloon.ask_statistics());
    rig.settle();
    assert_eq!(rig.balloon.statistics[0], (stat::MEMFREE, 2));
    rig.finish();
}

#[test]
fn statistics_keep_to_the_tags_of_the_first_message() {
    let mut rig = rig(1, STATS_VQ);
    rig.settle();
    let mut other = balloon_driver::Statistics::default();
    other.set(stat::OOM_KILL, 7);
    other.set(stat::MEMFREE, 9);
    rig.pages.statistics = other;
    rig.balloon.ask_statistics();
    rig.settle();
    let total = RAM as u64 * 4096;
    assert_eq!(
        rig.balloon.statistics,
        [(stat::MEMFREE, 9), (stat::MEMTOT, total)]
    );
    rig.finish();
}

#[test]
fn hints_run_from_start_to_stop_and_pages_stay_away_until_the_device_is_done() {
    for features in ring_feature_sets() {
        let mut rig = rig(1, features | ALL);
        rig.pages.use_pages(1000);
        rig.balloon.command(7);
        rig.driver.config_changed(&rig.platform).unwrap();
        rig.settle();
        assert_eq!(rig.balloon.hint_messages, [7, hint_command::STOP]);
        assert_eq!(rig.balloon.hinted_pages, 3096);
        assert_eq!(rig.pages.ram().count(Owner::Hinted), 3096);
        rig.driver.config_changed(&rig.platform).unwrap();
        rig.settle();
        assert_eq!(rig.balloon.hint_messages.len(), 2, "one run for a command");
        rig.balloon.command(hint_command::DONE);
        rig.driver.config_changed(&rig.platform).unwrap();
        rig.settle();
        assert_eq!(rig.pages.ram().count(Owner::Hinted), 0);
        rig.pages.verify_and_free(0);
        rig.finish();
    }
}

#[test]
fn a_stopped_run_ends_and_a_new_command_starts_another() {
    let mut rig = rig(1, FREE_PAGE_HINT);
    rig.balloon.command(2);
    rig.driver.config_changed(&rig.platform).unwrap();
    rig.driver.work(&mut rig.pages).unwrap();
    assert!(rig.pages.ram().count(Owner::Hinted) < RAM, "all at once");
    rig.balloon.command(hint_command::STOP);
    rig.driver.config_changed(&rig.platform).unwrap();
    rig.settle();
    assert_eq!(rig.balloon.hint_messages, [2, hint_command::STOP]);
    assert!(rig.balloon.stale_hints > 0);
    rig.balloon.command(3);
    rig.driver.config_changed(&rig.platform).unwrap();
    rig.settle();
    assert_eq!(rig.balloon.hint_messages[2..], [3, hint_command::STOP]);
    rig.balloon.command(hint_command::DONE);
    rig.driver.config_changed(&rig.platform).unwrap();
    rig.settle();
    assert_eq!(rig.pages.ram().count(Owner::Free), RAM);
    rig.finish();
}

#[test]
fn a_command_that_replaces_another_ends_its_run_first() {
    let mut rig = rig(1, FREE_PAGE_HINT);
    for command in [2, 9, 4] {
        rig.balloon.command(command);
        rig.driver.config_changed(&rig.platform).unwrap();
        rig.driver.work(&mut rig.pages).unwrap();
        rig.balloon.serve();
    }
    rig.settle();
    assert_eq!(rig.balloon.hint_messages, [2, 0, 9, 0, 4, 0]);
    rig.finish();
}

#[test]
fn reported_pages_are_out_of_use_until_the_device_acknowledged_them() {
    for features in ring_feature_sets() {
        let mut rig = rig(1, features | PAGE_REPORTING);
        rig.pages.use_pages(1000);
        assert_eq!(rig.driver.report(&mut rig.pages), Ok(false));
        let isolated = rig.pages.ram().count(Owner::Isolated);
        assert!(isolated > 0);
        assert_eq!(rig.pages.ram().count(Owner::Free), 3096 - isolated);
        for _ in 0..100 {
            rig.balloon.serve();
            if rig.driver.report(&mut rig.pages).unwrap() {
                break;
            }
        }
        rig.settle();
        assert_eq!(rig.balloon.reported_pages, 3096, "each page once");
        assert_eq!(rig.driver.counters().report_bytes, 3096 * 4096);
        assert_eq!(rig.pages.ram().count(Owner::Free), 3096);
        assert_eq!(rig.pages.use_pages(500), 500);
        rig.pages.verify_and_free(RAM);
        assert_eq!(rig.driver.report(&mut rig.pages), Ok(false));
        rig.settle();
        rig.finish();
    }
}

#[test]
fn poison_is_told_before_the_device_works_and_found_again_in_every_page() {
    let poison = 0xaaaa_aaaa;
    let options = Options {
        poison: Some(poison),
        ..options()
    };
    let mut rig = rig_with(1, registers(ALL | PAGE_POISON), options);
    assert_eq!(rig.balloon.config().poison_val.get(), poison);
    rig.want(2000);
    rig.settle();
    assert_eq!(rig.driver.report(&mut rig.pages), Ok(false));
    rig.settle();
    rig.want(0);
    rig.settle();
    // Every use checks the poison.
    assert_eq!(rig.pages.use_pages(RAM), RAM);
    rig.pages.verify_and_free(RAM);
    rig.finish();
}

#[test]
fn a_guest_without_poison_does_not_claim_to_have_one() {
    let rig = rig(1, ALL | PAGE_POISON);
    assert_eq!(rig.driver.features() & PAGE_POISON, 0);
    assert_ne!(rig.driver.features() & PAGE_REPORTING, 0);
    rig.finish();
}

#[test]
fn the_device_hears_of_the_size_in_steps_and_at_the_end() {
    let mut rig = rig(1, 0);
    rig.want(300);
    rig.driver.work(&mut rig.pages).unwrap();
    rig.balloon.serve();
    assert_eq!(rig.balloon.config().actual.get(), 0);
    rig.settle();
    assert_eq!(rig.balloon.config().actual.get(), 300);
    rig.finish();
}

#[test]
fn queues_are_found_with_and_without_gaps_in_their_numbers() {
    for features in [PAGE_REPORTING, STATS_VQ | PAGE_REPORTING, FREE_PAGE_HINT] {
        for extra in [0, 5 - virtio_spec::balloon::queue::count(features)] {
            let mut registers = registers(features);
            let queue = registers.queues[0].clone();
            registers.queues.extend(vec![queue; usize::from(extra)]);
            let mut rig = rig_with(1, registers, options());
            rig.want(1000);
            rig.settle();
            assert_eq!(rig.inside(), 1000);
            rig.balloon.command(2);
            rig.driver.config_changed(&rig.platform).unwrap();
            rig.settle();
            rig.driver.report(&mut rig.pages).unwrap();
            rig.settle();
            let hints = features & FREE_PAGE_HINT != 0;
            assert_eq!(rig.balloon.reported_pages > 0, !hints);
            assert_eq!(rig.balloon.hinted_pages > 0, hints);
            rig.finish();
        }
    }
}

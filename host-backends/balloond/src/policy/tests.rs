//! The policy over simulated hours. One rule: what must hold always is asserted in every round of every simulation.

use std::time::Duration;

use control_protocol::Policy;
use proptest::prelude::*;

use super::Reason;
use super::decide;
use super::share;
use super::share::Wish;
use super::simulation::Actor;
use super::simulation::GIB;
use super::simulation::MIB;
use super::simulation::World;

#[test]
fn a_host_with_enough_for_all_leaves_everybody_alone() {
    let mut world = World::new(
        32 * GIB,
        vec![Actor::new(8 * GIB, GIB), Actor::new(8 * GIB, 7 * GIB)],
    );
    world.is_calm(600);
}

#[test]
fn idle_memory_moves_to_who_needs_it() {
    let mut world = World::new(
        12 * GIB,
        vec![Actor::new(8 * GIB, GIB), Actor::new(8 * GIB, GIB)],
    );
    world.run(120);
    assert!(world.committed() <= 12 * GIB - world.settings.reserve);
    world.actors[0].uses = 6 * GIB;
    world.run(60);
    assert!(
        world.actors[0].holds() > 6 * GIB,
        "{} MiB",
        world.actors[0].holds() / MIB
    );
    assert!(world.actors[1].holds() >= GIB + 64 * MIB);
    world.is_calm(300);
    // And the other way round.
    (world.actors[0].uses, world.actors[1].uses) = (GIB, 6 * GIB);
    world.run(90);
    assert!(
        world.actors[1].holds() > 6 * GIB,
        "{} MiB",
        world.actors[1].holds() / MIB
    );
    world.run(60);
    world.is_calm(300);
}

#[test]
fn distress_is_answered_in_the_same_round_when_memory_is_free() {
    let mut world = World::new(32 * GIB, vec![Actor::new(8 * GIB, GIB)]);
    world.actors[0].guest.target = 6 * GIB;
    world.actors[0].guest.policy = Policy::Manual;
    world.run(30);
    world.actors[0].guest.policy = Policy::Auto;
    world.actors[0].uses = 5 * GIB;
    let decisions = world.step();
    assert_eq!(decisions.len(), 1);
    assert_eq!(decisions[0].reason, Reason::SwapIn);
    world.run(20);
    assert!(world.actors[0].holds() > 5 * GIB);
}

#[test]
fn a_guest_that_falls_silent_gets_its_memory_back() {
    let mut world = World::new(32 * GIB, vec![Actor::new(8 * GIB, GIB)]);
    world.actors[0].guest.target = 6 * GIB;
    world.actors[0].talks = true;
    world.step();
    world.actors[0].guest.target = 6 * GIB;
    world.actors[0].talks = false;
    let mut rounds = 0;
    while world.actors[0].allowed() < 8 * GIB {
        let decisions = world.step();
        assert!(
            decisions
                .iter()
                .all(|d| matches!(d.reason, Reason::NoStatistics | Reason::Plenty))
        );
        rounds += 1;
        assert!(rounds < 10, "it waits too long");
    }
    assert!(
        world.actors[0]
            .log
            .iter()
            .any(|(_, d)| d.reason == Reason::NoStatistics && d.to == 8 * GIB)
    );
}

#[test]
fn everybody_in_need_gets_its_fair_share_by_weight() {
    let actors = vec![
        Actor::new(16 * GIB, 15 * GIB)
            .weight(100)
            .limits(GIB, 16 * GIB),
        Actor::new(16 * GIB, 15 * GIB)
            .weight(200)
            .limits(GIB, 16 * GIB),
        Actor::new(16 * GIB, 15 * GIB)
            .weight(300)
            .limits(GIB, 16 * GIB),
    ];
    let mut world = World::new(24 * GIB, actors);
    world.run(600);
    let total: u64 = world.actors.iter().map(Actor::allowed).sum();
    for (actor, parts) in world.actors.iter().zip([1, 2, 3]) {
        let fair = total * parts / 6;
        let off = actor.allowed().abs_diff(fair);
        assert!(
            off < fair / 10,
            "{} MiB, fair is {} MiB",
            actor.allowed() / MIB,
            fair / MIB
        );
    }
    world.is_calm(300);
}

#[test]
fn a_floor_stands_against_any_need_of_others() {
    let actors = vec![
        Actor::new(8 * GIB, 100 * MIB).limits(3 * GIB, 8 * GIB),
        Actor::new(64 * GIB, 60 * GIB).weight(10_000),
    ];
    let mut world = World::new(16 * GIB, actors);
    world.run(300);
    assert_eq!(world.actors[0].allowed(), 3 * GIB);
}

#[test]
fn a_ceiling_and_a_raised_floor_hold_at_once() {
    let mut world = World::new(
        64 * GIB,
        vec![Actor::new(8 * GIB, GIB).limits(GIB, 4 * GIB)],
    );
    world.step();
    assert_eq!(world.actors[0].allowed(), 4 * GIB);
    world.actors[0].guest.ceiling = Some(2 * GIB);
    world.step();
    assert_eq!(world.actors[0].allowed(), 2 * GIB);
    (world.actors[0].guest.floor, world.actors[0].guest.ceiling) = (Some(3 * GIB), Some(4 * GIB));
    let decisions = world.step();
    assert_eq!(
        (decisions[0].to, decisions[0].reason),
        (3 * GIB, Reason::Limits)
    );
}

#[test]
fn a_guest_that_does_not_cooperate_is_not_counted_on() {
    let actors = vec![
        Actor::new(8 * GIB, GIB),
        Actor::new(8 * GIB, GIB),
        Actor::new(8 * GIB, GIB),
    ];
    let mut world = World::new(20 * GIB, actors);
    world.actors[0].speed = 0;
    world.run(240);
    // The others made up for it.
    assert!(world.committed() <= world.memory - world.settings.reserve);
    assert_eq!(world.actors[0].holds(), 8 * GIB);
}

#[test]
fn shortage_on_the_host_takes_only_what_guests_can_spare_and_gives_it_back_slowly() {
    let mut world = World::new(
        24 * GIB,
        vec![Actor::new(8 * GIB, 2 * GIB), Actor::new(8 * GIB, 6 * GIB)],
    );
    world.is_calm(60);
    world.others = 10 * GIB;
    world.run(60);
    let host = world.host().available.unwrap_or(0);
    assert!(host >= world.settings.reserve, "{} MiB", host / MIB);
    assert!(world.actors[1].holds() >= 6 * GIB);
    world.others = 0;
    world.run(5);
    assert!(world.actors[0].allowed() < 8 * GIB, "not at once");
    world.run(120);
    assert_eq!(world.actors[0].allowed(), 8 * GIB);
    world.is_calm(60);
}

#[test]
fn the_kernels_alarm_takes_surplus_though_figures_look_well() {
    let world = World::new(64 * GIB, vec![Actor::new(8 * GIB, GIB)]);
    let mut guest = world.actors[0].guest;
    guest.actual = Some(0);
    guest.sample = Some(super::Sample {
        available: Some(7 * GIB),
        ..super::Sample::default()
    });
    let mut host = world.host();
    host.alarm = true;
    let (decisions, ..) = decide(
        &world.settings,
        &host,
        &[guest],
        &[],
        Duration::from_secs(1),
    );
    assert_eq!(decisions.len(), 1);
    assert_eq!(decisions[0].reason, Reason::Surplus);
    host.alarm = false;
    let (decisions, ..) = decide(
        &world.settings,
        &host,
        &[guest],
        &[],
        Duration::from_secs(1),
    );
    assert!(decisions.is_empty());
}

#[test]
fn a_pool_of_a_fixed_size_is_kept_whatever_the_host_has() {
    let mut world = World::new(
        64 * GIB,
        vec![Actor::new(8 * GIB, GIB), Actor::new(8 * GIB, GIB)],
    );
    world.settings.pool = Some(10 * GIB);
    world.run(120);
    assert!(world.committed() <= 10 * GIB);
    world.is_calm(120);
}

#[test]
fn without_any_figures_of_the_host_nothing_grows() {
    let mut guest = Actor::new(8 * GIB, 8 * GIB).guest;
    guest.target = 4 * GIB;
    guest.actual = Some(4 * GIB);
    guest.sample = Some(super::Sample {
        available: Some(0),
        ..super::Sample::default()
    });
    let world = World::new(GIB, Vec::new());
    let host = super::Host::default();
    let (decisions, ..) = decide(
        &world.settings,
        &host,
        &[guest],
        &[],
        Duration::from_secs(1),
    );
    assert!(decisions.is_empty(), "{decisions:?}");
}

#[test]
fn manual_guests_are_left_alone_and_dry_runs_are_only_told() {
    let mut world = World::new(
        10 * GIB,
        vec![Actor::new(8 * GIB, GIB), Actor::new(8 * GIB, GIB)],
    );
    world.actors[0].guest.policy = Policy::Manual;
    world.actors[1].guest.policy = Policy::DryRun;
    world.run(30);
    assert!(world.actors[0].log.is_empty());
    assert!(!world.actors[1].log.is_empty());
    assert_eq!(world.actors[1].allowed(), 8 * GIB);
}

#[test]
fn changing_loads_do_not_make_targets_swing() {
    // A load that breathes: the answer must not breathe with it.
    let mut world = World::new(
        13 * GIB,
        vec![Actor::new(8 * GIB, 2 * GIB), Actor::new(8 * GIB, 2 * GIB)],
    );
    world.run(120);
    let before: usize = world.actors.iter().map(|actor| actor.log.len()).sum();
    for round in 0..600_u64 {
        let wave = (round % 20) * 20 * MIB;
        world.actors[0].uses = 2 * GIB + wave;
        world.actors[1].uses = 2 * GIB + 400 * MIB - wave;
        world.step();
    }
    let after: usize = world.actors.iter().map(|actor| actor.log.len()).sum();
    assert!(after - before <= 4, "{} decisions", after - before);
}

#[test]
fn the_next_guest_behind_a_device_is_not_judged_by_the_last_ones_counters() {
    let mut guest = Actor::new(8 * GIB, GIB).guest;
    let sample = |oom_kills| super::Sample {
        available: Some(4 * GIB),
        oom_kills: Some(oom_kills),
        ..super::Sample::default()
    };
    let world = World::new(64 * GIB, Vec::new());
    let second = Duration::from_secs(1);
    guest.target = 2 * GIB;
    guest.actual = Some(2 * GIB);
    guest.sample = Some(sample(0));
    let (_, states, _) = decide(&world.settings, &world.host(), &[guest], &[], second);
    let gone = super::Guest {
        size: None,
        ..guest
    };
    let (_, states, _) = decide(&world.settings, &world.host(), &[gone], &states, 2 * second);
    guest.sample = Some(sample(7));
    let (decisions, states, _) = decide(
        &world.settings,
        &world.host(),
        &[guest],
        &states,
        3 * second,
    );
    assert!(
        decisions.iter().all(|d| d.reason == Reason::Plenty),
        "{decisions:?}"
    );
    guest.sample = Some(sample(8));
    let (decisions, ..) = decide(
        &world.settings,
        &world.host(),
        &[guest],
        &states,
        4 * second,
    );
    assert_eq!(decisions[0].reason, Reason::OutOfMemory);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_loads_keep_floors_and_never_overcommit(
        memory in 4_u64..64,
        sizes in prop::collection::vec((1_u64..32, 1_u32..400, any::<bool>(), any::<bool>()), 1..7),
        loads in prop::collection::vec((0_usize..7, 0_u64..40 * 1024, 0_u64..8, any::<bool>()), 0..24),
    ) {
        let actors = sizes.iter().map(|(size, weight, limited, moves)| {
            let mut actor = Actor::new(size * GIB, size * GIB / 4).weight(*weight);
            if *limited {
                actor = actor.limits(size * GIB / 3, size * GIB * 3 / 4);
            }
            actor.speed *= u64::from(*moves);
            actor
        });
        let mut world = World::new(memory * GIB, actors.collect());
        world.run(20);
        for (who, uses, others, talks) in loads {
            if let Some(actor) = world.actors.get_mut(who) {
                actor.uses = uses * MIB;
                actor.talks = talks;
            }
            world.others = others * GIB / 2;
            world.run(15);
        }
        // With loads that stay as they are, targets come to rest.
        world.run(400);
        world.is_calm(50);
    }

    #[test]
    fn parts_by_weight_never_exceed_whole_or_cap(
        amount in 0_u64..1 << 50,
        parties in prop::collection::vec((0_u64..1 << 48, 0_u64..1000), 0..12),
    ) {
        let parts = share::by_weight(amount, &parties);
        let caps: u64 = parties.iter().map(|(cap, _)| cap).sum();
        prop_assert_eq!(parts.iter().sum::<u64>(), amount.min(caps));
        prop_assert!(parts.iter().zip(&parties).all(|(part, (cap, _))| part <= cap));
    }

    #[test]
    fn fair_shares_fill_the_whole_as_far_as_wishes_go(
        whole in 0_u64..1 << 44,
        wishes in prop::collection::vec((0_u64..1 << 40, 0_u64..1 << 41, 1_u64..1000), 1..12),
    ) {
        let wishes: Vec<Wish> = wishes.into_iter()
            .map(|(floor, more, weight)| Wish { floor, most: floor + more, weight }).collect();
        let parts = share::fair(whole, &wishes);
        let floors: u64 = wishes.iter().map(|w| w.floor).sum();
        let most: u64 = wishes.iter().map(|w| w.most).sum();
        let sum: u64 = parts.iter().sum();
        prop_assert!(sum <= whole.max(floors));
        prop_assert!(sum + 100_000 >= whole.clamp(floors, most));
        for (part, wish) in parts.iter().zip(&wishes) {
            prop_assert!((wish.floor..=wish.most).contains(part));
        }
    }
}

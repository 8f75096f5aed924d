//! Free page hints. One rule: hinted pages are never touched.

use device_model::Device;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::feature;
use virtqueue::Segment;

use super::rig::*;
use crate::BalloonSpec;
use crate::Error;
use crate::HintState;

fn command(rig: &mut Rig, id: u32) {
    let segment = rig.place(&id.to_le_bytes());
    rig.send(HINTS, &[segment], &[]);
}

fn hint(rig: &mut Rig, addr: u64, len: u32) {
    rig.send(HINTS, &[], &[Segment { addr, len }]);
}

fn shown(rig: &Rig) -> u32 {
    let mut bytes = [0; 4];
    rig.device.read_config(8, &mut bytes);
    u32::from_le_bytes(bytes)
}

#[test]
fn a_round_starts_runs_completes_and_ends() {
    let mut rig = Rig::new(everything());
    assert_eq!(
        (shown(&rig), rig.device.hints()),
        (0, (HintState::Stopped, 0))
    );
    let id = rig.device.start_hints().expect("a round");
    assert_eq!(shown(&rig), id);
    assert_eq!(rig.device.hints().0, HintState::Asked);
    command(&mut rig, id);
    hint(&mut rig, HIGH, 4 << 20);
    hint(&mut rig, HIGH + (4 << 20), 4 << 20);
    assert_eq!(rig.device.hints(), (HintState::Running, 8 << 20));
    command(&mut rig, 0);
    assert_eq!(rig.device.hints(), (HintState::Complete, 8 << 20));
    assert_eq!(rig.device.hinted(), [(HIGH, 8 << 20)]);
    rig.device.end_hints();
    assert_eq!((shown(&rig), rig.device.hints()), (1, (HintState::Done, 0)));
    rig.only_lost(|_| false);
    assert_eq!(rig.metrics().stale_hints, 0);
}

#[test]
fn hints_of_a_round_that_is_over_are_counted_and_ignored() {
    let mut rig = Rig::new(everything());
    let first = rig.device.start_hints().expect("a round");
    command(&mut rig, first);
    let second = rig.device.start_hints().expect("a round");
    assert_ne!(first, second);
    hint(&mut rig, HIGH, 4096);
    assert_eq!(rig.device.hints(), (HintState::Asked, 0));
    command(&mut rig, first);
    hint(&mut rig, HIGH, 4096);
    assert_eq!(rig.device.hints(), (HintState::Asked, 0));
    assert_eq!(rig.metrics().stale_hints, 3);
    // The end of the old round does not end the new one.
    command(&mut rig, 0);
    assert_eq!(rig.device.hints().0, HintState::Asked);
    command(&mut rig, second);
    hint(&mut rig, HIGH, 4096);
    assert_eq!(rig.device.hints(), (HintState::Running, 4096));
    rig.device.stop_hints();
    hint(&mut rig, HIGH + 4096, 4096);
    assert_eq!(rig.device.hints().1, 4096);
    command(&mut rig, 77);
    hint(&mut rig, HIGH + 4096, 4096);
    rig.only_lost(|_| false);
    assert_eq!(rig.device.hints().1, 4096);
}

#[test]
fn hints_outside_memory_or_of_parts_of_pages_count_what_is_whole() {
    let mut rig = Rig::new(everything());
    let id = rig.device.start_hints().expect("a round");
    command(&mut rig, id);
    hint(&mut rig, END - PAGE_SIZE, 1 << 20);
    hint(&mut rig, HIGH + 1, 8191);
    hint(&mut rig, HIGH + (1 << 20), 100);
    hint(&mut rig, u64::MAX - 100, u32::MAX);
    assert_eq!(
        rig.device.hinted(),
        [(HIGH + PAGE_SIZE, PAGE_SIZE), (END - PAGE_SIZE, PAGE_SIZE)]
    );
}

#[test]
fn commands_of_the_wrong_length_are_malformed() {
    let mut rig = Rig::new(everything());
    let id = rig.device.start_hints().expect("a round");
    for bytes in [&id.to_le_bytes()[..3], &[0; 8][..]] {
        let segment = rig.place(bytes);
        rig.send(HINTS, &[segment], &[]);
    }
    let hole = Segment {
        addr: u64::MAX - 8,
        len: 4,
    };
    rig.send(HINTS, &[hole], &[]);
    assert_eq!(rig.metrics().malformed_chains, 3);
    assert_eq!(rig.device.hints().0, HintState::Asked);
}

#[test]
fn commands_may_be_split_at_any_byte() {
    let mut rig = Rig::new(everything());
    for at in 1..4 {
        let id = rig.device.start_hints().expect("a round");
        let bytes = id.to_le_bytes();
        let parts = [rig.place(&bytes[..at]), rig.place(&bytes[at..])];
        rig.send(HINTS, &parts, &[]);
        assert_eq!(rig.device.hints().0, HintState::Running, "cut at {at}");
    }
    assert_eq!(rig.metrics().malformed_chains, 0);
}

#[test]
fn no_round_has_the_id_of_an_earlier_one_after_a_reset_or_a_restart() {
    let mut rig = Rig::new(everything());
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(rig.device.start_hints().expect("a round"));
        ids.push(rig.device.start_hints().expect("a round"));
        rig.device.reset();
        assert_eq!(shown(&rig), 0, "nobody is asked");
        rig.device.acked(rig.device.features());
    }
    // Another process for the same driver, which remembers.
    rig = Rig::new(everything());
    ids.push(rig.device.start_hints().expect("a round"));
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "{ids:x?}");
    assert!(ids.iter().all(|id| *id >= 2));
}

#[test]
fn a_driver_without_hints_is_not_asked() {
    let spec = BalloonSpec {
        packed: false,
        ..everything()
    };
    let rig = Rig::with(spec, !feature::FREE_PAGE_HINT);
    assert!(matches!(rig.device.start_hints(), Err(Error::NoHints)));
}

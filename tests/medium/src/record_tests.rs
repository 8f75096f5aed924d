//! The judge itself: it must see what is missing.

use super::*;

fn write(first: u32, versions: &[u32], durable: bool) -> Event {
    Event::Write {
        first,
        contents: versions
            .iter()
            .map(|version| Content::Version(*version))
            .collect(),
        durable,
    }
}

fn judge(events: Vec<Event>, flush_at: usize) -> Result<Verified> {
    let mut ledger = Ledger::new(8);
    let versions = ledger.submit(2, 2, false);
    ledger.acknowledge(2, versions, false, 0);
    let versions = ledger.at_flush();
    ledger.flushed(versions, flush_at);
    Record { sectors: 8, events }.verify(&ledger, 1, 100)
}

#[test]
fn a_flush_needs_a_sync_after_the_writes() {
    assert!(judge(vec![write(2, &[1, 1], false), Event::Sync], 2).is_ok());
    assert!(judge(vec![write(2, &[1, 1], true)], 1).is_ok());
    assert!(judge(vec![write(2, &[1, 1], false)], 1).is_err(), "no sync");
    assert!(
        judge(vec![write(2, &[1, 1], false), Event::Sync], 1).is_err(),
        "too late"
    );
    assert!(
        judge(vec![Event::Sync, write(2, &[1, 1], false)], 2).is_err(),
        "too early"
    );
    assert!(judge(vec![write(2, &[1], true)], 1).is_err(), "half of it");
    assert!(judge(vec![Event::Sync], 1).is_err(), "nothing came");
}

#[test]
fn old_and_torn_sectors_are_seen() {
    let mut ledger = Ledger::new(4);
    for durable in [false, true] {
        let versions = ledger.submit(0, 1, false);
        ledger.acknowledge(0, versions, durable, 2);
    }
    let verify = |last: Content| {
        let contents = vec![last];
        let later = Event::Write {
            first: 0,
            contents,
            durable: false,
        };
        let events = vec![write(0, &[1], true), write(0, &[2], true), later];
        Record { sectors: 4, events }.verify(&ledger, 1, 50)
    };
    assert!(verify(Content::Version(2)).is_ok());
    for bad in [
        Content::Version(1),
        Content::Zero,
        Content::Torn,
        Content::Version(3),
    ] {
        assert!(verify(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn zeroes_are_a_version_where_the_driver_zeroed() {
    let mut ledger = Ledger::new(1);
    ledger.submit(0, 1, false);
    let versions = ledger.submit(0, 1, true);
    ledger.acknowledge(0, versions, true, 1);
    let zero = Event::Write {
        first: 0,
        contents: vec![Content::Zero],
        durable: true,
    };
    let record = |event| Record {
        sectors: 1,
        events: vec![event],
    };
    assert!(record(zero).verify(&ledger, 1, 1).is_ok());
    assert!(record(write(0, &[1], true)).verify(&ledger, 1, 1).is_err());
}

//! The backend dies at chosen points. Rule: what counts is what the next one is told, and that both sides of every
//! queue are woken.

use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use host_os::EventFd;
use vhost_user_protocol::FrontendMessage as Message;
use vhost_user_protocol::Request;
use vhost_user_protocol::feature::protocol;
use virtio_spec::feature;

use super::fake::FakeBackend;
use super::fake::Turn;
use super::session::Notes;
use super::support::Guest;
use super::support::areas;
use super::support::eventually;
use super::support::queue;
use crate::session::Session;

struct Fixture {
    backend: FakeBackend,
    guest: Guest,
    notes: Arc<Notes>,
    session: Session,
}

fn connect(backend: FakeBackend) -> Fixture {
    let guest = Guest::new();
    let notes = Arc::new(Notes::default());
    let session = Session::connect(backend.spec(), guest.memory(), notes.clone()).unwrap();
    Fixture {
        backend,
        guest,
        notes,
        session,
    }
}

fn started(features: u64) -> (Fixture, Arc<EventFd>) {
    let fixture = connect(FakeBackend::new());
    let setup = queue(1, 64);
    let call = Arc::clone(&setup.call);
    let features = feature::VERSION_1 | features;
    fixture.session.start(features, vec![setup]).unwrap();
    fixture.backend.wait_for_kick(1);
    (fixture, call)
}

impl Fixture {
    fn wait_for_return(&self, connection: usize) {
        eventually("the return", || {
            self.backend.connections() > connection && self.session.health().connected
        });
    }

    fn base(&self, connection: usize) -> Option<u32> {
        let heard = self.backend.heard(connection);
        heard.iter().find_map(|message| match message {
            Message::SetVringBase(state) => Some(state.num),
            _ => None,
        })
    }

    fn wait_for_error(&self, text: &str) {
        eventually(text, || {
            let error = self.session.health().last_error;
            error.is_some_and(|error| error.contains(text))
        });
    }
}

#[test]
fn the_next_backend_is_told_everything_and_both_sides_are_woken() {
    let (fixture, call) = started(0);
    let first = fixture.backend.heard(0);
    fixture
        .guest
        .write(areas(1).2 + 2, &0xfffeu16.to_le_bytes());
    fixture.backend.die();
    fixture.backend.wait_for_kick(1);
    fixture.wait_for_return(1);
    assert_eq!(
        call.drain_count(),
        1,
        "an interrupt may have died with the first"
    );
    let second = fixture.backend.heard(1);
    let without_base = |heard: &[Message]| {
        let keep = |message: &&Message| {
            !matches!(
                message.request(),
                Request::SetVringBase | Request::GetInflightFd | Request::SetInflightFd
            )
        };
        heard.iter().filter(keep).cloned().collect::<Vec<_>>()
    };
    assert_eq!(without_base(&first), without_base(&second));
    assert_eq!(fixture.base(0), Some(0));
    assert_eq!(fixture.base(1), Some(0xfffe), "the used index of the ring");
    assert!(fixture.notes.has("gone") && fixture.notes.has("back"));
    assert_eq!(fixture.session.health().reconnects, 1);
}

#[test]
fn the_in_flight_record_survives_the_backend() {
    let (fixture, _) = started(0);
    let record = || {
        let facts = fixture.backend.facts.lock().unwrap();
        let file = facts.files.get(&(Request::SetInflightFd, 0)).unwrap();
        file.metadata().unwrap().ino()
    };
    let first = record();
    fixture.backend.die();
    fixture.wait_for_return(1);
    assert_eq!(record(), first);
    assert!(!fixture.backend.heard_any(1, Request::GetInflightFd));
    fixture.session.reset();
    let version = feature::VERSION_1;
    fixture.session.start(version, vec![queue(1, 64)]).unwrap();
    assert_ne!(record(), first, "a new life of the device has a new record");
}

/// The requests of negotiation and start, in order.
const POINTS: [Request; 19] = [
    Request::GetFeatures,
    Request::SetOwner,
    Request::GetProtocolFeatures,
    Request::SetProtocolFeatures,
    Request::GetQueueNum,
    Request::GetMaxMemSlots,
    Request::SetBackendReqFd,
    Request::GetConfig,
    Request::SetFeatures,
    Request::SetStatus,
    Request::SetMemTable,
    Request::SetInflightFd,
    Request::SetVringNum,
    Request::SetVringBase,
    Request::SetVringAddr,
    Request::SetVringCall,
    Request::SetVringErr,
    Request::SetVringKick,
    Request::SetVringEnable,
];

/// A backend that dies when it hears `point` on connection `victim`.
fn dying_at(victim: usize, point: Request) -> FakeBackend {
    FakeBackend::scripted(move |connection, message| {
        if connection == victim && message.request() == point {
            Turn::Close
        } else {
            Turn::Answer
        }
    })
}

#[test]
fn a_death_at_any_point_of_the_start_is_made_good() {
    for point in POINTS {
        let fixture = connect(dying_at(0, point));
        let version = feature::VERSION_1;
        fixture.session.start(version, vec![queue(1, 64)]).unwrap();
        fixture.backend.wait_for_kick(1);
    }
}

#[test]
fn a_death_at_any_point_of_the_replay_is_made_good() {
    for point in POINTS {
        let fixture = connect(dying_at(1, point));
        let version = feature::VERSION_1;
        fixture.session.start(version, vec![queue(1, 64)]).unwrap();
        fixture.backend.wait_for_kick(1);
        fixture.guest.write(areas(1).2 + 2, &[3, 0]);
        fixture.backend.die();
        fixture.wait_for_return(2);
        assert_eq!(fixture.base(2), Some(3), "{point:?}");
        assert!(fixture.backend.kicked(1), "{point:?}");
    }
}

#[test]
fn a_device_started_while_the_backend_is_away_starts_when_it_returns() {
    let mut fixture = connect(FakeBackend::new());
    fixture.backend.vanish();
    eventually("the loss", || !fixture.session.health().connected);
    let version = feature::VERSION_1;
    let setup = queue(1, 64);
    fixture.guest.write(areas(1).2 + 2, &[9, 0]);
    fixture.session.start(version, vec![setup]).unwrap();
    assert!(fixture.session.write_config(32, &[1]).is_err());
    fixture.wait_for_error("Cannot connect");
    fixture.backend.listen();
    fixture.backend.wait_for_kick(1);
    assert_eq!(fixture.base(1), Some(0), "nobody had this ring before");
}

#[test]
fn a_device_reset_while_the_backend_is_away_stays_reset() {
    let (mut fixture, _) = started(0);
    fixture.backend.vanish();
    assert_eq!(fixture.session.stop_queue(1), None);
    fixture.session.reset();
    fixture.backend.listen();
    fixture.wait_for_return(1);
    assert!(!fixture.backend.heard_any(1, Request::SetVringKick));
}

#[test]
fn a_call_changed_while_the_backend_is_away_is_the_one_that_is_sent() {
    let (mut fixture, old) = started(0);
    fixture.backend.vanish();
    let call = Arc::new(EventFd::new().unwrap());
    fixture.session.set_call(1, Arc::clone(&call));
    fixture.backend.listen();
    fixture.backend.wait_for_kick(1);
    fixture.wait_for_return(1);
    call.drain_count();
    fixture.backend.signal(Request::SetVringCall, 1);
    assert_eq!((call.drain_count(), old.drain_count()), (1, 0));
}

#[test]
fn a_backend_that_lost_features_is_not_given_the_device() {
    let (fixture, _) = started(feature::RING_EVENT_IDX);
    fixture
        .backend
        .set(|facts| facts.features &= !feature::RING_EVENT_IDX);
    fixture.backend.die();
    fixture.wait_for_error("features 0x20000000 are gone");
    assert!(!fixture.backend.heard_any(1, Request::SetVringKick));
    fixture
        .backend
        .set(|facts| facts.features |= feature::RING_EVENT_IDX);
    fixture.backend.wait_for_kick(1);
}

#[test]
fn a_backend_that_lost_queues_is_not_given_the_device() {
    let (fixture, _) = started(0);
    fixture.backend.set(|facts| facts.queues = 1);
    fixture.backend.die();
    fixture.wait_for_error("queue 1 is in use");
    fixture.backend.set(|facts| facts.queues = 2);
    fixture.backend.wait_for_kick(1);
}

#[test]
fn a_backend_that_keeps_no_record_is_not_given_the_device() {
    let (fixture, _) = started(0);
    fixture
        .backend
        .set(|facts| facts.protocol &= !protocol::INFLIGHT_SHMFD);
    fixture.backend.die();
    fixture.wait_for_error("in-flight record");
    fixture
        .backend
        .set(|facts| facts.protocol |= protocol::INFLIGHT_SHMFD);
    fixture.backend.wait_for_kick(1);
}

#[test]
fn a_disk_may_grow_while_the_backend_is_away_but_not_change_its_kind() {
    let (fixture, _) = started(0);
    fixture.backend.set(|facts| facts.config[0] = 200);
    fixture.backend.die();
    eventually("the report", || fixture.notes.has("config 200"));
    assert_eq!(fixture.session.config()[0], 200);
    fixture.backend.set(|facts| facts.config[20] ^= 0xff);
    fixture.backend.die();
    fixture.wait_for_error("configuration byte 20 differs");
    fixture.session.reset();
    fixture.wait_for_return(2);
    assert!(fixture.session.health().last_error.is_none());
}

#[test]
fn an_idle_device_may_come_back_as_anything() {
    let fixture = connect(FakeBackend::new());
    fixture.backend.set(|facts| {
        facts.features &= !feature::RING_PACKED;
        facts.config = vec![77; 60];
    });
    fixture.backend.die();
    fixture.wait_for_return(1);
    assert_eq!(fixture.session.offered() & feature::RING_PACKED, 0);
    eventually("the report", || fixture.notes.has("config 77"));
}

#[test]
fn a_packed_ring_goes_on_where_the_record_says() {
    let (fixture, _) = started(feature::RING_PACKED);
    let record = {
        let facts = fixture.backend.facts.lock().unwrap();
        let file = facts.files.get(&(Request::SetInflightFd, 0)).unwrap();
        file.try_clone().unwrap()
    };
    // Queue 1 of two in 0x2000 bytes: version, then used and old used index 5, wrap counters 0, padding.
    record.write_all_at(&[1, 0], 0x1008).unwrap();
    record
        .write_all_at(&[5, 0, 5, 0, 0, 0, 0, 0], 0x1010)
        .unwrap();
    fixture.backend.die();
    fixture.backend.wait_for_kick(1);
    assert_eq!(fixture.base(0), Some(0x8000_8000));
    assert_eq!(fixture.base(1), Some(0x0005_0005));
}

#[test]
fn a_packed_ring_without_a_record_needs_a_reset_and_lives_on_after_it() {
    let fixture = connect(FakeBackend::new());
    let without = protocol::INFLIGHT_SHMFD;
    fixture.backend.set(|facts| facts.protocol &= !without);
    fixture.backend.die();
    fixture.wait_for_return(1);
    let features = feature::VERSION_1 | feature::RING_PACKED;
    let start = || fixture.session.start(features, vec![queue(1, 64)]);
    start().unwrap();
    fixture.backend.wait_for_kick(1);
    fixture.backend.die();
    let told = "reset: Queue 1 cannot be recovered: the backend kept no valid in-flight record";
    eventually("the report", || fixture.notes.has(told));
    fixture.wait_for_return(2);
    fixture.session.reset();
    start().unwrap();
    fixture.backend.wait_for_kick(1);
}

#[test]
fn a_backend_that_dies_again_and_again_is_followed_every_time() {
    let (fixture, call) = started(0);
    for round in 1..=50u16 {
        fixture.guest.write(areas(1).2 + 2, &round.to_le_bytes());
        fixture.backend.die();
        fixture.wait_for_return(round.into());
        fixture.backend.wait_for_kick(1);
        assert_eq!(fixture.base(round.into()), Some(round.into()));
        eventually("an interrupt", || call.drain_count() > 0);
    }
    assert_eq!(fixture.session.health().reconnects, 50);
}

#[test]
fn a_session_ends_while_its_backend_is_away() {
    let (mut fixture, _) = started(0);
    fixture.backend.vanish();
    fixture.wait_for_error("Cannot connect");
    drop(fixture.session);
}

//! What the session tells a backend, and in which order. Rule: checked on the wire, not in the session's state.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use host_os::EventFd;
use vhost_user_protocol::DeviceStatePhase;
use vhost_user_protocol::DeviceStateTransfer;
use vhost_user_protocol::FrontendMessage as Message;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::TransferDirection;
use vhost_user_protocol::feature::LOG_ALL;
use vhost_user_protocol::feature::PROTOCOL_FEATURES;
use vhost_user_protocol::feature::protocol;
use virtio_spec::feature;

use super::fake::FakeBackend;
use super::fake::Turn;
use super::support::GUEST_BASE;
use super::support::Guest;
use super::support::areas;
use super::support::eventually;
use super::support::queue;
use crate::Error;
use crate::session::DirtyLog;
use crate::session::Events;
use crate::session::Region;
use crate::session::Session;

/// Writes down what it is told.
#[derive(Default)]
pub struct Notes(pub Mutex<Vec<String>>);

impl Events for Notes {
    fn config_changed(&self, config: &[u8]) {
        self.note(format!("config {}", config[0]));
    }
    fn needs_reset(&self, reason: &Error) {
        self.note(format!("reset: {reason}"));
    }
    fn disconnected(&self) {
        self.note("gone".into());
    }
    fn reconnected(&self) {
        self.note("back".into());
    }
}

impl Notes {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
    pub fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|note| note == text)
    }
}

fn connect(backend: &FakeBackend) -> Session {
    Session::connect(backend.spec(), Guest::new().memory(), Arc::new(())).unwrap()
}

fn requests(backend: &FakeBackend, connection: usize) -> Vec<Request> {
    let heard = backend.heard(connection);
    heard.iter().map(Message::request).collect()
}

#[test]
fn a_session_negotiates_before_anything_else() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    let expected = [
        Request::GetFeatures,
        Request::SetOwner,
        Request::GetProtocolFeatures,
        Request::SetProtocolFeatures,
        Request::GetQueueNum,
        Request::GetMaxMemSlots,
        Request::SetBackendReqFd,
        Request::GetConfig,
        Request::GetInflightFd,
    ];
    assert_eq!(requests(&backend, 0), expected);
    assert_eq!(session.queue_count(), 2);
    assert_eq!(session.config(), (1..=60).collect::<Vec<u8>>());
    let visible = feature::VERSION_1 | feature::RING_EVENT_IDX | feature::RING_PACKED;
    assert_eq!(session.offered(), visible);
}

#[test]
fn a_started_device_has_its_memory_rings_and_descriptors() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    let (first, second) = (queue(0, 64), queue(1, 128));
    let features = feature::VERSION_1 | 1 << 50;
    session.start(features, vec![first, second]).unwrap();
    let heard = backend.heard(0);
    let features = feature::VERSION_1 | PROTOCOL_FEATURES;
    assert!(heard.contains(&Message::SetFeatures(features)));
    let Some(Message::SetMemTable(table)) = heard
        .iter()
        .find(|message| message.request() == Request::SetMemTable)
    else {
        panic!("no memory table");
    };
    assert_eq!(table[0].guest_addr, GUEST_BASE);
    let addresses: Vec<_> = heard
        .iter()
        .filter_map(|message| match message {
            Message::SetVringAddr(address) => Some(*address),
            _ => None,
        })
        .collect();
    let to_user = |address: u64| address - GUEST_BASE + table[0].user_addr;
    assert_eq!(addresses[1].index, 1);
    assert_eq!(addresses[1].descriptor, to_user(areas(1).0));
    assert_eq!(addresses[1].available, to_user(areas(1).1));
    assert_eq!(addresses[1].used, to_user(areas(1).2));
    assert_eq!(addresses[1].log, areas(1).2);
    assert_eq!(addresses[1].flags, 0);
    for queue in [0, 1] {
        assert!(backend.kicked(queue), "kicked after it was enabled");
    }
}

#[test]
fn rings_are_enabled_only_when_all_are_complete_and_the_record_is_there() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    let queues = vec![queue(0, 64), queue(1, 64)];
    session.start(feature::VERSION_1, queues).unwrap();
    let heard = requests(&backend, 0);
    let position = |request| heard.iter().position(|at| *at == request).unwrap();
    let last = |request| heard.iter().rposition(|at| *at == request).unwrap();
    assert!(position(Request::SetMemTable) < last(Request::GetInflightFd));
    assert!(last(Request::GetInflightFd) < position(Request::SetInflightFd));
    assert!(position(Request::SetInflightFd) < position(Request::SetVringNum));
    assert!(last(Request::SetVringKick) < position(Request::SetVringEnable));
    assert!(last(Request::SetVringEnable) < last(Request::SetStatus));
}

#[test]
fn a_fresh_packed_ring_starts_with_both_wrap_counters_set() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    let features = feature::VERSION_1 | feature::RING_PACKED;
    session.start(features, vec![queue(0, 100)]).unwrap();
    let heard = backend.heard(0);
    assert!(heard.iter().any(|message| matches!(
        message,
        Message::SetVringBase(state) if state.num == 0x8000_8000
    )));
}

#[test]
fn stop_returns_where_each_ring_stood_and_start_takes_it_back() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    let mut setup = queue(1, 64);
    let version = feature::VERSION_1;
    session.start(version, vec![setup.clone()]).unwrap();
    assert_eq!(session.stop(), vec![(1, 7)]);
    assert_eq!(session.stop(), vec![]);
    setup.base = Some(7);
    session.start(version, vec![setup]).unwrap();
    let last = backend.heard(0).into_iter().rev().find_map(|message| {
        let Message::SetVringBase(state) = message else {
            return None;
        };
        Some(state.num)
    });
    assert_eq!(last, Some(7));
}

#[test]
fn reset_uses_the_best_way_the_backend_knows() {
    for (without, expected, absent) in [
        (0, Request::ResetDevice, None),
        (
            protocol::RESET_DEVICE,
            Request::SetStatus,
            Some(Request::ResetDevice),
        ),
    ] {
        let backend = FakeBackend::new();
        backend.set(|facts| facts.protocol &= !without);
        let session = connect(&backend);
        session
            .start(feature::VERSION_1, vec![queue(0, 64)])
            .unwrap();
        session.reset();
        assert_eq!(requests(&backend, 0).last(), Some(&expected));
        assert!(!absent.is_some_and(|absent| backend.heard_any(0, absent)));
        assert!(backend.heard_any(0, Request::GetVringBase));
    }
}

#[test]
fn a_backend_with_no_protocol_features_still_works() {
    let backend = FakeBackend::new();
    backend.set(|facts| facts.features &= !PROTOCOL_FEATURES);
    let mut spec = backend.spec();
    spec.config_len = 0;
    let session = Session::connect(spec.clone(), Guest::new().memory(), Arc::new(())).unwrap();
    assert_eq!(session.queue_count(), 1);
    session
        .start(feature::VERSION_1, vec![queue(0, 64)])
        .unwrap();
    backend.wait_for_kick(0);
    assert!(!backend.heard_any(0, Request::SetVringEnable));
    spec.config_len = 60;
    let error = Session::connect(spec, Guest::new().memory(), Arc::new(()));
    drop(session);
    assert!(matches!(error, Err(Error::Missing(_) | Error::Timeout(_))));
}

#[test]
fn a_ring_that_is_not_in_memory_is_refused_and_never_sent() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    let end = GUEST_BASE + super::support::RAM_SIZE;
    type Change = fn(&mut crate::session::QueueSetup, u64);
    let changes: [Change; 8] = [
        |queue, _| queue.descriptors = 0,
        |queue, end| queue.descriptors = end - 16,
        |queue, _| queue.driver = u64::MAX,
        |queue, end| queue.device = end - 4,
        |queue, _| queue.descriptors += 8,
        |queue, _| queue.device += 2,
        |queue, _| queue.size = 0,
        |queue, _| queue.size = 100,
    ];
    for change in changes {
        let mut setup = queue(0, 64);
        change(&mut setup, end);
        let error = session.start(feature::VERSION_1, vec![setup]);
        assert!(matches!(error, Err(Error::Queue { index: 0, .. })));
    }
    let twice = vec![queue(0, 64), queue(0, 64)];
    assert!(session.start(feature::VERSION_1, twice).is_err());
    assert!(
        session
            .start(feature::VERSION_1, vec![queue(2, 64)])
            .is_err()
    );
    assert!(!backend.heard_any(0, Request::SetVringNum));
    session
        .start(feature::VERSION_1, vec![queue(0, 64)])
        .unwrap();
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_refused_start_is_an_error_and_the_next_one_may_succeed() {
    let backend = FakeBackend::scripted(|connection, message| match message {
        Message::SetVringAddr(_) if connection == 0 => Turn::Refuse,
        _ => Turn::Answer,
    });
    let session = connect(&backend);
    let error = session.start(feature::VERSION_1, vec![queue(0, 64)]);
    assert!(matches!(error, Err(Error::Refused(Request::SetVringAddr))));
    eventually("a new connection", || session.health().connected);
    session
        .start(feature::VERSION_1, vec![queue(0, 64)])
        .unwrap();
    backend.wait_for_kick(0);
}

#[test]
fn an_announced_configuration_is_fetched_and_reported() {
    let backend = FakeBackend::new();
    let notes = Arc::new(Notes::default());
    let session = Session::connect(backend.spec(), Guest::new().memory(), notes.clone()).unwrap();
    assert_eq!(backend.announce_config(vec![99; 60]), 0);
    eventually("the report", || notes.has("config 99"));
    assert_eq!(session.config(), vec![99; 60]);
}

#[test]
fn a_configuration_write_reaches_the_backend() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    session.write_config(32, &[1]).unwrap();
    let heard = backend.heard(0);
    assert!(heard.iter().any(|message| matches!(
        message,
        Message::SetConfig(config) if config.offset == 32 && config.data == [1]
    )));
    backend.set(|facts| {
        facts.script = Box::new(|_, message| match message {
            Message::SetConfig(_) => Turn::Refuse,
            _ => Turn::Answer,
        });
    });
    // Before the start the backend may not yet know why it should; it is asked again then.
    assert!(session.write_config(32, &[0]).is_err());
    session
        .start(feature::VERSION_1, vec![queue(0, 64)])
        .unwrap();
    let refused = session.write_config(32, &[0]);
    assert!(matches!(refused, Err(Error::Refused(Request::SetConfig))));
    assert!(session.health().connected);
}

#[test]
fn one_queue_stops_and_starts_while_the_others_run() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    let queues = vec![queue(0, 64), queue(1, 64)];
    session.start(feature::VERSION_1, queues).unwrap();
    assert_eq!(session.stop_queue(1), Some(7));
    assert_eq!(session.stop_queue(1), None);
    session.start_queue(queue(1, 32)).unwrap();
    let heard = backend.heard(0);
    let stops = heard
        .iter()
        .filter(|message| message.request() == Request::GetVringBase);
    assert_eq!(stops.count(), 1);
    assert!(matches!(
        heard.last(),
        Some(Message::SetVringEnable(state)) if state.index == 1 && state.num == 1
    ));
}

#[test]
fn a_new_call_descriptor_is_sent_and_signalled() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    session
        .start(feature::VERSION_1, vec![queue(0, 64)])
        .unwrap();
    let call = Arc::new(EventFd::new().unwrap());
    session.set_call(0, Arc::clone(&call));
    assert_eq!(call.drain_count(), 1, "one interrupt may have gone astray");
    backend.signal(Request::SetVringCall, 0);
    assert_eq!(call.drain_count(), 1);
    session.set_call(9, call);
}

#[test]
fn the_error_descriptor_of_a_queue_asks_for_a_reset() {
    let backend = FakeBackend::new();
    let notes = Arc::new(Notes::default());
    let session = Session::connect(backend.spec(), Guest::new().memory(), notes.clone()).unwrap();
    session
        .start(feature::VERSION_1, vec![queue(1, 64)])
        .unwrap();
    // The session's thread learns of new queues when it is woken.
    backend.signal(Request::SetVringErr, 1);
    let told = "reset: Queue 1: the backend found the ring to be malformed";
    eventually("the report", || notes.has(told));
}

#[test]
fn a_backend_that_asks_for_a_reset_in_its_status_is_heard() {
    let backend = FakeBackend::new();
    let notes = Arc::new(Notes::default());
    let session = Session::connect(backend.spec(), Guest::new().memory(), notes.clone()).unwrap();
    session
        .start(feature::VERSION_1, vec![queue(1, 64)])
        .unwrap();
    backend.set(|facts| {
        facts.script = Box::new(|_, message| match message {
            Message::GetStatus => Turn::Raw(Reply::U64(0x4f).encode(Request::GetStatus), 0),
            _ => Turn::Answer,
        });
    });
    backend.announce_config(vec![5; 60]);
    eventually("the report", || {
        notes.has("reset: The backend found a ring to be malformed")
    });
    assert!(notes.has("config 5"));
}

#[test]
fn regions_come_and_go_while_the_device_runs() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    session
        .start(feature::VERSION_1, vec![queue(0, 64)])
        .unwrap();
    let more = Region {
        guest_addr: 0x1_0000_0000,
        user_addr: 0x7e00_0000_0000,
        ..Guest::new().region()
    };
    session.add_region(more.clone()).unwrap();
    assert!(session.add_region(more).is_err(), "it overlaps itself");
    session.remove_region(0x1_0000_0000).unwrap();
    assert!(session.remove_region(0x1_0000_0000).is_err());
    assert!(backend.heard_any(0, Request::AddMemReg));
    assert!(backend.heard_any(0, Request::RemMemReg));
}

#[test]
fn a_dirty_log_is_set_up_before_logging_is_switched_on() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    session
        .start(feature::VERSION_1, vec![queue(0, 64)])
        .unwrap();
    let log = DirtyLog {
        file: Guest::new().file,
        offset: 0,
        size: 0x1000,
    };
    session.set_dirty_log(Some(log)).unwrap();
    let heard = backend.heard(0);
    let base = heard
        .iter()
        .position(|message| message.request() == Request::SetLogBase);
    let all = heard.iter().position(
        |message| matches!(message, Message::SetFeatures(features) if features & LOG_ALL != 0),
    );
    assert!(base.unwrap() < all.unwrap());
    assert!(matches!(heard.last(), Some(Message::SetVringAddr(address)) if address.flags == 1));
    session.set_dirty_log(None).unwrap();
    assert!(matches!(
        backend.heard(0).last(),
        Some(Message::SetVringAddr(address)) if address.flags == 0
    ));
}

#[test]
fn device_state_moves_through_a_descriptor() {
    let backend = FakeBackend::new();
    let session = connect(&backend);
    let transfer = DeviceStateTransfer {
        direction: TransferDirection::Save,
        phase: DeviceStatePhase::Stopped,
    };
    let file = Guest::new().file;
    assert!(session.transfer_state(transfer, &file).unwrap().is_none());
    let facts = backend.facts.lock().unwrap();
    let there = facts.files.get(&(Request::SetDeviceStateFd, 0)).unwrap();
    assert_eq!(
        there.metadata().unwrap().ino(),
        file.metadata().unwrap().ino()
    );
    drop(facts);
    session.check_state().unwrap();
}

#[test]
fn connect_waits_for_a_backend_that_is_late() {
    let mut backend = FakeBackend::new();
    backend.vanish();
    let error = Session::connect(backend.spec(), Guest::new().memory(), Arc::new(()));
    assert!(matches!(error, Err(Error::Connect { .. })));
    let mut spec = backend.spec();
    spec.connect_timeout = Duration::from_secs(5);
    let waiting = std::thread::spawn(move || {
        Session::connect(spec, Guest::new().memory(), Arc::new(())).map(drop)
    });
    std::thread::sleep(Duration::from_millis(50));
    backend.listen();
    waiting.join().unwrap().unwrap();
}

//! A backend that lies. Rule: whatever it sends, the session gives an error or reconnects; it never panics, hangs or
//! keeps a descriptor.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use vhost_user_protocol::FrontendMessage as Message;
use vhost_user_protocol::Header;
use vhost_user_protocol::HeaderFlags;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::VringState;
use virtio_spec::feature;

use super::fake::FakeBackend;
use super::fake::Turn;
use super::session::Notes;
use super::support::Guest;
use super::support::eventually;
use super::support::queue;
use crate::Error;
use crate::Result;
use crate::session::Session;

fn connect(backend: &FakeBackend) -> Result<Session> {
    Session::connect(backend.spec(), Guest::new().memory(), Arc::new(()))
}

fn words(words: [u32; 3], payload: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend_from_slice(payload);
    bytes
}

/// Replies to a request for a number, none of which is one.
fn lies(request: Request) -> Vec<(Vec<u8>, usize)> {
    let good = Reply::U64(0).encode(request);
    let number = request.0;
    vec![
        (words([number, 4, 8], &[0; 8]), 0),
        (words([number, 7, 8], &[0; 8]), 0),
        (words([number, 1, 8], &[0; 8]), 0),
        (words([number + 1, 5, 8], &[0; 8]), 0),
        (words([number, 5, 0], &[]), 0),
        (words([number, 5, 4], &[0; 4]), 0),
        (words([number, 5, 16], &[0; 16]), 0),
        (words([number, 5, 0xffff_ffff], &[0; 8]), 0),
        (words([number, 5, 4097], &[0; 64]), 0),
        (good.clone(), 1),
        (good.clone(), 2),
        (good, 32),
    ]
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_false_answer_during_negotiation_is_an_error() {
    for request in [
        Request::GetFeatures,
        Request::SetOwner,
        Request::GetProtocolFeatures,
        Request::GetQueueNum,
        Request::GetMaxMemSlots,
        Request::SetBackendReqFd,
        Request::GetConfig,
    ] {
        for (bytes, files) in lies(request) {
            let lie = bytes.clone();
            let backend = FakeBackend::scripted(move |_, message| {
                if message.request() == request {
                    Turn::Raw(bytes.clone(), files)
                } else {
                    Turn::Answer
                }
            });
            // SET_OWNER comes before acknowledgements are agreed, so its lie meets the next request.
            assert!(connect(&backend).is_err(), "{request:?} {lie:x?}");
        }
    }
}

#[test]
fn false_answers_cost_no_descriptors() {
    let lying = |files| {
        let backend = FakeBackend::scripted(move |_, message| match message {
            Message::GetFeatures => Turn::Raw(Reply::U64(1).encode(Request::GetFeatures), files),
            _ => Turn::Answer,
        });
        assert!(connect(&backend).is_err());
    };
    // Other tests of this process come and go, so only a leak of hundreds shows.
    let before = open_descriptors();
    for _ in 0..50 {
        lying(1);
        lying(2);
        lying(20);
    }
    assert!(open_descriptors() < before + 500);
}

#[test]
fn silence_ends_in_a_timeout() {
    let backend = FakeBackend::scripted(|_, message| match message {
        Message::GetConfig(_) => Turn::Silence,
        _ => Turn::Answer,
    });
    assert!(matches!(connect(&backend), Err(Error::Timeout(_))));
}

#[test]
fn half_a_reply_ends_in_a_timeout() {
    let backend = FakeBackend::scripted(|_, message| match message {
        Message::GetFeatures => Turn::Raw(words([1, 5, 8], &[0; 3]), 0),
        _ => Turn::Answer,
    });
    assert!(matches!(connect(&backend), Err(Error::Timeout(_))));
}

#[test]
fn a_backend_without_queues_or_version_1_is_refused() {
    let backend = FakeBackend::new();
    backend.set(|facts| facts.queues = 0);
    assert!(matches!(connect(&backend), Err(Error::Missing(_))));
    let backend = FakeBackend::new();
    backend.set(|facts| facts.features &= !feature::VERSION_1);
    assert!(matches!(connect(&backend), Err(Error::Missing(_))));
    let backend = FakeBackend::new();
    backend.set(|facts| facts.queues = u64::MAX);
    assert_eq!(connect(&backend).unwrap().queue_count(), 2);
}

#[test]
fn a_configuration_of_the_wrong_size_is_refused() {
    for size in [0usize, 1, 59, 61, 256] {
        let backend = FakeBackend::new();
        backend.set(|facts| facts.config = vec![0; size]);
        assert!(connect(&backend).is_err(), "{size} bytes");
    }
}

/// At each request of a start, each lie: the device is up in the end, on a later connection.
#[test]
fn a_false_answer_during_start_leads_to_a_reconnect() {
    for request in [
        Request::SetFeatures,
        Request::SetMemTable,
        Request::GetInflightFd,
        Request::SetInflightFd,
        Request::SetVringBase,
        Request::SetVringKick,
        Request::SetVringEnable,
    ] {
        for (bytes, files) in lies(request).into_iter().filter(|(_, files)| *files != 1) {
            let backend = FakeBackend::new();
            let session = connect(&backend).unwrap();
            backend.set(|facts| {
                facts.script = Box::new(move |connection, message| {
                    if connection == 0 && message.request() == request {
                        Turn::Raw(bytes.clone(), files)
                    } else {
                        Turn::Answer
                    }
                });
            });
            match session.start(feature::VERSION_1, vec![queue(0, 64)]) {
                Ok(()) => eventually("the replay", || backend.kicked(0)),
                // A refusal (an answer that is not zero) is not a lie.
                Err(error) => assert!(matches!(error, Error::Refused(_)), "{error}"),
            }
        }
    }
}

#[test]
fn a_session_ends_at_once_though_its_backend_does_not_answer() {
    let backend = FakeBackend::scripted(|connection, message| match message {
        Message::GetConfig(_) if connection > 0 => Turn::Silence,
        Message::SetVringNum(_) if connection == 0 => Turn::Silence,
        _ => Turn::Answer,
    });
    let mut spec = backend.spec();
    spec.reply_timeout = Duration::from_secs(60);
    let session = Session::connect(spec, Guest::new().memory(), Arc::new(())).unwrap();
    let session = Arc::new(session);
    backend.die();
    eventually("the next attempt", || {
        backend.heard_any(1, Request::GetConfig)
    });
    let begin = Instant::now();
    drop(session);
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_queue_size_that_the_backend_does_not_take_is_told_at_once() {
    let backend = FakeBackend::scripted(|_, message| match message {
        Message::GetInflightFd(inflight, _) if inflight.queue_size > 128 => {
            Turn::Raw(Reply::Empty.encode(Request::GetInflightFd), 0)
        }
        _ => Turn::Answer,
    });
    let mut spec = backend.spec();
    let connect = |spec| Session::connect(spec, Guest::new().memory(), Arc::new(()));
    assert!(matches!(connect(spec.clone()), Err(Error::QueueSize(256))));
    spec.queue_size_max = 128;
    connect(spec).unwrap();
}

#[test]
fn an_in_flight_reply_without_memory_means_no_record() {
    for reply in [
        Reply::Empty,
        Reply::Inflight(Inflight::default(), 24),
        Reply::Inflight(
            Inflight {
                mmap_size: 4096,
                ..Inflight::default()
            },
            24,
        ),
    ] {
        let backend = FakeBackend::new();
        let session = connect(&backend).unwrap();
        backend.set(|facts| {
            facts.script = Box::new(move |_, message| match message {
                Message::GetInflightFd(..) => Turn::Raw(reply.encode(Request::GetInflightFd), 0),
                _ => Turn::Answer,
            });
        });
        session
            .start(feature::VERSION_1, vec![queue(0, 64)])
            .unwrap();
        assert!(!backend.heard_any(0, Request::SetInflightFd));
        assert!(backend.kicked(0));
    }
}

#[test]
fn the_base_of_another_queue_is_not_believed() {
    let backend = FakeBackend::scripted(|_, message| match message {
        Message::GetVringBase(_) => {
            let wrong = VringState { index: 1, num: 9 };
            Turn::Raw(Reply::Vring(wrong).encode(Request::GetVringBase), 0)
        }
        _ => Turn::Answer,
    });
    let session = connect(&backend).unwrap();
    session
        .start(feature::VERSION_1, vec![queue(0, 64)])
        .unwrap();
    assert_eq!(session.stop(), vec![]);
    eventually("a new connection", || backend.connections() == 2);
}

#[test]
fn a_message_that_nobody_asked_for_does_not_pass_as_an_answer() {
    let backend = FakeBackend::new();
    let session = connect(&backend).unwrap();
    backend.set(|facts| {
        facts.script = Box::new(|connection, message| {
            if connection == 0 && message.request() == Request::SetConfig {
                // The acknowledgement, and one more for whoever asks next.
                let one = Reply::OK.encode(Request::SetConfig);
                Turn::Raw([one.clone(), one].concat(), 0)
            } else {
                Turn::Answer
            }
        });
    });
    let _ = session.write_config(32, &[1]);
    let _ = session.write_config(32, &[1]);
    eventually("a new connection", || backend.connections() >= 2);
    session
        .start(feature::VERSION_1, vec![queue(0, 64)])
        .unwrap();
}

#[test]
fn rubbish_on_the_request_channel_ends_that_channel_only() {
    let rubbish = [
        words([2, 1, 0xffff_ffff], &[]),
        words([2, 0, 0], &[]),
        vec![0xff; 64],
        words([2, 1, 4], &[0; 4]),
    ];
    for bytes in rubbish {
        let backend = FakeBackend::new();
        let session = connect(&backend).unwrap();
        let mut channel = backend.channel();
        channel.write_all(&bytes).unwrap();
        session
            .start(feature::VERSION_1, vec![queue(0, 64)])
            .unwrap();
        assert!(backend.kicked(0));
        assert_eq!(backend.connections(), 1);
    }
}

#[test]
fn an_unknown_request_of_the_backend_is_refused_and_the_next_served() {
    use std::io::Read;
    let backend = FakeBackend::new();
    let notes = Arc::new(Notes::default());
    let _session = Session::connect(backend.spec(), Guest::new().memory(), notes.clone()).unwrap();
    let mut channel = backend.channel();
    let header = Header {
        request: 77,
        flags: HeaderFlags(HeaderFlags::VERSION | HeaderFlags::NEED_REPLY),
        size: 0,
    };
    channel.write_all(&header.encode()).unwrap();
    let mut reply = [0; 20];
    channel.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..], 1u64.to_ne_bytes());
    assert_eq!(backend.announce_config(vec![3; 60]), 0);
    eventually("the report", || notes.has("config 3"));
}

#[test]
fn a_storm_of_config_changes_does_not_stop_other_requests() {
    let backend = FakeBackend::new();
    let session = connect(&backend).unwrap();
    let mut channel = backend.channel();
    let storm = std::thread::spawn(move || {
        let message = vhost_user_protocol::BackendMessage::ConfigChange.encode(false);
        for _ in 0..2000 {
            if channel.write_all(&message).is_err() {
                return;
            }
        }
    });
    for _ in 0..20 {
        session
            .start(feature::VERSION_1, vec![queue(0, 64)])
            .unwrap();
        session.reset();
    }
    storm.join().unwrap();
    assert_eq!(backend.connections(), 1);
}

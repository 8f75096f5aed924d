//! The session against a device built on rust-vmm's `vhost-user-backend` and `virtio-queue`. Rule: none of our code
//! on the other side, except the device's one line of arithmetic.

use std::io::Result;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tempfile::TempDir;
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::VhostUserProtocolFeatures as Protocol;
use vhost_user_backend::VhostUserBackend;
use vhost_user_backend::VhostUserDaemon;
use vhost_user_backend::VringRwLock;
use vhost_user_backend::VringT;
use virtio_queue::QueueT;
use virtio_spec::device_id;
use virtio_spec::feature;
use vm_memory::Bytes;
use vm_memory::GuestAddressSpace;
use vm_memory::GuestMemoryAtomic;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::EventConsumer;
use vmm_sys_util::event::EventFlag;
use vmm_sys_util::event::EventNotifier;
use vmm_sys_util::event::new_event_consumer_and_notifier;

use super::support::Guest;
use super::support::SplitDriver;
use super::support::eventually;
use super::support::queue;
use crate::session::Session;
use crate::session::SessionSpec;

type Ram = GuestMemoryAtomic<GuestMemoryMmap>;

/// Answers each request with its value plus one.
struct Increment {
    ram: Mutex<Option<Ram>>,
    config: Mutex<Vec<u8>>,
    event_idx: AtomicBool,
}

impl VhostUserBackend for Increment {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }
    fn max_queue_size(&self) -> usize {
        256
    }
    fn features(&self) -> u64 {
        feature::VERSION_1 | feature::RING_EVENT_IDX | 1 << 30
    }
    fn protocol_features(&self) -> Protocol {
        Protocol::MQ
            | Protocol::CONFIG
            | Protocol::REPLY_ACK
            | Protocol::CONFIGURE_MEM_SLOTS
            | Protocol::BACKEND_REQ
            | Protocol::RESET_DEVICE
    }
    fn set_event_idx(&self, enabled: bool) {
        self.event_idx.store(enabled, Ordering::Relaxed);
    }
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let start = usize::try_from(offset).unwrap();
        let end = start + usize::try_from(size).unwrap();
        self.config.lock().unwrap()[start..end].to_vec()
    }
    fn set_config(&self, offset: u32, buf: &[u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.config.lock().unwrap()[start..start + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn update_memory(&self, ram: Ram) -> Result<()> {
        *self.ram.lock().unwrap() = Some(ram);
        Ok(())
    }
    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        // Without one the daemon's worker is never joined.
        Some(new_event_consumer_and_notifier(EventFlag::NONBLOCK).unwrap())
    }
    fn handle_event(
        &self,
        event: u16,
        _: EventSet,
        vrings: &[VringRwLock],
        _: usize,
    ) -> Result<()> {
        let ram = self.ram.lock().unwrap().clone().unwrap();
        let memory = ram.memory();
        let mut vring = vrings[usize::from(event)].get_mut();
        loop {
            vring.disable_notification().unwrap();
            while let Some(chain) = vring.get_queue_mut().pop_descriptor_chain(memory.clone()) {
                let head = chain.head_index();
                let [request, reply] = <[_; 2]>::try_from(chain.collect::<Vec<_>>()).unwrap();
                let value: u64 = memory.read_obj(request.addr()).unwrap();
                memory.write_obj(value + 1, reply.addr()).unwrap();
                vring.add_used(head, 8).unwrap();
                vring.signal_used_queue().unwrap();
            }
            if !self.event_idx.load(Ordering::Relaxed) || !vring.enable_notification().unwrap() {
                return Ok(());
            }
        }
    }
}

/// Serves one connection; the socket is ready on return.
fn serve(path: &Path) -> JoinHandle<()> {
    let mut listener = Listener::new(path, true).unwrap();
    std::thread::spawn(move || {
        let device = Arc::new(Increment {
            ram: Mutex::new(None),
            config: Mutex::new((0..60).collect()),
            event_idx: AtomicBool::new(false),
        });
        let ram = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new("increment".into(), device, ram).unwrap();
        daemon.start(&mut listener).unwrap();
        // It reports the disconnection as an error.
        let _ = daemon.wait();
    })
}

fn connect(directory: &TempDir, guest: &Guest) -> Session {
    let spec = SessionSpec {
        queue_count: 4,
        config_len: 60,
        ..SessionSpec::new(directory.path().join("socket"), device_id::BLOCK)
    };
    Session::connect(spec, guest.memory(), Arc::new(())).unwrap()
}

#[test]
fn requests_on_two_queues_are_answered() {
    let directory = TempDir::new().unwrap();
    let guest = Guest::new();
    let backend = serve(&directory.path().join("socket"));
    let session = connect(&directory, &guest);
    assert_eq!(session.queue_count(), 2);
    assert_eq!(session.config(), (0..60).collect::<Vec<u8>>());
    let setups = [queue(0, 256), queue(1, 64)];
    session.start(feature::VERSION_1, setups.to_vec()).unwrap();
    for setup in &setups {
        let mut driver = SplitDriver::new(&guest, setup.index, setup.size);
        for request in 0..500u16 {
            driver.submit(u64::from(request) * 3);
            setup.kick.notify();
            eventually("the answer", || driver.used() == request + 1);
            assert_eq!(driver.answer(request), u64::from(request) * 3 + 1);
        }
        eventually("an interrupt", || setup.call.drain_count() > 0);
    }
    let bases = session.stop();
    assert_eq!(bases, [(0, 500), (1, 500)]);
    drop(session);
    backend.join().unwrap();
}

#[test]
fn a_queue_goes_on_where_it_was_stopped() {
    let directory = TempDir::new().unwrap();
    let guest = Guest::new();
    let backend = serve(&directory.path().join("socket"));
    let session = connect(&directory, &guest);
    let mut setup = queue(0, 64);
    let mut driver = SplitDriver::new(&guest, 0, 64);
    for round in 1..=5u16 {
        session
            .start(feature::VERSION_1, vec![setup.clone()])
            .unwrap();
        driver.submit(u64::from(round));
        setup.kick.notify();
        eventually("the answer", || driver.used() == round);
        let bases = session.stop();
        assert_eq!(bases, [(0, round.into())]);
        setup.base = Some(bases[0].1);
    }
    drop(session);
    backend.join().unwrap();
}

#[test]
fn a_configuration_write_is_seen_in_the_configuration() {
    let directory = TempDir::new().unwrap();
    let backend = serve(&directory.path().join("socket"));
    let session = connect(&directory, &Guest::new());
    session.write_config(32, &[0xaa]).unwrap();
    assert_eq!(session.config()[32], 0xaa);
    drop(session);
    backend.join().unwrap();
}

#[test]
fn requests_made_while_no_backend_is_there_are_answered_by_the_next() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let guest = Guest::new();
    let first = serve(&path);
    let session = connect(&directory, &guest);
    let setup = queue(0, 64);
    let mut driver = SplitDriver::new(&guest, 0, 64);
    let version = feature::VERSION_1;
    session.start(version, vec![setup.clone()]).unwrap();
    driver.submit(10);
    setup.kick.notify();
    eventually("the answer", || driver.used() == 1);
    // The reference device serves one connection; a dropped one is its death.
    session.break_connection();
    first.join().unwrap();
    driver.submit(20);
    let second = serve(&path);
    eventually("the answer of the second", || driver.used() == 2);
    assert_eq!(driver.answer(1), 21);
    drop(session);
    second.join().unwrap();
}

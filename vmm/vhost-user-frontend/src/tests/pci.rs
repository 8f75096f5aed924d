//! The PCI function, driven as a guest would: through its configuration space and its BAR. Rule: the driver here finds
//! every register by walking the capabilities.

use std::collections::HashMap;
use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::Mutex;

use host_os::EventFd;
use machine::DoorbellMatch;
use machine::Doorbells;
use machine::InterruptLine;
use machine::Interrupts;
use machine::MsiMessage;
use machine::Ram;
use machine::pci::BarRegion;
use machine::pci::PciFunction;
use vhost_user_protocol::FrontendMessage as Message;
use vhost_user_protocol::Request;
use virtio_spec::block;
use virtio_spec::feature;
use virtio_spec::pci::NO_VECTOR;
use virtio_spec::pci::cap;
use virtio_spec::pci::cap_type;
use virtio_spec::pci::common;
use virtio_spec::status;

use super::fake::FakeBackend;
use super::fake::Turn;
use super::support::eventually;
use crate::pci::FrontendSpec;
use crate::pci::VhostUserDevice;

const BAR_ADDRESS: u64 = 0xe000_0000;
pub const MSIX_ENABLE: u16 = 1 << 15;

/// Doorbells by guest address.
#[derive(Default)]
struct FakeDoorbells(Mutex<HashMap<u64, i32>>);

impl Doorbells for FakeDoorbells {
    fn register(&self, address: u64, rule: DoorbellMatch, fd: &EventFd) -> machine::Result<()> {
        assert_eq!(rule, DoorbellMatch::Any);
        let old = self.0.lock().unwrap().insert(address, fd.as_raw_fd());
        assert!(old.is_none(), "{address:#x} registered twice");
        Ok(())
    }
    fn unregister(&self, address: u64, _: DoorbellMatch, fd: &EventFd) -> machine::Result<()> {
        let old = self.0.lock().unwrap().remove(&address);
        assert_eq!(old, Some(fd.as_raw_fd()));
        Ok(())
    }
}

impl FakeDoorbells {
    fn addresses(&self) -> HashSet<u64> {
        self.0.lock().unwrap().keys().copied().collect()
    }
}

#[derive(Default)]
struct Line {
    event: Option<EventFd>,
    message: Mutex<Option<MsiMessage>>,
}

/// All lines ever allocated, in order.
#[derive(Default)]
struct FakeInterrupts(Mutex<Vec<Arc<Line>>>);

impl Interrupts for FakeInterrupts {
    fn allocate(&self) -> machine::Result<Box<dyn InterruptLine>> {
        let line = Arc::new(Line {
            event: Some(EventFd::new().unwrap()),
            ..Line::default()
        });
        self.0.lock().unwrap().push(Arc::clone(&line));
        Ok(Box::new(Handle(line)))
    }
}

struct Handle(Arc<Line>);

impl InterruptLine for Handle {
    fn event(&self) -> &EventFd {
        self.0.event.as_ref().unwrap()
    }
    fn unmask(&self, message: MsiMessage) -> machine::Result<()> {
        *self.0.message.lock().unwrap() = Some(message);
        Ok(())
    }
    fn mask(&self) -> machine::Result<()> {
        *self.0.message.lock().unwrap() = None;
        Ok(())
    }
}

pub struct Guest {
    pub device: VhostUserDevice,
    doorbells: Arc<FakeDoorbells>,
    interrupts: Arc<FakeInterrupts>,
    /// Offset in the BAR by capability type.
    structures: HashMap<u8, u64>,
    /// Offset in configuration space by capability type; 0 is MSI-X.
    capabilities: HashMap<u8, u16>,
    notify_multiplier: u64,
}

impl Guest {
    fn new(backend: &FakeBackend) -> Self {
        Self::with(&FrontendSpec {
            queues: 2,
            ..FrontendSpec::block(backend.path())
        })
        .unwrap()
    }

    pub fn with(spec: &FrontendSpec) -> crate::Result<Self> {
        let ram = Ram::new(2 << 20).unwrap();
        let doorbells = Arc::new(FakeDoorbells::default());
        let interrupts = Arc::new(FakeInterrupts::default());
        let lines: Arc<dyn Interrupts> = interrupts.clone();
        let device = VhostUserDevice::connect(spec, &ram, &lines, doorbells.clone())?;
        let mut guest = Self {
            device,
            doorbells,
            interrupts,
            structures: HashMap::new(),
            capabilities: HashMap::new(),
            notify_multiplier: 0,
        };
        guest.walk_capabilities();
        guest.move_bar(Some(BAR_ADDRESS));
        Ok(guest)
    }

    fn walk_capabilities(&mut self) {
        let mut at = u16::from(self.config::<1>(0x34)[0]);
        while at != 0 {
            let [id, next] = self.config(at);
            if id == 0x11 {
                self.capabilities.insert(0, at);
            } else {
                assert_eq!(id, 9);
                let kind = self.config::<1>(at + cap16(cap::TYPE))[0];
                let offset = u32::from_le_bytes(self.config(at + cap16(cap::OFFSET)));
                self.structures.insert(kind, offset.into());
                self.capabilities.insert(kind, at);
                if kind == cap_type::NOTIFY {
                    let field = at + cap16(cap::NOTIFY_OFF_MULTIPLIER);
                    self.notify_multiplier = u32::from_le_bytes(self.config(field)).into();
                }
            }
            at = next.into();
        }
    }

    pub fn config<const N: usize>(&mut self, offset: u16) -> [u8; N] {
        let mut bytes = [0; N];
        self.device.config_read(offset, &mut bytes);
        bytes
    }

    fn move_bar(&mut self, address: Option<u64>) {
        let region = address.map(|address| BarRegion {
            bar: 0,
            address,
            size: 0x1_0000,
        });
        self.device.bars_decoded(region.as_slice());
    }

    pub fn read<const N: usize>(&mut self, kind: u8, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let offset = self.structures[&kind] + offset;
        self.device.bar_read(0, offset, &mut bytes);
        bytes
    }

    pub fn write(&mut self, kind: u8, offset: u64, bytes: &[u8]) {
        let offset = self.structures[&kind] + offset;
        self.device.bar_write(0, offset, bytes);
    }

    pub fn common<const N: usize>(&mut self, register: usize) -> [u8; N] {
        self.read(cap_type::COMMON, register as u64)
    }

    pub fn set_common(&mut self, register: usize, bytes: &[u8]) {
        self.write(cap_type::COMMON, register as u64, bytes);
    }

    pub fn status(&mut self) -> u8 {
        self.common::<1>(common::DEVICE_STATUS)[0]
    }

    pub fn set_status(&mut self, value: u8) {
        self.set_common(common::DEVICE_STATUS, &[value]);
    }

    pub fn negotiate(&mut self, features: u64) {
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        for half in [0u32, 1] {
            self.set_common(common::DRIVER_FEATURE_SELECT, &half.to_le_bytes());
            let bytes = features.to_le_bytes();
            let at = usize::try_from(half).unwrap() * 4;
            self.set_common(common::DRIVER_FEATURE, &bytes[at..at + 4]);
        }
        self.set_status(status::FEATURES_OK);
        assert_ne!(self.status() & status::FEATURES_OK, 0);
    }

    pub fn set_up_queue(&mut self, queue: u16, vector: u16) {
        self.set_common(common::QUEUE_SELECT, &queue.to_le_bytes());
        self.set_common(common::QUEUE_SIZE, &64u16.to_le_bytes());
        self.set_common(common::QUEUE_MSIX_VECTOR, &vector.to_le_bytes());
        let start = 0x1_0000 * (u64::from(queue) + 1);
        self.set_common(common::QUEUE_DESC, &start.to_le_bytes());
        self.set_common(common::QUEUE_DRIVER, &(start + 0x1000).to_le_bytes());
        self.set_common(common::QUEUE_DEVICE, &(start + 0x2000).to_le_bytes());
        self.set_common(common::QUEUE_ENABLE, &1u16.to_le_bytes());
    }

    fn start(&mut self) {
        self.negotiate(feature::VERSION_1 | feature::RING_RESET | block::feature::CONFIG_WCE);
        self.enable_msix(MSIX_ENABLE);
        self.set_common(common::CONFIG_MSIX_VECTOR, &0u16.to_le_bytes());
        self.set_up_queue(0, 1);
        self.set_up_queue(1, 2);
        self.set_status(status::DRIVER_OK);
    }

    pub fn enable_msix(&mut self, control: u16) {
        let at = self.capabilities[&0] + 2;
        self.device.config_write(at, &control.to_le_bytes());
    }

    fn unmask(&mut self, vector: u64) {
        let mut entry = [0; 16];
        entry[0..8].copy_from_slice(&0xfee0_0000u64.to_le_bytes());
        entry[8] = u8::try_from(0x40 + vector).unwrap();
        self.device.bar_write(0, 0x4000 + vector * 16, &entry);
    }

    fn line(&self, vector: usize) -> Arc<Line> {
        Arc::clone(&self.interrupts.0.lock().unwrap()[vector])
    }

    pub fn take(&self, vector: usize) -> u64 {
        self.line(vector).event.as_ref().unwrap().drain_count()
    }

    fn pending(&mut self) -> u8 {
        let mut byte = [0];
        self.device.bar_read(0, 0x8000, &mut byte);
        byte[0]
    }
}

fn cap16(offset: usize) -> u16 {
    u16::try_from(offset).unwrap()
}

fn backend() -> FakeBackend {
    let backend = FakeBackend::new();
    backend.set(|facts| facts.features |= block::feature::CONFIG_WCE);
    backend
}

#[test]
fn a_driver_finds_a_modern_disk() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    assert_eq!(guest.config(0), [0xf4, 0x1a, 0x42, 0x10]);
    assert_eq!(guest.config(8), [1, 0, 0, 1]);
    assert_eq!(guest.config(0x2c), [0xf4, 0x1a, 0, 0x11]);
    for kind in 1..=5 {
        assert!(guest.capabilities.contains_key(&kind), "capability {kind}");
    }
    assert_eq!(u16::from_le_bytes(guest.common(common::NUM_QUEUES)), 2);
    // The backend's 35, 36 became the number of queues that there are.
    assert_eq!(guest.read(cap_type::DEVICE, 32), [33, 34, 2, 0]);
    assert_eq!(guest.read(cap_type::DEVICE, 58), [59, 60, 0, 0]);
    // The capacity has 64 bits, and its halves can be read apart.
    assert_eq!(guest.read(cap_type::DEVICE, 4), [5, 6, 7, 8]);
    assert_eq!(guest.read(cap_type::DEVICE, 0), [1, 2, 3, 4]);
}

#[test]
fn every_capability_says_its_length_and_a_place_inside_the_bar() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    let mut taken: Vec<std::ops::Range<u32>> = Vec::new();
    for (kind, len) in [
        (cap_type::COMMON, cap::SIZE),
        (cap_type::NOTIFY, cap::NOTIFY_SIZE),
        (cap_type::ISR, cap::SIZE),
        (cap_type::DEVICE, cap::SIZE),
    ] {
        let at = guest.capabilities[&kind];
        let said = guest.config::<1>(at + cap16(cap::LENGTH))[0];
        assert_eq!(usize::from(said), len, "capability {kind}");
        assert_eq!(guest.config(at + cap16(cap::BAR)), [0]);
        let offset = u32::from_le_bytes(guest.config(at + cap16(cap::OFFSET)));
        let length = u32::from_le_bytes(guest.config(at + cap16(cap::STRUCTURE_LENGTH)));
        assert_eq!(offset % 4, 0, "capability {kind}");
        assert!(offset + length <= 0x1_0000, "capability {kind}");
        let apart =
            |other: &std::ops::Range<u32>| other.end <= offset || offset + length <= other.start;
        assert!(taken.iter().all(apart), "capability {kind}");
        taken.push(offset..offset + length);
    }
    let at = guest.capabilities[&cap_type::PCI];
    let said = guest.config::<1>(at + cap16(cap::LENGTH))[0];
    assert_eq!(usize::from(said), cap::PCI_CFG_SIZE);
    // Each doorbell is whole inside the structure, with the data of NOTIFICATION_DATA too.
    assert!(guest.notify_multiplier.is_multiple_of(4) && guest.notify_multiplier.is_power_of_two());
    let notify = guest.config(guest.capabilities[&cap_type::NOTIFY] + cap16(cap::STRUCTURE_LENGTH));
    assert!(u64::from(u32::from_le_bytes(notify)) >= guest.notify_multiplier + 4);
    // A vector for each queue and one for the configuration.
    let control = guest.config(guest.capabilities[&0] + 2);
    assert_eq!(u16::from_le_bytes(control) & 0x7ff, 2);
}

#[test]
fn more_queues_than_there_is_room_for_in_the_bar_are_refused() {
    let backend = backend();
    for (queues, fits) in [(1023, true), (1024, false), (u16::MAX, false)] {
        let spec = FrontendSpec {
            queues,
            ..FrontendSpec::block(backend.path())
        };
        assert_eq!(spec.session().is_ok(), fits, "{queues} queues");
    }
}

#[test]
fn driver_ok_hands_the_queues_to_the_backend_and_places_a_doorbell_for_each() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    assert!(guest.doorbells.addresses().is_empty());
    guest.start();
    assert_eq!(guest.status() & status::DEVICE_NEEDS_RESET, 0);
    for queue in [0, 1] {
        assert!(backend.kicked(queue));
    }
    let first = BAR_ADDRESS + guest.structures[&cap_type::NOTIFY];
    let expected = HashSet::from([first, first + guest.notify_multiplier]);
    assert_eq!(guest.doorbells.addresses(), expected);
    backend.signal(Request::SetVringCall, 0);
    backend.signal(Request::SetVringCall, 1);
    assert_eq!((guest.take(1), guest.take(2)), (1, 1));
}

#[test]
fn doorbells_follow_the_bar_and_go_with_the_driver() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    let at_first = guest.doorbells.addresses();
    guest.move_bar(Some(BAR_ADDRESS + 0x10_0000));
    let moved: HashSet<u64> = at_first.iter().map(|at| at + 0x10_0000).collect();
    assert_eq!(guest.doorbells.addresses(), moved);
    guest.move_bar(None);
    assert!(guest.doorbells.addresses().is_empty());
    guest.move_bar(Some(BAR_ADDRESS));
    assert_eq!(guest.doorbells.addresses(), at_first);
    guest.set_status(0);
    assert!(guest.doorbells.addresses().is_empty());
    guest.start();
    assert_eq!(guest.doorbells.addresses(), at_first);
    guest.device.reset();
    assert!(guest.doorbells.addresses().is_empty());
    assert_eq!(guest.status(), 0);
}

#[test]
fn a_driver_reset_stops_the_queues_before_it_is_done() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    guest.set_status(0);
    assert_eq!(guest.status(), 0);
    let heard = backend.heard(0);
    let stops = heard
        .iter()
        .filter(|message| message.request() == Request::GetVringBase);
    assert_eq!(stops.count(), 2);
    guest.start();
    backend.wait_for_kick(0);
}

/// REGRESSIONS row 6: notifications with a bad queue number.
#[test]
fn row_6_a_notification_of_a_queue_that_does_not_exist_does_nothing() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.write(cap_type::NOTIFY, 0, &[0, 0]);
    guest.start();
    for queue in [0, 1] {
        assert!(backend.kicked(queue));
    }
    for offset in [8, 12, 2, 6, 0xffc, 0xffe] {
        for len in [1, 2, 4, 8] {
            guest.write(cap_type::NOTIFY, offset, &[0xff; 8][..len]);
        }
    }
    assert!(!backend.kicked(0) && !backend.kicked(1));
    guest.write(cap_type::NOTIFY, 4, &[1, 0]);
    assert!(backend.kicked(1));
    guest.write(cap_type::NOTIFY, 4, &[1, 0, 0x34, 0x12]);
    assert!(backend.kicked(1));
    assert!(!backend.kicked(0));
}

/// REGRESSIONS row 12: vectors flipped during DRIVER_OK.
#[test]
fn row_12_interrupts_follow_a_vector_that_is_flipped_during_driver_ok() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    guest.set_common(common::QUEUE_SELECT, &0u16.to_le_bytes());
    for round in 0..20u16 {
        let vector = [2, 0xffff, 1, 0, 7][usize::from(round % 5)];
        guest.set_common(common::QUEUE_MSIX_VECTOR, &u16::to_le_bytes(vector));
        guest.set_common(common::CONFIG_MSIX_VECTOR, &u16::to_le_bytes(vector));
        for vector in 0..3 {
            guest.take(vector);
        }
        backend.signal(Request::SetVringCall, 0);
        let taken = [guest.take(0), guest.take(1), guest.take(2)];
        let mut expected = [0; 3];
        if let Some(count) = expected.get_mut(usize::from(vector)) {
            *count = 1;
        }
        assert_eq!(taken, expected, "vector {vector}");
    }
    assert_eq!(backend.connections(), 1);
}

/// REGRESSIONS row 17, on the wire: nothing a driver writes after DRIVER_OK reaches the backend's rings.
#[test]
fn row_17_writes_to_queue_registers_after_driver_ok_do_not_reach_the_backend() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    let before = backend.heard(0).len();
    for queue in [0u16, 1, 2, 0xffff] {
        guest.set_common(common::QUEUE_SELECT, &queue.to_le_bytes());
        for register in [common::QUEUE_SIZE, common::QUEUE_ENABLE] {
            guest.set_common(register, &1u16.to_le_bytes());
        }
        for register in [
            common::QUEUE_DESC,
            common::QUEUE_DRIVER,
            common::QUEUE_DEVICE,
        ] {
            guest.set_common(register, &[0x41; 8]);
            guest.set_common(register, &[0x41; 4]);
        }
    }
    assert_eq!(backend.heard(0).len(), before);
}

#[test]
fn a_masked_vector_stays_pending_until_it_is_unmasked() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    guest.take(1);
    assert_eq!(guest.pending(), 0);
    backend.signal(Request::SetVringCall, 0);
    assert_eq!(guest.pending(), 0b10);
    assert!(guest.line(1).message.lock().unwrap().is_none());
    guest.unmask(1);
    assert_eq!(guest.pending(), 0, "it is the line's now");
    let message = guest.line(1).message.lock().unwrap().unwrap();
    assert_eq!((message.address, message.data), (0xfee0_0000, 0x41));
    guest.enable_msix(MSIX_ENABLE | 1 << 14);
    assert!(guest.line(1).message.lock().unwrap().is_none());
}

#[test]
fn a_configuration_change_counts_the_generation_up_and_interrupts() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    let [before] = guest.common(common::CONFIG_GENERATION);
    backend.announce_config(vec![0x55; 60]);
    eventually("the interrupt", || guest.take(0) == 1);
    assert_eq!(guest.common(common::CONFIG_GENERATION), [before + 1]);
    assert_eq!(guest.read(cap_type::DEVICE, 0), [0x55; 8]);
    assert_eq!(guest.read(cap_type::DEVICE, 34), [2, 0]);
    assert_eq!(guest.read(cap_type::ISR, 0), [2], "with MSI-X too");
    assert_eq!(guest.read(cap_type::ISR, 0), [0]);
}

#[test]
fn what_a_driver_changes_itself_counts_the_generation_up_where_it_changed_something() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    let [before] = guest.common(common::CONFIG_GENERATION);
    let [own] = guest.read(cap_type::DEVICE, 32);
    guest.write(cap_type::DEVICE, 32, &[own]);
    assert_eq!(guest.common(common::CONFIG_GENERATION), [before]);
    // The backend takes it.
    backend.set(|facts| facts.config[32] = own ^ 1);
    guest.write(cap_type::DEVICE, 32, &[own ^ 1]);
    assert_eq!(guest.read(cap_type::DEVICE, 32), [own ^ 1]);
    assert_eq!(guest.common(common::CONFIG_GENERATION), [before + 1]);
}

#[test]
fn a_change_of_the_configuration_without_a_vector_interrupts_nobody() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    guest.set_common(common::CONFIG_MSIX_VECTOR, &NO_VECTOR.to_le_bytes());
    let [before] = guest.common(common::CONFIG_GENERATION);
    for vector in 0..3 {
        guest.take(vector);
    }
    backend.announce_config(vec![0x55; 60]);
    // The bit is set after the generation, and before an interrupt would come.
    eventually("the change", || guest.read(cap_type::ISR, 0) == [2]);
    assert_eq!(guest.common(common::CONFIG_GENERATION), [before + 1]);
    assert_eq!([guest.take(0), guest.take(1), guest.take(2)], [0; 3]);
}

#[test]
fn without_msix_a_configuration_change_shows_in_the_isr_once() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.negotiate(feature::VERSION_1);
    guest.set_status(status::DRIVER_OK);
    backend.announce_config(vec![0x55; 60]);
    let mut seen = 0;
    eventually("the bit", || {
        seen |= guest.read::<1>(cap_type::ISR, 0)[0];
        seen == 2
    });
    assert_eq!(guest.read(cap_type::ISR, 0), [0]);
}

#[test]
fn a_driver_that_is_not_up_gets_no_configuration_interrupt() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    let [before] = guest.common(common::CONFIG_GENERATION);
    guest.enable_msix(MSIX_ENABLE);
    guest.set_common(common::CONFIG_MSIX_VECTOR, &0u16.to_le_bytes());
    backend.announce_config(vec![0x55; 60]);
    eventually("the change", || {
        guest.common(common::CONFIG_GENERATION) == [before + 1]
    });
    assert_eq!(guest.take(0), 0);
}

#[test]
fn only_the_writable_field_of_a_disk_can_be_written() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.write(cap_type::DEVICE, 32, &[0]);
    guest.start();
    for (offset, len) in [(0, 8), (31, 2), (32, 2), (33, 1), (60, 1), (0xff8, 8)] {
        guest.write(cap_type::DEVICE, offset, &[0xff; 8][..len]);
    }
    assert!(!backend.heard_any(0, Request::SetConfig));
    guest.write(cap_type::DEVICE, 32, &[1]);
    assert!(backend.heard_any(0, Request::SetConfig));
}

#[test]
fn a_queue_can_be_reset_and_set_up_anew() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    let stops = |backend: &FakeBackend| {
        let heard = backend.heard(0);
        let stops = heard.iter().filter_map(|message| match message {
            Message::GetVringBase(state) => Some(state.index),
            _ => None,
        });
        stops.collect::<Vec<_>>()
    };
    guest.set_common(common::QUEUE_SELECT, &1u16.to_le_bytes());
    guest.set_common(common::QUEUE_RESET, &1u16.to_le_bytes());
    assert_eq!(guest.common(common::QUEUE_RESET), [0, 0]);
    assert_eq!(guest.common(common::QUEUE_ENABLE), [0, 0]);
    assert_eq!(stops(&backend), [1]);
    backend.kicked(1);
    guest.set_up_queue(1, 2);
    assert!(backend.kicked(1), "it runs again");
    guest.set_status(0);
    assert_eq!(stops(&backend), [1, 0, 1]);
}

#[test]
fn a_ring_outside_memory_breaks_the_device_until_it_is_reset() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.negotiate(feature::VERSION_1);
    guest.set_common(common::QUEUE_DESC, &0xffff_ffff_ffff_f000u64.to_le_bytes());
    guest.set_common(common::QUEUE_ENABLE, &1u16.to_le_bytes());
    guest.set_status(status::DRIVER_OK);
    assert_ne!(guest.status() & status::DEVICE_NEEDS_RESET, 0);
    assert!(guest.doorbells.addresses().is_empty());
    guest.set_status(0);
    eventually("a connection", || guest.device.session().health().connected);
    guest.start();
    backend.wait_for_kick(0);
}

/// REGRESSIONS row 14: DMA to the device's own registers.
#[test]
fn row_14_a_ring_in_the_devices_own_bar_is_not_memory() {
    let backend = backend();
    for structure in [cap_type::COMMON, cap_type::NOTIFY] {
        let mut guest = Guest::new(&backend);
        guest.negotiate(feature::VERSION_1);
        let at = BAR_ADDRESS + guest.structures[&structure];
        guest.set_common(common::QUEUE_DEVICE, &at.to_le_bytes());
        guest.set_common(common::QUEUE_DESC, &0x1_0000u64.to_le_bytes());
        guest.set_common(common::QUEUE_DRIVER, &0x2_0000u64.to_le_bytes());
        guest.set_common(common::QUEUE_ENABLE, &1u16.to_le_bytes());
        guest.set_status(status::DRIVER_OK);
        assert_ne!(guest.status() & status::DEVICE_NEEDS_RESET, 0);
    }
    assert!((0..2).all(|connection| !backend.heard_any(connection, Request::SetVringAddr)));
}

#[test]
fn notification_data_is_offered_only_on_request() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.set_common(common::DEVICE_FEATURE_SELECT, &1u32.to_le_bytes());
    let high = u32::from_le_bytes(guest.common(common::DEVICE_FEATURE));
    assert_eq!(u64::from(high) << 32 & feature::NOTIFICATION_DATA, 0);
    assert_ne!(u64::from(high) << 32 & feature::RING_RESET, 0);
}

#[test]
fn a_ring_that_the_backend_rejects_breaks_the_device_and_tells_the_driver() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    guest.take(0);
    backend.signal(Request::SetVringErr, 0);
    eventually("the interrupt", || guest.take(0) == 1);
    assert_ne!(guest.status() & status::DEVICE_NEEDS_RESET, 0);
}

#[test]
fn the_window_in_configuration_space_reaches_every_register() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    let window = guest.capabilities[&cap_type::PCI];
    let data = window + cap16(cap::PCI_CFG_DATA);
    let aim = |guest: &mut Guest, offset: u32, len: u32| {
        let at = window + cap16(cap::OFFSET);
        guest.device.config_write(at, &offset.to_le_bytes());
        let at = window + cap16(cap::STRUCTURE_LENGTH);
        guest.device.config_write(at, &len.to_le_bytes());
    };
    aim(&mut guest, 0x12, 2);
    assert_eq!(guest.config::<2>(data), [2, 0]);
    aim(&mut guest, 0x14, 1);
    guest.device.config_write(data, &[status::ACKNOWLEDGE]);
    assert_eq!(guest.status(), status::ACKNOWLEDGE);
    guest.start();
    assert!(backend.kicked(1));
    let notify = u32::try_from(guest.structures[&cap_type::NOTIFY]).unwrap();
    aim(&mut guest, notify + 4, 2);
    guest.device.config_write(data, &[1, 0]);
    assert!(backend.kicked(1));
    for (offset, len) in [
        (0xffff, 2),
        (0xffff_fffe, 4),
        (1, 2),
        (0, 0),
        (0, 3),
        (0, 8),
        (0x1_0000, 1),
    ] {
        aim(&mut guest, offset, len);
        guest.device.config_write(data, &[0xff; 4]);
        guest.config::<4>(data);
    }
}

#[test]
fn any_access_to_the_bar_is_survived() {
    let backend = backend();
    let mut guest = Guest::new(&backend);
    guest.start();
    for offset in (0..0x1_0000).step_by(0xfff).chain(0xff0..0x1010) {
        for len in 0..=8usize {
            let len = len.min(usize::try_from(0x1_0000 - offset).unwrap());
            guest.device.bar_read(0, offset, &mut [0; 8][..len]);
            if offset != 0x14 {
                guest.device.bar_write(0, offset, &[0xff; 8][..len]);
            }
        }
    }
    guest.device.bar_write(1, 0, &[0; 4]);
    guest.device.bar_read(5, 0, &mut [0; 4]);
}

#[test]
fn a_device_started_while_its_backend_is_away_runs_when_it_returns() {
    let mut backend = backend();
    let mut guest = Guest::new(&backend);
    backend.vanish();
    guest.start();
    assert_eq!(guest.status() & status::DEVICE_NEEDS_RESET, 0);
    backend.listen();
    backend.wait_for_kick(1);
    eventually("an interrupt of each queue", || guest.take(1) > 0);
}

#[test]
fn a_refused_start_is_told_to_the_driver() {
    let backend = backend();
    backend.set(|facts| {
        facts.script = Box::new(|connection, message| match message {
            Message::SetVringNum(_) if connection == 0 => Turn::Refuse,
            _ => Turn::Answer,
        });
    });
    let mut guest = Guest::new(&backend);
    guest.start();
    assert_ne!(guest.status() & status::DEVICE_NEEDS_RESET, 0);
    assert_eq!(guest.take(0), 1);
}

//! What the driver finds in a function's configuration space, and how it uses what it found (virtio 1.4 sec. 4.1).
//!
//! Rule: each test changes a function that is right as it stands; devices that lie all through have tests of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use driver_fakes::FakeBar;
use driver_fakes::FakeFunction;
use driver_fakes::FakePlatform;
use driver_fakes::Layout;
use driver_fakes::Lies;
use driver_fakes::Registers;
use driver_fakes::notify_name;
use virtio_pci::Doorbell;
use virtio_pci::Error;
use virtio_pci::QueueAddresses;
use virtio_pci::QueueSetup;
use virtio_pci::Transport;
use virtio_spec::feature;
use virtio_spec::pci;
use virtio_spec::pci::cap;

const QUEUES: u16 = 3;
const FEATURES: u64 = feature::VERSION_1
    | feature::RING_RESET
    | feature::NOTIFICATION_DATA
    | feature::NOTIF_CONFIG_DATA;

/// Places in the fake's configuration space: the pointer to the first capability, one that the fake has, and two that
/// it leaves free.
const POINTER: usize = 0x34;
const COMMON: usize = 0x40;
const LAST: usize = 0xa0;
const FREE: [usize; 2] = [0xc0, 0xe0];

fn function() -> FakeFunction {
    let registers = Registers::new(FEATURES, vec![0; 64], QUEUES, 256);
    FakeFunction::new(2, registers, Layout::default())
}

/// A function whose configuration space was changed by `edit`.
fn edited(edit: impl FnOnce(&mut [u8; 256])) -> FakeFunction {
    let function = function();
    edit(&mut function.config_space());
    function
}

/// A capability like the fake's own at `like`, at another place.
fn copy(space: &mut [u8; 256], like: usize, at: usize, next: usize) {
    space.copy_within(like..like + cap::NOTIFY_SIZE, at);
    space[at + cap::NEXT] = u8::try_from(next).unwrap();
}

fn queues(function: &FakeFunction) -> Result<u16, Error> {
    Transport::probe(function.clone()).map(|transport| transport.queue_count())
}

/// A transport that has agreed on all that is offered but `without`.
fn agreed(function: &FakeFunction, without: u64) -> Transport<FakeFunction> {
    let mut transport = Transport::probe(function.clone()).unwrap();
    transport.reset_and_wait(&FakePlatform::new(1)).unwrap();
    function.registers().offered = FEATURES & !without;
    transport.negotiate(|offered| offered).unwrap();
    transport
}

fn setup(index: u16, size: u16) -> QueueSetup {
    QueueSetup {
        index,
        size,
        addresses: QueueAddresses {
            descriptors: 0x1_0000_1000,
            driver: 0x1_0000_2000,
            device: 0x1_0000_3000,
        },
        vector: Some(1),
    }
}

#[test]
fn structures_of_reserved_types_and_in_reserved_bars_are_passed_over() {
    let function = edited(|space| {
        space[POINTER] = u8::try_from(FREE[0]).unwrap();
        copy(space, COMMON, FREE[0], FREE[1]);
        space[FREE[0] + cap::TYPE] = 0x70;
        copy(space, COMMON, FREE[1], COMMON);
        space[FREE[1] + cap::BAR] = 6;
        space[FREE[1] + cap::OFFSET] = 0x40;
    });
    assert_eq!(queues(&function), Ok(QUEUES));
}

#[test]
fn the_first_structure_of_a_type_is_used() {
    // Another common configuration, where the fake has none.
    let elsewhere = |space: &mut [u8; 256], at: usize| space[at + cap::OFFSET + 1] = 0x20;
    let function = edited(|space| {
        space[LAST + cap::NEXT] = u8::try_from(FREE[0]).unwrap();
        copy(space, COMMON, FREE[0], 0);
        elsewhere(space, FREE[0]);
    });
    assert_eq!(queues(&function), Ok(QUEUES));
    let function = edited(|space| {
        space[POINTER] = u8::try_from(FREE[0]).unwrap();
        copy(space, COMMON, FREE[0], COMMON);
        elsewhere(space, FREE[0]);
    });
    assert_eq!(queues(&function), Ok(0));
}

#[test]
fn capabilities_and_structures_may_be_longer_than_the_specification_has_them() {
    let function = edited(|space| {
        for at in [COMMON, 0x60, 0x80, LAST] {
            space[at + cap::LENGTH] = 0x20;
        }
        space[COMMON + cap::STRUCTURE_LENGTH + 1] = 0x10;
    });
    assert_eq!(queues(&function), Ok(QUEUES));
    agreed(&function, 0).enable_queue(&setup(2, 256)).unwrap();
}

#[test]
fn modern_and_transitional_devices_of_any_revision_and_subsystem_are_taken_for_what_they_are() {
    for (id, expected) in [
        (pci::DEVICE_ID_BASE + 2, Ok(2)),
        (0x107f, Ok(63)),
        (0x1080, Err(Error::NotVirtio)),
        (0x1000, Ok(1)),
        (0x1001, Ok(2)),
        (0x1002, Ok(5)),
        (0x1006, Err(Error::NotVirtio)),
        (0x103f, Err(Error::NotVirtio)),
    ] {
        for byte in [0, 1, 0xff] {
            let function = edited(|space| {
                space[2..4].copy_from_slice(&u16::to_le_bytes(id));
                space[8] = byte;
                space[0x2c..0x30].fill(byte);
            });
            let found = Transport::probe(function).map(|transport| transport.device_type());
            assert_eq!(found, expected, "{id:#x}");
        }
    }
    // One with nothing but the legacy registers has no capabilities.
    let legacy = edited(|space| {
        space[2..4].copy_from_slice(&[0x01, 0x10]);
        space[6] = 0;
    });
    assert_eq!(queues(&legacy), Err(Error::BadCapability));
}

#[test]
fn nothing_is_written_into_configuration_space_but_the_command_register() {
    let function = function();
    let before = *function.config_space();
    let transport = agreed(&function, 0);
    transport.set_config_vector(Some(0)).unwrap();
    for queue in 0..QUEUES {
        transport.enable_queue(&setup(queue, 64)).unwrap();
    }
    transport.start().unwrap();
    let mut after = *function.config_space();
    assert_ne!(after[4..6], before[4..6]);
    after[4..6].copy_from_slice(&before[4..6]);
    assert_eq!(after, before);
}

#[test]
fn a_split_ring_has_a_size_that_is_a_power_of_two() {
    let function = function();
    let transport = agreed(&function, 0);
    for size in [0, 3, 100, 255, 257, 512] {
        let refused = transport.enable_queue(&setup(0, size)).map(drop);
        assert_eq!(refused, Err(Error::NoQueue), "{size}");
    }
    assert!(!function.registers().queues[0].enabled);
    transport.enable_queue(&setup(0, 128)).unwrap();
    let registers = function.registers();
    let queue = &registers.queues[0];
    assert!(queue.enabled);
    assert_eq!(queue.size, 128);
    assert_eq!(
        (queue.descriptors, queue.driver, queue.device),
        (0x1_0000_1000, 0x1_0000_2000, 0x1_0000_3000)
    );
}

#[test]
fn a_queue_counts_as_reset_when_the_device_says_so_and_can_be_set_up_otherwise() {
    let function = function();
    let transport = agreed(&function, 0);
    transport.enable_queue(&setup(1, 64)).unwrap();
    function.registers().lies = Lies {
        never_resets_queue: true,
        ..Lies::default()
    };
    transport.begin_queue_reset(1).unwrap();
    assert!(!transport.queue_reset_done(1));
    function.registers().lies = Lies::default();
    transport.begin_queue_reset(1).unwrap();
    assert!(transport.queue_reset_done(1));
    transport.enable_queue(&setup(1, 32)).unwrap();
    assert_eq!(function.registers().queues[1].size, 32);
}

#[test]
fn a_notification_carries_what_was_agreed_on() {
    let data = feature::NOTIFICATION_DATA;
    let named = feature::NOTIF_CONFIG_DATA;
    let own = u32::from(notify_name(1));
    for (without, expected) in [
        (data | named, 1),
        (named, 0x1234_0001),
        (data, own),
        (0, 0x1234_0000 | own),
    ] {
        let function = function();
        let transport = agreed(&function, without);
        let doorbell: Doorbell<FakeBar> = transport.enable_queue(&setup(1, 64)).unwrap();
        doorbell.ring(0x1234);
        let registers = function.registers();
        assert_eq!(registers.queues[1].rings, 1);
        assert_eq!(
            registers.queues[1].last_ring, expected,
            "without {without:#x}"
        );
    }
}

#[test]
fn a_vector_that_the_device_does_not_take_is_told() {
    let function = function();
    let transport = agreed(&function, 0);
    function.registers().lies.no_vectors = true;
    assert_eq!(transport.set_config_vector(Some(0)), Err(Error::NoVector));
    assert_eq!(transport.set_config_vector(None), Ok(()));
    let refused = transport.enable_queue(&setup(0, 64)).map(drop);
    assert_eq!(refused, Err(Error::NoVector));
}

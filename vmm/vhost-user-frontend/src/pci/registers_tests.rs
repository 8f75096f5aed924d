//! The register model against well-behaved and hostile drivers. Rule: a test drives registers by their offsets only.

use super::*;

const OFFER: u64 = feature::VERSION_1
    | feature::RING_RESET
    | feature::RING_PACKED
    | feature::RING_EVENT_IDX
    | 1 << 9;

fn device() -> Registers {
    Registers::new(OFFER, &[256, 128], 3)
}

fn read<const N: usize>(registers: &Registers, offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    registers.read(offset, &mut bytes);
    bytes
}

fn read_u16(registers: &Registers, offset: usize) -> u16 {
    u16::from_le_bytes(read(registers, offset))
}

fn read_u32(registers: &Registers, offset: usize) -> u32 {
    u32::from_le_bytes(read(registers, offset))
}

fn write_u16(registers: &mut Registers, offset: usize, value: u16) -> Action {
    registers.write(offset, &value.to_le_bytes())
}

fn select(registers: &mut Registers, queue: u16) {
    write_u16(registers, offset::QUEUE_SELECT, queue);
}

fn set_status(registers: &mut Registers, value: u8) -> Action {
    registers.write(offset::DEVICE_STATUS, &[value])
}

fn accept(registers: &mut Registers, features: u64) {
    set_status(registers, status::ACKNOWLEDGE | status::DRIVER);
    for (select, shift) in [(0u32, 0), (1, 32)] {
        registers.write(offset::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
        let half = u32::try_from(features >> shift & 0xffff_ffff).unwrap();
        registers.write(offset::DRIVER_FEATURE, &half.to_le_bytes());
    }
    set_status(registers, status::FEATURES_OK);
}

fn set_up_queue(registers: &mut Registers, queue: u16) {
    select(registers, queue);
    write_u16(registers, offset::QUEUE_SIZE, 64);
    write_u16(registers, offset::QUEUE_MSIX_VECTOR, queue + 1);
    for (at, value) in [
        (offset::QUEUE_DESC, 0x1_0000_1000u64),
        (offset::QUEUE_DRIVER, 0x1_0000_2000),
        (offset::QUEUE_DEVICE, 0x1_0000_3000),
    ] {
        registers.write(at, &value.to_le_bytes()[..4]);
        registers.write(at + 4, &value.to_le_bytes()[4..]);
    }
    write_u16(registers, offset::QUEUE_ENABLE, 1);
}

fn running() -> Registers {
    let mut registers = device();
    accept(&mut registers, OFFER & !feature::RING_PACKED);
    set_up_queue(&mut registers, 0);
    assert_eq!(set_status(&mut registers, status::DRIVER_OK), Action::Start);
    registers
}

/// Everything a driver can see, to compare before and after.
fn everything(registers: &Registers) -> Vec<u8> {
    read::<{ offset::SIZE }>(registers, 0).to_vec()
}

#[test]
fn a_driver_finds_what_the_device_offers() {
    let mut registers = device();
    for (select, shift) in [(0u32, 0), (1, 32)] {
        registers.write(offset::DEVICE_FEATURE_SELECT, &select.to_le_bytes());
        let half = u64::from(read_u32(&registers, offset::DEVICE_FEATURE));
        assert_eq!(half, OFFER >> shift & 0xffff_ffff);
    }
    registers.write(offset::DEVICE_FEATURE_SELECT, &2u32.to_le_bytes());
    assert_eq!(read_u32(&registers, offset::DEVICE_FEATURE), 0);
    assert_eq!(read_u16(&registers, offset::NUM_QUEUES), 2);
    select(&mut registers, 1);
    assert_eq!(read_u16(&registers, offset::QUEUE_SIZE), 128);
    assert_eq!(read_u16(&registers, offset::QUEUE_NOTIFY_OFF), 1);
}

#[test]
fn a_driver_that_follows_the_rules_starts_the_device() {
    let registers = running();
    assert!(registers.running());
    assert_eq!(registers.negotiated(), OFFER & !feature::RING_PACKED);
    let queue = &registers.queues()[0];
    assert!(queue.enabled);
    assert_eq!((queue.size, queue.vector), (64, 1));
    assert_eq!(
        (queue.descriptors, queue.driver, queue.device),
        (0x1_0000_1000, 0x1_0000_2000, 0x1_0000_3000)
    );
    assert!(!registers.queues()[1].enabled);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    for features in [OFFER | 1 << 20, OFFER & !feature::VERSION_1, 0] {
        let mut registers = device();
        accept(&mut registers, features);
        assert!(!registers.has_status(status::FEATURES_OK));
        assert_eq!(registers.negotiated(), 0);
        assert_eq!(set_status(&mut registers, status::DRIVER_OK), Action::None);
        assert!(!registers.has_status(status::DRIVER_OK));
    }
}

#[test]
fn features_are_frozen_once_agreed() {
    let mut registers = device();
    accept(&mut registers, feature::VERSION_1);
    accept(&mut registers, OFFER);
    assert_eq!(registers.negotiated(), feature::VERSION_1);
}

#[test]
fn the_driver_cannot_clear_status_bits_or_set_those_of_the_device() {
    let mut registers = running();
    set_status(&mut registers, status::ACKNOWLEDGE);
    assert!(registers.running());
    set_status(&mut registers, status::DEVICE_NEEDS_RESET);
    assert!(registers.running());
}

#[test]
fn a_second_driver_ok_does_not_start_the_device_again() {
    let mut registers = running();
    assert_eq!(set_status(&mut registers, 0x0f), Action::None);
}

#[test]
fn reset_forgets_everything_but_the_generation() {
    let mut registers = running();
    registers.config_changed();
    registers.needs_reset();
    assert!(!registers.running());
    assert_eq!(set_status(&mut registers, 0), Action::Reset);
    let [status, generation] = read(&registers, offset::DEVICE_STATUS);
    assert_eq!((status, generation), (0, 1));
    assert_eq!(registers.queues(), device().queues());
    assert_eq!(registers.config_vector(), NO_VECTOR);
}

/// REGRESSIONS row 17: queue registers writable after activation.
#[test]
fn row_17_queue_registers_do_not_change_after_driver_ok() {
    let mut registers = running();
    for queue in [0, 1] {
        select(&mut registers, queue);
        let before = everything(&registers);
        for at in [
            offset::QUEUE_SIZE,
            offset::QUEUE_ENABLE,
            offset::QUEUE_NOTIFY_OFF,
        ] {
            for value in [0, 1, 2, 128, 0x8000, 0xffff] {
                assert_eq!(write_u16(&mut registers, at, value), Action::None);
            }
        }
        for at in offset::QUEUE_DESC..offset::QUEUE_NOTIF_CONFIG_DATA {
            registers.write(at, &[0xa5; 4]);
            registers.write(at, &[0xa5; 8]);
        }
        assert_eq!(everything(&registers), before, "queue {queue}");
    }
}

/// REGRESSIONS row 16: ring size or address changed after the queue was enabled.
#[test]
fn row_16_an_enabled_queue_keeps_its_size_and_addresses() {
    let mut registers = device();
    accept(&mut registers, feature::VERSION_1);
    set_up_queue(&mut registers, 0);
    let before = everything(&registers);
    write_u16(&mut registers, offset::QUEUE_SIZE, 32);
    registers.write(offset::QUEUE_DESC, &[1; 8]);
    registers.write(offset::QUEUE_DEVICE, &[1; 4]);
    write_u16(&mut registers, offset::QUEUE_ENABLE, 0);
    assert_eq!(everything(&registers), before);
}

/// REGRESSIONS row 18: queue_select out of bounds.
#[test]
fn row_18_a_queue_that_does_not_exist_has_size_0_and_takes_nothing() {
    for mut registers in [device(), running()] {
        for queue in [2, 3, 0x7fff, 0xffff] {
            select(&mut registers, queue);
            let before = everything(&registers);
            assert!(before[offset::QUEUE_SIZE..].iter().all(|byte| *byte == 0));
            for at in offset::QUEUE_SIZE..offset::SIZE + 8 {
                for len in [1, 2, 4, 8] {
                    assert_eq!(
                        registers.write(at, &[1, 0, 1, 0, 1, 0, 1, 0][..len]),
                        Action::None
                    );
                }
            }
            assert_eq!(everything(&registers), before);
        }
    }
}

/// What the two queues of `device` are, to compare before and after.
fn queues(registers: &mut Registers) -> Vec<Vec<u8>> {
    let look = |queue| {
        select(registers, queue);
        everything(registers)[offset::QUEUE_SIZE..].to_vec()
    };
    [0, 1].map(look).into()
}

/// REGRESSIONS row 18: the write that selects may itself be odd, and what follows is of any width.
#[test]
fn row_18_no_access_with_any_queue_selected_reaches_another_queue() {
    for selected in [2u16, 3, 255, 256, 0x7fff, 0x8000, 0xffff] {
        let mut registers = device();
        accept(&mut registers, OFFER & !feature::RING_PACKED);
        let before = queues(&mut registers);
        select(&mut registers, selected);
        for at in offset::QUEUE_SIZE..offset::SIZE + 8 {
            for len in 0..=8 {
                registers.write(at, &[1, 0, 0, 0, 1, 0, 0, 0][..len]);
                let mut bytes = [0xee; 8];
                registers.read(at, &mut bytes[..len]);
                assert!(bytes[..len].iter().all(|byte| *byte == 0));
            }
        }
        assert_eq!(queues(&mut registers), before, "queue {selected} selected");
    }
    // Writes that cover queue_select in part, or more than it, select nothing.
    for start in 0..8 {
        for len in [1, 2, 3, 4, 5, 6, 7, 8] {
            let mut registers = device();
            let at = offset::QUEUE_SELECT + 4 - start;
            if (at, len) != (offset::QUEUE_SELECT, 2) {
                registers.write(at, &[0xff; 8][..len]);
                assert_eq!(read_u16(&registers, offset::QUEUE_SELECT), 0, "{at}, {len}");
            }
        }
    }
}

/// REGRESSIONS row 12: vectors flipped during DRIVER_OK.
#[test]
fn row_12_vectors_flip_at_any_time_and_bad_ones_read_back_as_none() {
    let mut registers = running();
    select(&mut registers, 0);
    for (written, kept) in [(0, 0), (2, 2), (3, NO_VECTOR), (1, 1), (0xffff, NO_VECTOR)] {
        assert_eq!(
            write_u16(&mut registers, offset::QUEUE_MSIX_VECTOR, written),
            Action::QueueVector(0)
        );
        assert_eq!(read_u16(&registers, offset::QUEUE_MSIX_VECTOR), kept);
        assert_eq!(
            write_u16(&mut registers, offset::CONFIG_MSIX_VECTOR, written),
            Action::ConfigVector
        );
        assert_eq!(read_u16(&registers, offset::CONFIG_MSIX_VECTOR), kept);
        assert_eq!(registers.config_vector(), kept);
    }
    let again = write_u16(&mut registers, offset::QUEUE_MSIX_VECTOR, 0x1234);
    assert_eq!(again, Action::None, "no change, nothing to do");
}

#[test]
fn a_queue_that_was_reset_can_be_set_up_again() {
    let mut registers = running();
    select(&mut registers, 0);
    assert_eq!(
        write_u16(&mut registers, offset::QUEUE_RESET, 1),
        Action::ResetQueue(0)
    );
    assert_eq!(read_u16(&registers, offset::QUEUE_RESET), 0);
    assert_eq!(read_u16(&registers, offset::QUEUE_ENABLE), 0);
    assert_eq!(read_u16(&registers, offset::QUEUE_SIZE), 256);
    let again = write_u16(&mut registers, offset::QUEUE_RESET, 1);
    assert_eq!(again, Action::None);
    write_u16(&mut registers, offset::QUEUE_SIZE, 32);
    registers.write(offset::QUEUE_DESC, &0x5000u64.to_le_bytes());
    assert_eq!(
        write_u16(&mut registers, offset::QUEUE_ENABLE, 1),
        Action::StartQueue(0)
    );
    assert_eq!(registers.queues()[0].size, 32);
    assert_eq!(registers.queues()[0].descriptors, 0x5000);
}

#[test]
fn queue_reset_needs_the_feature() {
    let mut registers = device();
    accept(&mut registers, feature::VERSION_1);
    set_up_queue(&mut registers, 0);
    set_status(&mut registers, status::DRIVER_OK);
    assert_eq!(
        write_u16(&mut registers, offset::QUEUE_RESET, 1),
        Action::None
    );
    assert!(registers.queues()[0].enabled);
}

#[test]
fn a_size_must_be_within_the_maximum_and_for_split_rings_a_power_of_two() {
    let mut registers = device();
    accept(&mut registers, feature::VERSION_1);
    for bad in [0, 3, 100, 512, 0x8000, 0xffff] {
        write_u16(&mut registers, offset::QUEUE_SIZE, bad);
        assert_eq!(read_u16(&registers, offset::QUEUE_SIZE), 256);
    }
    let mut registers = device();
    accept(&mut registers, feature::VERSION_1 | feature::RING_PACKED);
    write_u16(&mut registers, offset::QUEUE_SIZE, 100);
    assert_eq!(read_u16(&registers, offset::QUEUE_SIZE), 100);
    // Features that are not agreed yet may still be taken back.
    let mut registers = device();
    registers.write(offset::DRIVER_FEATURE_SELECT, &1u32.to_le_bytes());
    registers.write(offset::DRIVER_FEATURE, &[0xff; 4]);
    write_u16(&mut registers, offset::QUEUE_SIZE, 100);
    assert_eq!(read_u16(&registers, offset::QUEUE_SIZE), 256);
}

#[test]
fn what_the_driver_accepts_can_be_read_back() {
    let mut registers = device();
    accept(&mut registers, OFFER);
    for (select, shift) in [(0u32, 0), (1, 32)] {
        registers.write(offset::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
        let half = u64::from(read_u32(&registers, offset::DRIVER_FEATURE));
        assert_eq!(half, OFFER >> shift & 0xffff_ffff);
    }
}

#[test]
fn a_queue_cannot_be_enabled_before_features_are_agreed() {
    let mut registers = device();
    assert_eq!(
        write_u16(&mut registers, offset::QUEUE_ENABLE, 1),
        Action::None
    );
    assert!(!registers.queues()[0].enabled);
}

#[test]
fn any_access_of_any_width_is_survived() {
    let mut registers = running();
    for at in (0..80).chain([usize::MAX - 8, usize::MAX]) {
        for len in 0..=8 {
            let mut bytes = [0xee; 8];
            registers.read(at, &mut bytes[..len]);
            if at >= offset::SIZE {
                assert!(bytes[..len].iter().all(|byte| *byte == 0));
            }
        }
    }
    for at in (0..80).chain([usize::MAX - 8, usize::MAX]) {
        for len in 0..=8 {
            if at != offset::DEVICE_STATUS {
                registers.write(at, &[0xff; 8][..len]);
            }
        }
    }
    assert!(registers.running());
}

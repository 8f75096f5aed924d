//! A device whose registers or capabilities lie (REGRESSIONS: guest drivers against a hostile host).
//!
//! Rule: whatever it says, the driver either refuses it with an error and gives all memory back, or works; it never faults or hangs.
//! The fake BAR asserts that every access is inside and aligned.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use block_driver::ConfigChange;
use block_driver::Error;
use block_driver::ResetProgress;
use driver_fakes::FakeFunction;
use driver_fakes::FakePlatform;
use driver_fakes::Layout;
use driver_fakes::Lies;
use driver_fakes::Random;
use rig::*;
use virtio_pci::Error as Pci;
use virtio_spec::block::Config;
use virtio_spec::feature;

fn outcome(function: &FakeFunction) -> Result<(), Error> {
    let platform = FakePlatform::new(1);
    let (mut driver, queues) = start(function, &platform)?;
    driver.begin_reset(&platform);
    let ResetProgress::Done(proof) = driver.poll_reset(&platform) else {
        panic!("pending")
    };
    for queue in queues {
        platform.release_all(queue.into_memory(&proof).unwrap());
    }
    Ok(())
}

fn with_lies(lies: Lies) -> Result<(), Error> {
    let mut registers = registers(feature::RING_RESET, config());
    registers.lies = lies;
    outcome(&function(registers))
}

fn with_config(edit: impl FnOnce(&mut Config)) -> Result<(), Error> {
    let mut config = config();
    edit(&mut config);
    outcome(&function(registers(0, config)))
}

fn with_config_space(edit: impl FnOnce(&mut [u8; 256])) -> Result<(), Error> {
    let function = function(registers(0, config()));
    edit(&mut function.config_space());
    outcome(&function)
}

#[test]
fn a_device_that_never_finishes_its_reset_is_given_up_and_cut_off() {
    let mut registers = registers(0, config());
    registers.status = 1;
    registers.lies.never_resets = true;
    let function = function(registers);
    assert_eq!(outcome(&function), Err(Error::Transport(Pci::ResetTimeout)));
    assert_eq!(
        function.config_space()[4] & 4,
        0,
        "bus mastering is still on"
    );
}

#[test]
fn a_device_that_is_gone_from_the_bus_is_refused() {
    assert_eq!(
        with_lies(Lies {
            gone: true,
            ..Lies::default()
        }),
        Err(Error::Transport(Pci::ResetTimeout))
    );
}

#[test]
fn a_device_that_refuses_all_features_is_refused() {
    let lies = Lies {
        refuses_features: true,
        ..Lies::default()
    };
    assert_eq!(with_lies(lies), Err(Error::Transport(Pci::FeaturesRefused)));
}

#[test]
fn features_that_change_at_every_read_are_read_once() {
    let mut started = 0;
    for seed in 0..20 {
        let outcome = with_lies(Lies {
            changing_features: Some(seed),
            ..Lies::default()
        });
        match outcome {
            Ok(()) => started += 1,
            Err(error) => assert_eq!(error, Error::Transport(Pci::FeaturesRefused)),
        }
    }
    assert!(started > 10, "{started} of 20 start");
}

#[test]
fn a_legacy_device_is_refused() {
    let mut registers = registers(0, config());
    registers.offered &= !feature::VERSION_1;
    assert_eq!(
        outcome(&function(registers)),
        Err(Error::Transport(Pci::FeaturesRefused))
    );
}

#[test]
fn a_configuration_that_is_never_stable_is_refused_after_bounded_retries() {
    let lies = Lies {
        unstable_generation: true,
        ..Lies::default()
    };
    assert_eq!(with_lies(lies), Err(Error::Transport(Pci::ConfigUnstable)));
}

#[test]
fn queue_sizes_from_zero_to_the_largest_are_refused_or_cut() {
    for (size, expected) in [
        (0, Err(Error::Transport(Pci::NoQueue))),
        (1, Err(Error::NoQueue)),
        (2, Err(Error::NoQueue)),
        (3, Err(Error::NoQueue)),
        (4, Ok(())),
        (1000, Ok(())),
        (32768, Ok(())),
        (32769, Err(Error::Transport(Pci::NoQueue))),
        (65535, Err(Error::Transport(Pci::NoQueue))),
    ] {
        assert_eq!(
            with_lies(Lies {
                queue_size: Some(size),
                ..Lies::default()
            }),
            expected,
            "size {size}"
        );
    }
}

#[test]
fn queue_counts_of_none_and_of_very_many_are_survived() {
    for count in [0, 1, 65535] {
        assert_eq!(
            with_lies(Lies {
                queue_count: Some(count),
                ..Lies::default()
            }),
            Ok(())
        );
    }
    assert_eq!(
        with_config(|config| config.num_queues = 65535.into()),
        Ok(())
    );
    assert_eq!(
        with_config(|config| config.num_queues = 0.into()),
        Err(Error::BadConfig)
    );
}

#[test]
fn a_queue_that_does_not_become_enabled_refuses_the_disk() {
    let lies = Lies {
        never_enables: true,
        ..Lies::default()
    };
    assert_eq!(with_lies(lies), Err(Error::Transport(Pci::BadQueue)));
}

#[test]
fn a_device_without_vectors_refuses_the_disk() {
    let lies = Lies {
        no_vectors: true,
        ..Lies::default()
    };
    assert_eq!(with_lies(lies), Err(Error::Transport(Pci::NoVector)));
}

#[test]
fn a_doorbell_outside_the_notification_structure_refuses_the_disk() {
    for offset in [0x400, 0xffff] {
        let lies = Lies {
            notify_offset: Some(offset),
            ..Lies::default()
        };
        assert_eq!(with_lies(lies), Err(Error::Transport(Pci::BadQueue)));
    }
}

#[test]
fn a_device_that_asks_for_a_reset_at_once_is_refused() {
    let lies = Lies {
        needs_reset: true,
        ..Lies::default()
    };
    assert!(with_lies(lies).is_err());
}

#[test]
fn needs_reset_later_is_reported_every_time() {
    let mut rig = rig(1, 0);
    rig.function.registers().lies.needs_reset = true;
    for _ in 0..1000 {
        assert_eq!(
            rig.driver.config_changed(&rig.platform),
            Ok(ConfigChange::NeedsReset)
        );
    }
    rig.function.registers().lies.needs_reset = false;
    rig.finish();
}

#[test]
fn absurd_configurations_are_refused_or_tamed() {
    for block_size in [0_u32, 3, 256, 1 << 17, 1 << 31, u32::MAX] {
        assert_eq!(
            with_config(|c| c.blk_size = block_size.into()),
            Err(Error::BadConfig),
            "blk_size {block_size}"
        );
    }
    assert_eq!(
        with_config(|c| c.size_max = 511.into()),
        Err(Error::BadConfig)
    );
    assert_eq!(
        with_config(|c| c.capacity = u64::MAX.into()),
        Err(Error::BadConfig)
    );
    assert_eq!(with_config(|c| c.size_max = 0.into()), Ok(()));
    assert_eq!(with_config(|c| c.seg_max = 0.into()), Ok(()));
    assert_eq!(with_config(|c| c.seg_max = u32::MAX.into()), Ok(()));
    assert_eq!(with_config(|c| c.capacity = 0.into()), Ok(()));
    assert_eq!(with_config(|c| c.topology.physical_block_exp = 255), Ok(()));
    assert_eq!(with_config(|c| c.max_discard_seg = 0.into()), Ok(()));
    assert_eq!(with_config(|c| c.max_discard_sectors = 0.into()), Ok(()));
}

#[test]
fn a_configuration_that_is_too_short_is_refused() {
    for len in [1, 7, 8, 20, 35] {
        let mut registers = registers(0, config());
        registers.config.truncate(len);
        assert_eq!(
            outcome(&function(registers)),
            Err(Error::Transport(Pci::ConfigOutOfRange)),
            "{len} bytes"
        );
    }
}

#[test]
fn structures_outside_their_bar_are_refused() {
    for (offset, len) in [
        (0xffff_fffc, 0x40),
        (0x3fc4, 0x40),
        (0, 0x4004),
        (0, 0xffff_ffff),
        (2, 0x40),
        (0, 8),
    ] {
        let result = with_config_space(|space| {
            space[0x48..0x4c].copy_from_slice(&u32::to_le_bytes(offset));
            space[0x4c..0x50].copy_from_slice(&u32::to_le_bytes(len));
        });
        assert_eq!(
            result,
            Err(Error::Transport(Pci::BadCapability)),
            "offset {offset:#x} length {len:#x}"
        );
    }
    for bar in [0, 5, 6, 255] {
        let result = with_config_space(|space| space[0x44] = bar);
        assert_eq!(
            result,
            Err(Error::Transport(Pci::BadCapability)),
            "BAR {bar}"
        );
    }
}

#[test]
fn the_capability_walk_ends_however_the_list_is_linked() {
    for next in [0x40, 0x44, 0x00, 0x04, 0x3c, 0xfc, 0xff] {
        for at in [0x41, 0x61, 0x81, 0xa1, 0x34] {
            let _ = with_config_space(|space| space[at] = next);
        }
    }
}

#[test]
fn a_notification_multiplier_that_is_no_even_power_of_two_is_refused() {
    for multiplier in [1_u32, 3, 6, u32::MAX] {
        let result =
            with_config_space(|space| space[0xb0..0xb4].copy_from_slice(&multiplier.to_le_bytes()));
        assert_eq!(
            result,
            Err(Error::Transport(Pci::BadCapability)),
            "multiplier {multiplier}"
        );
    }
    let registers = registers(0, config());
    let shared = FakeFunction::new(
        2,
        registers,
        Layout {
            multiplier: 0,
            ..Layout::default()
        },
    );
    assert_eq!(outcome(&shared), Ok(()));
}

#[test]
fn other_devices_are_refused() {
    let registers = registers(0, config());
    assert_eq!(
        outcome(&FakeFunction::new(1, registers, Layout::default())),
        Err(Error::OtherType)
    );
    assert_eq!(
        with_config_space(|space| space[0] = 0),
        Err(Error::Transport(Pci::NotVirtio))
    );
    assert_eq!(
        with_config_space(|space| space[3] = 0),
        Err(Error::Transport(Pci::NotVirtio))
    );
}

#[test]
fn random_configuration_spaces_never_fault() {
    let mut random = Random::new(42);
    for _ in 0..3000 {
        let edits = 1 + random.below(6);
        let mut places: Vec<(usize, u8)> = Vec::new();
        for _ in 0..edits {
            places.push((4 + random.index(252), random.next_u64() as u8));
        }
        let _ = with_config_space(|space| places.iter().for_each(|&(at, value)| space[at] = value));
    }
}

#[test]
fn a_start_without_memory_gives_everything_back() {
    let platform = FakePlatform::with_arena(1, driver_fakes::Arena::new(4096, 0x1000));
    let function = function(registers(feature::RING_INDIRECT_DESC, config()));
    assert!(matches!(start(&function, &platform), Err(Error::Memory(_))));
}

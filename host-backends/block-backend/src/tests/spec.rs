//! The specification's own checks and spellings.

use crate::BlockDevice;
use crate::BlockSpec;
use crate::ByteSize;
use crate::Error;
use clap::Args;
use clap::Command;
use clap::FromArgMatches;

fn faults(spec: &BlockSpec) -> Vec<String> {
    spec.check().expect_err("a faulty specification")
}

#[test]
fn the_default_lacks_only_a_disk() {
    assert_eq!(faults(&BlockSpec::default()).len(), 1);
    assert!(BlockSpec::memory(512).check().is_ok());
    assert!(BlockSpec::image("x").check().is_ok());
}

#[test]
fn all_faults_are_told_at_once() {
    let spec = BlockSpec {
        block_size: 1000,
        num_queues: 0,
        queue_size: 100,
        serial: Some("more than twenty characters".to_owned()),
        ..BlockSpec::default()
    };
    let faults = faults(&spec);
    assert_eq!(faults.len(), 5, "{faults:?}");
    for (fault, word) in
        faults
            .iter()
            .zip(["path", "block-size", "num-queues", "queue-size", "serial"])
    {
        assert!(fault.contains(word), "{fault}");
    }
}

#[test]
fn wrong_values_are_refused() {
    let base = BlockSpec::memory(1 << 20);
    let wrong = [
        BlockSpec {
            block_size: 0,
            ..base.clone()
        },
        BlockSpec {
            block_size: 1024,
            ..base.clone()
        },
        BlockSpec {
            physical_block_size: 256,
            ..base.clone()
        },
        BlockSpec {
            physical_block_size: 5000,
            ..base.clone()
        },
        BlockSpec {
            optimal_io_size: 100,
            ..base.clone()
        },
        BlockSpec {
            num_queues: 257,
            ..base.clone()
        },
        BlockSpec {
            queue_size: 2,
            ..base.clone()
        },
        BlockSpec {
            queue_size: 32769,
            ..base.clone()
        },
        BlockSpec {
            serial: Some("tab\t".to_owned()),
            ..base.clone()
        },
        BlockSpec {
            serial: Some("\u{fc}".to_owned()),
            ..base.clone()
        },
        BlockSpec {
            memory_disk: Some(ByteSize(0)),
            ..base.clone()
        },
        BlockSpec {
            memory_disk: Some(ByteSize(513)),
            ..base.clone()
        },
        BlockSpec {
            memory_disk: Some(ByteSize(u64::MAX - 511)),
            ..base.clone()
        },
        BlockSpec {
            path: Some("x".into()),
            ..base
        },
    ];
    for spec in wrong {
        assert_eq!(faults(&spec).len(), 1, "{spec:?}");
        assert!(matches!(BlockDevice::open(spec), Err(Error::Spec(_))));
    }
}

fn from_flags(flags: &[&str]) -> Result<BlockSpec, clap::Error> {
    let command = BlockSpec::augment_args(Command::new("test"));
    let matches = command.try_get_matches_from(std::iter::once(&"test").chain(flags))?;
    BlockSpec::from_arg_matches(&matches)
}

#[test]
fn flags_and_constructor_have_the_same_defaults() {
    let spec = from_flags(&["--memory-disk", "1M"]).expect("flags");
    assert_eq!(spec, BlockSpec::memory(1 << 20));
}

#[test]
fn every_flag_has_help() {
    let command = BlockSpec::augment_args(Command::new("test"));
    for argument in command.get_arguments() {
        assert!(argument.get_help().is_some(), "--{}", argument.get_id());
    }
}

#[test]
fn wrong_flags_are_refused() {
    for wrong in [
        &["--engine", "magic"][..],
        &["--cache", "yes"],
        &["--discard", "maybe"],
        &["--memory-disk", "lots"],
        &["--num-queues", "-1"],
        &["--lock", "maybe"],
    ] {
        assert!(from_flags(wrong).is_err(), "{wrong:?}");
    }
}

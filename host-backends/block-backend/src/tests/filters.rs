//! io_uring under filters like those of containers, each in a thread of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rig::DRIVER;
use super::*;
use crate::BlockDevice;
use crate::BlockSpec;
use crate::EngineChoice;
use crate::Error;
use seccompiler::SeccompAction;
use seccompiler::SeccompFilter;
use virtio_spec::block::status::*;

const CALLS: [i64; 3] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_enter,
];

/// Runs `body` in a thread in which `call` fails with `errno`.
fn refusing<T: Send + 'static>(
    call: i64,
    errno: i32,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into().expect("a known CPU"),
    );
    let program: seccompiler::BpfProgram = filter.expect("a filter").try_into().expect("a program");
    let confined = move || {
        seccompiler::apply_filter(&program).expect("a filter");
        body()
    };
    std::thread::spawn(confined).join().expect("no panic")
}

fn spec(path: &std::path::Path, engine: EngineChoice) -> BlockSpec {
    BlockSpec {
        engine,
        ..BlockSpec::image(path)
    }
}

#[test]
fn auto_does_without_io_uring_whichever_call_is_refused() {
    for call in CALLS {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES] {
            let image = image_of(&[0; 4096]);
            let spec = spec(image.path(), EngineChoice::Auto);
            refusing(call, errno, move || {
                let mut rig = Rig::new(spec);
                assert_eq!(rig.device.engine(), "sync", "{call} {errno}");
                assert_eq!(rig.write(1, &[7; 512]), OK);
                assert_eq!(rig.read(1, 512), [7; 512]);
                assert_eq!(rig.flush(), OK);
            });
        }
    }
}

#[test]
fn uring_that_was_asked_for_is_refused_with_the_mend() {
    for call in CALLS {
        let image = image_of(&[0; 4096]);
        let spec = spec(image.path(), EngineChoice::Uring);
        let refused = refusing(call, libc::EPERM, move || BlockDevice::open(spec).err());
        assert!(matches!(refused, Some(Error::Uring(_))), "{call}");
        let message = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains("--engine sync"), "{message}");
    }
}

#[test]
fn a_queue_has_its_ring_whatever_is_refused_later() {
    let later = [
        (libc::SYS_io_uring_setup, libc::ENOSYS),
        (libc::SYS_io_uring_register, libc::ENOSYS),
    ];
    for (call, errno) in later {
        let image = image_of(&[0; 4096]);
        let device = BlockDevice::open(spec(image.path(), EngineChoice::Auto)).expect("a disk");
        if device.engine() != "uring" {
            println!("SKIPS ITSELF filters: no io_uring here");
            return;
        }
        // One queue after the other, as after a pause, each on a thread of its own.
        for _ in 0..3 {
            let theirs = Arc::clone(&device);
            refusing(call, errno, move || {
                let mut rig = Rig::on(theirs, DRIVER);
                assert_eq!(rig.write(1, &[7; 512]), OK, "{call} {errno}");
                assert_eq!(rig.read(1, 512), [7; 512]);
                assert_eq!(rig.flush(), OK);
            });
        }
    }
}

#[test]
fn a_queue_without_a_ring_uses_system_calls_unless_the_engine_was_asked_for() {
    use device_model::Device;
    for (engine, starts) in [(EngineChoice::Auto, true), (EngineChoice::Uring, false)] {
        let image = image_of(&[0; 4096]);
        let device = BlockDevice::open(spec(image.path(), engine));
        let Some(device) = device.ok().filter(|device| device.engine() == "uring") else {
            println!("SKIPS ITSELF filters: no io_uring here");
            return;
        };
        let first = device.start_queue(0, DRIVER).expect("it has the only ring");
        assert_eq!(device.start_queue(0, DRIVER).is_ok(), starts);
        drop(first);
        device.start_queue(0, DRIVER).expect("the ring came back");
    }
}

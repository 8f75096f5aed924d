//! Opening and locking images.

use super::*;
use crate::BlockDevice;
use crate::BlockSpec;
use crate::CacheMode;
use crate::EngineChoice;
use crate::Error;
use crate::LockChoice;
use device_model::Device;
use std::error::Error as _;
use std::os::fd::AsRawFd;
use virtio_spec::block::status::*;

fn reader(path: &std::path::Path) -> BlockSpec {
    BlockSpec {
        readonly: true,
        ..BlockSpec::image(path)
    }
}

/// What a disk of `spec` says that cannot start, though it opens.
fn refused(spec: BlockSpec) -> String {
    let spec = BlockSpec {
        lock_wait_ms: 20,
        ..spec
    };
    let device = BlockDevice::open(spec).expect("it opens and can be asked");
    let started = device.start_queue(0, rig::DRIVER).map(drop);
    let error = started.expect_err("the lock refuses");
    let cause = error.source().expect("a cause").to_string();
    assert!(cause.contains("in use"), "{cause}");
    cause
}

#[test]
fn a_second_writer_is_refused_and_told_the_mend() {
    let image = image_of(&[0; 4096]);
    let _first = Rig::new(BlockSpec::image(image.path()));
    let message = refused(BlockSpec::image(image.path()));
    assert!(
        message.contains("--lock off") && message.contains("for writing"),
        "{message}"
    );
}

#[test]
fn readers_share_and_keep_writers_out() {
    let image = image_of(&[0; 4096]);
    let _one = Rig::new(reader(image.path()));
    let _two = Rig::new(reader(image.path()));
    assert!(refused(BlockSpec::image(image.path())).contains("for reading"));
}

#[test]
fn a_writer_keeps_readers_out() {
    let image = image_of(&[0; 4096]);
    let _writer = Rig::new(BlockSpec::image(image.path()));
    refused(reader(image.path()));
}

#[test]
fn the_lock_ends_with_the_disk() {
    let image = image_of(&[0; 4096]);
    for _ in 0..3 {
        drop(Rig::new(BlockSpec::image(image.path())));
    }
}

#[test]
fn closing_another_descriptor_of_the_image_keeps_the_lock() {
    let image = image_of(&[0; 4096]);
    let _writer = Rig::new(BlockSpec::image(image.path()));
    // A lock of the older kind would be lost here.
    drop(std::fs::File::open(image.path()).expect("the image"));
    refused(BlockSpec::image(image.path()));
}

#[test]
fn a_lock_that_is_let_go_in_time_is_waited_for() {
    let image = image_of(&[0; 4096]);
    let first = BlockDevice::open(BlockSpec::image(image.path())).expect("the first writer");
    let handler = first.start_queue(0, rig::DRIVER).expect("its queue");
    drop(handler);
    let dying = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(first);
    });
    Rig::new(BlockSpec::image(image.path()));
    dying.join().expect("no panic");
}

#[test]
fn lock_off_neither_takes_nor_minds_a_lock() {
    let image = image_of(&[0; 4096]);
    let off = BlockSpec {
        lock: LockChoice::Off,
        ..BlockSpec::image(image.path())
    };
    let _free = Rig::new(off.clone());
    let _locked = Rig::new(BlockSpec::image(image.path()));
    let _second = Rig::new(off);
}

/// A disk on `image` with two queues.
fn with_two_queues(image: &std::path::Path) -> std::sync::Arc<BlockDevice> {
    let spec = BlockSpec {
        num_queues: 2,
        lock_wait_ms: 20,
        ..BlockSpec::image(image)
    };
    BlockDevice::open(spec).expect("it opens, whoever has the lock")
}

#[test]
fn the_lock_is_handed_over_when_the_front_end_has_stopped_the_last_queue() {
    let image = image_of(&[0; 4096]);
    let (source, destination) = (with_two_queues(image.path()), with_two_queues(image.path()));
    let starts = |disk: &BlockDevice| disk.start_queue(0, rig::DRIVER).is_ok();
    for index in 0..2 {
        drop(
            source
                .start_queue(index, rig::DRIVER)
                .expect("the source runs"),
        );
    }
    // Its handlers are gone, as in a pause for new memory; the front-end has not said that a queue ended.
    let mut capacity = [0; 8];
    destination.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 8, "it can be asked meanwhile");
    assert!(!starts(&destination));
    source.queue_ended(0);
    assert!(!starts(&destination), "one queue is left");
    source.queue_ended(1);
    assert!(starts(&destination));
    // The migration failed after all, or somebody errs: the source must not write now.
    assert!(!starts(&source));
    destination.session_ended();
    assert!(starts(&source));
    source.reset();
    assert!(starts(&destination));
}

#[test]
fn a_size_that_changed_until_the_start_is_taken_on_then() {
    let image = image_of(&[0; 4096]);
    let (source, destination) = (with_two_queues(image.path()), with_two_queues(image.path()));
    let mut running = Rig::on(source, rig::DRIVER);
    image.as_file().set_len(8192).expect("growth");
    running.device.resize().expect("a resize");
    assert_eq!(running.write(8, &[5; 512]), OK);
    assert_eq!(destination.size(), 4096);
    running.device.session_ended();
    drop(running);
    let mut next = Rig::on(destination, rig::DRIVER);
    assert_eq!(next.device.size(), 8192);
    assert_eq!(next.read(8, 512), [5; 512]);
}

// REGRESSIONS 21 (CVE-2026-27211): the format is never guessed.
#[test]
fn a_guest_that_writes_a_qcow2_header_still_has_a_raw_disk() {
    let image = image_of(&vec![0; 1 << 20]);
    let mut header = vec![0; 4096];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    header[8..24].copy_from_slice(b"\0\0\0\0\0\0\0\x68\0\0\0\x0b/etc");
    assert_eq!(
        Rig::new(BlockSpec::image(image.path())).write(0, &header),
        OK
    );
    let mut again = Rig::new(BlockSpec::image(image.path()));
    assert_eq!(again.device.size(), 1 << 20);
    assert_eq!(again.read(0, 4096), header);
}

#[test]
fn what_is_no_image_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(BlockDevice::open(BlockSpec::image(dir.path())).is_err());
    assert!(matches!(
        BlockDevice::open(BlockSpec::image("/dev/null")),
        Err(Error::NotADisk { .. })
    ));
    let missing =
        BlockDevice::open(BlockSpec::image(dir.path().join("none"))).expect_err("no image");
    assert!(missing.to_string().contains("truncate -s"), "{missing}");
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    assert!(matches!(
        BlockDevice::open(BlockSpec::image(fifo)),
        Err(Error::NotADisk { .. })
    ));
}

/// Every engine with an image of `bytes` in the place that it serves, and what it is called.
fn odd_images(bytes: usize) -> Vec<(tempfile::NamedTempFile, BlockSpec)> {
    let engines = [
        (EngineChoice::Uring, CacheMode::Writeback),
        (EngineChoice::Uring, CacheMode::None),
        (EngineChoice::Sync, CacheMode::Writeback),
        (EngineChoice::Sync, CacheMode::None),
        (EngineChoice::Map, CacheMode::Writeback),
    ];
    let of = |(engine, cache)| {
        let image = if engine == EngineChoice::Map {
            tempfile::NamedTempFile::new_in("/dev/shm").expect("an image in memory")
        } else {
            image_of(&[])
        };
        std::fs::write(image.path(), vec![1; bytes]).expect("its content");
        let spec = BlockSpec {
            engine,
            cache,
            ..BlockSpec::image(image.path())
        };
        (image, spec)
    };
    engines.into_iter().map(of).collect()
}

#[test]
fn an_image_that_ends_within_a_block_has_it_filled_up_with_zeroes() {
    for (image, spec) in odd_images(1000) {
        let mut rig = Rig::new(spec.clone());
        assert_eq!(rig.device.size(), 1024, "{spec:?}");
        let mut expected = vec![1; 1024];
        expected[1000..].fill(0);
        assert!(rig.read(0, 1024) == expected, "{spec:?}");
        assert!(rig.read(1, 512) == expected[512..], "{spec:?}");
        assert_eq!(rig.request(0, 2, &[], 512).status, IOERR);
        let length = || image.as_file().metadata().expect("the image").len();
        assert_eq!(length(), 1000, "{spec:?}: a read does not make it grow");
        assert_eq!(rig.ranges(13, &[(0, 2, 0)]), OK, "{spec:?}");
        assert_eq!(rig.read(0, 1024), [0; 1024], "{spec:?}");
        assert_eq!(rig.write(1, &[2; 512]), OK, "{spec:?}");
        assert_eq!(length(), 1024, "{spec:?}: a write there does");
        assert_eq!(rig.read(1, 512), [2; 512], "{spec:?}");
        let content = std::fs::read(image.path()).expect("the image");
        assert_eq!(content[512..], [2; 512], "{spec:?}");
    }
}

#[test]
fn an_image_may_end_anywhere_in_a_block_of_any_size() {
    for (bytes, block) in [
        (1, 512),
        (511, 512),
        (513, 512),
        (512, 4096),
        (4095, 4096),
        (4097, 4096),
        (12_289, 512),
    ] {
        for (_image, spec) in odd_images(bytes) {
            let spec = BlockSpec {
                block_size: block,
                ..spec
            };
            let size = bytes.next_multiple_of(block as usize);
            let mut rig = Rig::new(spec.clone());
            assert_eq!(rig.device.size(), size as u64, "{spec:?}");
            let mut expected = vec![1; size];
            expected[bytes..].fill(0);
            assert!(rig.read(0, size) == expected, "{bytes} {spec:?}");
            assert_eq!(rig.write(0, &vec![3; size]), OK, "{bytes} {spec:?}");
            assert_eq!(rig.read(0, size), vec![3; size], "{bytes} {spec:?}");
        }
    }
}

#[test]
fn a_resize_to_an_odd_size_is_filled_up_too() {
    for (image, spec) in odd_images(1024) {
        let mut rig = Rig::new(spec.clone());
        image.as_file().set_len(1500).expect("growth");
        assert_eq!(rig.device.resize().expect("a resize"), 1536, "{spec:?}");
        assert_eq!(rig.read(2, 512), [0; 512], "{spec:?}");
        assert_eq!(rig.write(2, &[4; 512]), OK, "{spec:?}");
        assert_eq!(rig.read(2, 512), [4; 512], "{spec:?}");
        image.as_file().set_len(600).expect("shrinkage");
        assert_eq!(rig.device.resize().expect("a resize"), 1024, "{spec:?}");
        assert_eq!(rig.request(0, 2, &[], 512).status, IOERR, "{spec:?}");
        let mut expected = vec![1; 600];
        expected.resize(1024, 0);
        assert!(rig.read(0, 1024) == expected, "{spec:?}");
    }
}

#[test]
fn an_odd_image_truncated_under_us_is_an_error_and_no_zeroes() {
    for (image, spec) in odd_images(1000) {
        if spec.engine == EngineChoice::Map {
            // A page that is there is served from the mapping, whatever the length says.
            continue;
        }
        let mut rig = Rig::new(spec.clone());
        image.as_file().set_len(100).expect("truncation");
        assert_eq!(rig.request(0, 1, &[], 512).status, IOERR, "{spec:?}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_refused_with_the_mend() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    let flags = nix::mount::MsFlags::MS_RDONLY;
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        dir.path(),
        Some("tmpfs"),
        flags,
        None::<&str>,
    );
    if let Err(errno) = mounted {
        println!("SKIPS ITSELF image: no mount ({errno}), needs root");
        return;
    }
    let writable = nix::mount::MsFlags::MS_REMOUNT;
    let remount =
        |flags| nix::mount::mount(None::<&str>, dir.path(), None::<&str>, flags, None::<&str>);
    remount(writable).expect("a writable mount");
    std::fs::write(&path, [0; 512]).expect("an image");
    remount(writable | flags).expect("a read-only mount");
    let refused = BlockDevice::open(BlockSpec::image(&path)).expect_err("it cannot be written");
    let served = BlockDevice::open(reader(&path)).map(|disk| disk.size());
    let _ = nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH);
    assert!(refused.to_string().contains("--readonly"), "{refused}");
    assert_eq!(served.expect("it can be read"), 512);
}

#[test]
fn an_empty_image_is_an_empty_disk() {
    let mut rig = Rig::new(BlockSpec::image(image_of(&[]).path()));
    assert_eq!(rig.device.size(), 0);
    assert_eq!(rig.request(0, 0, &[], 512).status, IOERR);
    assert_eq!(rig.flush(), OK);
}

#[test]
fn the_map_engine_is_only_for_memory() {
    let image = image_of(&[0; 4096]);
    let spec = BlockSpec {
        engine: EngineChoice::Map,
        ..BlockSpec::image(image.path())
    };
    let on_tmpfs = nix::sys::statfs::statfs(image.path())
        .expect("a file system")
        .filesystem_type()
        == nix::sys::statfs::TMPFS_MAGIC;
    assert_eq!(BlockDevice::open(spec).is_ok(), on_tmpfs);
}

#[test]
fn the_image_may_be_named_by_an_inherited_descriptor() {
    let image = image_of(&[5; 4096]);
    let path = format!("/proc/self/fd/{}", image.as_file().as_raw_fd());
    assert_eq!(Rig::new(BlockSpec::image(path)).read(0, 512), [5; 512]);
}

#[test]
fn direct_io_serves_buffers_of_any_alignment() {
    for engine in [EngineChoice::Uring, EngineChoice::Sync] {
        let image = image_of(&vec![0; 1 << 20]);
        let spec = BlockSpec {
            cache: CacheMode::None,
            engine,
            ..BlockSpec::image(image.path())
        };
        let mut rig = Rig::new(spec);
        for (shift, len) in [
            (0, 4096),
            (1, 4096),
            (8, 512),
            (512, 300 << 10),
            (3, 600 << 10),
        ] {
            let data = rig::pattern(shift as u8, len);
            let mut shifted = vec![0; shift];
            shifted.extend_from_slice(&data);
            let whole = rig.place(&shifted);
            let part = virtqueue::Segment {
                addr: whole.addr + shift as u64,
                len: len as u32,
            };
            let (head, status) = ([rig.header(1, 8), part], [rig.room(1)]);
            assert_eq!(rig.send(&head, &status).status, OK);
            rig.memory.write(part.addr, &vec![0; len]).expect("memory");
            let (head, room) = ([rig.header(0, 8)], [part, rig.room(1)]);
            let answer = rig.send(&head, &room);
            assert_eq!((answer.status, answer.written as usize), (OK, len + 1));
            assert!(answer.data == data, "{engine:?} shift {shift} len {len}");
        }
    }
}

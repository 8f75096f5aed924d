//! What spans steps, against an engine that answers as the script says.

use std::collections::VecDeque;

use nix::errno::Errno;

use super::*;
use crate::BlockSpec;
use crate::EngineChoice;
use crate::engine::Step;
use crate::engine::work::Next;
use crate::engine::work::Task;
use crate::engine::work::Work;
use crate::image::Image;
use crate::request::Range;

/// Steps as the engine sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Read(u64, usize),
    Write(u64, usize, bool),
    Sync,
    Allocate(i32, u64, u64),
}

fn see(step: Step<'_>) -> Seen {
    let len = |buffers: &[libc::iovec]| buffers.iter().map(|buffer| buffer.iov_len).sum();
    match step {
        Step::Read { offset, buffers } => Seen::Read(offset, len(buffers)),
        Step::Write {
            offset,
            buffers,
            durable,
        } => Seen::Write(offset, len(buffers), durable),
        Step::Sync => Seen::Sync,
        Step::Allocate { mode, offset, len } => Seen::Allocate(mode, offset, len),
        Step::DiscardDevice { .. } => unreachable!("the image is no device"),
    }
}

/// Runs `work` with the script's results; returns the steps and the end.
fn play(
    work: &mut Work,
    image: &Image,
    script: &[Result<usize, Errno>],
) -> (Vec<Seen>, Result<(), Errno>) {
    let mut script: VecDeque<_> = script.iter().copied().collect();
    let mut steps = Vec::new();
    loop {
        let Some(step) = work.step(image) else {
            return (steps, Ok(()));
        };
        steps.push(see(step));
        let result = script.pop_front().expect("the script is long enough");
        if let Next::Over(end) = work.advance(image, result) {
            assert!(
                script.is_empty(),
                "steps are missing: {script:?} after {steps:?}"
            );
            return (steps, end);
        }
    }
}

fn image() -> Image {
    Image::open(&BlockSpec::memory(1 << 20)).expect("an image")
}

/// Work with `len` bytes of guest buffers in pieces of 512.
fn with_buffers(len: usize) -> (Rig, Work) {
    let mut rig = Rig::new(BlockSpec::memory(4096));
    let mut work = Work::default();
    let pieces: Vec<_> = (0..len / 512).map(|_| rig.room(512)).collect();
    rig.memory
        .iovecs(&pieces, &mut work.buffers)
        .expect("buffers");
    (rig, work)
}

#[test]
fn short_reads_go_on_where_they_stopped() {
    let (_rig, mut work) = with_buffers(2048);
    work.transfer(Task::Read, 4096, 2048, false, &image());
    let (steps, end) = play(&mut work, &image(), &[Ok(1), Ok(511), Ok(1000), Ok(536)]);
    let expected = [
        Seen::Read(4096, 2048),
        Seen::Read(4097, 2047),
        Seen::Read(4608, 1536),
        Seen::Read(5608, 536),
    ];
    assert_eq!((steps.as_slice(), end), (expected.as_slice(), Ok(())));
    assert_eq!(work.moved(), 2048);
}

#[test]
fn short_writes_go_on_and_stay_durable() {
    let (_rig, mut work) = with_buffers(1024);
    work.transfer(Task::Write, 0, 1024, true, &image());
    let (steps, end) = play(&mut work, &image(), &[Ok(512), Ok(512)]);
    assert_eq!(
        steps,
        [Seen::Write(0, 1024, true), Seen::Write(512, 512, true)]
    );
    assert_eq!(end, Ok(()));
}

#[test]
fn a_durable_write_that_fails_is_made_again_as_a_write_and_a_sync() {
    let again = [
        Seen::Write(0, 512, true),
        Seen::Write(0, 512, false),
        Seen::Sync,
    ];
    let fails = Err(Errno::EIO);
    for (results, steps, over, synced) in [
        (&[fails, Ok(512), Ok(0)][..], 3, Ok(()), true),
        (&[fails, Ok(512), fails], 3, fails.map(drop), true),
        (&[fails, fails], 2, fails.map(drop), false),
    ] {
        let (_rig, mut work) = with_buffers(512);
        work.transfer(Task::Write, 0, 512, true, &image());
        let (seen, end) = play(&mut work, &image(), results);
        assert_eq!((seen.as_slice(), end), (&again[..steps], over));
        assert_eq!(work.is_synced(), synced, "whether it was the sync");
    }
}

#[test]
fn interruptions_are_repeated() {
    let (_rig, mut work) = with_buffers(512);
    work.transfer(Task::Read, 0, 512, false, &image());
    let (steps, end) = play(
        &mut work,
        &image(),
        &[Err(Errno::EINTR), Err(Errno::EAGAIN), Ok(512)],
    );
    assert_eq!((steps.len(), end), (3, Ok(())));
}

#[test]
fn an_answer_of_try_again_for_ever_is_an_error() {
    let (_rig, mut work) = with_buffers(512);
    work.transfer(Task::Read, 0, 512, false, &image());
    let forever = vec![Err(Errno::EAGAIN); 10_001];
    assert_eq!(play(&mut work, &image(), &forever).1, Err(Errno::EAGAIN));
}

#[test]
fn errors_end_the_request_and_what_moved_is_known() {
    for errno in [
        Errno::EIO,
        Errno::ENOSPC,
        Errno::EDQUOT,
        Errno::EFAULT,
        Errno::EPERM,
    ] {
        let (_rig, mut work) = with_buffers(1024);
        work.transfer(Task::Read, 0, 1024, false, &image());
        assert_eq!(
            play(&mut work, &image(), &[Ok(512), Err(errno)]).1,
            Err(errno)
        );
        assert_eq!(work.moved(), 512);
    }
}

#[test]
fn the_end_of_the_image_is_an_error_not_a_loop() {
    for task in [Task::Read, Task::Write] {
        let (_rig, mut work) = with_buffers(512);
        work.transfer(task, 0, 512, false, &image());
        assert_eq!(play(&mut work, &image(), &[Ok(0)]).1, Err(Errno::EIO));
    }
}

#[test]
fn a_flush_is_one_sync_and_its_error_counts() {
    let mut work = Work::default();
    work.flush();
    assert_eq!(
        play(&mut work, &image(), &[Ok(0)]),
        (vec![Seen::Sync], Ok(()))
    );
    work.flush();
    assert_eq!(
        play(&mut work, &image(), &[Err(Errno::EIO)]).1,
        Err(Errno::EIO)
    );
}

/// What the kernel, a file system, a device or a container's filter answer instead of discarding or zeroing.
const UNSUPPORTED: [Errno; 6] = [
    Errno::EOPNOTSUPP,
    Errno::ENOSYS,
    Errno::EINVAL,
    Errno::ENOTTY,
    Errno::ENODEV,
    Errno::EPERM,
];
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

fn range(offset: u64, len: u64, unmap: bool) -> Range {
    Range { offset, len, unmap }
}

#[test]
fn every_range_is_dealt_with_and_a_durable_change_is_synced() {
    let mut work = Work::default();
    let ranges = [
        range(0, 512, true),
        range(4096, 0, true),
        range(8192, 1024, false),
    ];
    work.ranges(Task::WriteZeroes, &ranges, true);
    let (steps, end) = play(&mut work, &image(), &[Ok(0), Ok(0), Ok(0)]);
    assert_eq!(
        steps,
        [
            Seen::Allocate(PUNCH, 0, 512),
            Seen::Allocate(ZERO, 8192, 1024),
            Seen::Sync
        ]
    );
    assert_eq!(end, Ok(()));
}

#[test]
fn where_zeroing_is_not_supported_zeroes_are_written() {
    let mut work = Work::default();
    work.ranges(
        Task::WriteZeroes,
        &[range(0, 300 << 10, false), range(1 << 19, 512, false)],
        false,
    );
    let script = [
        Err(Errno::EOPNOTSUPP),
        Ok(256 << 10),
        Ok(1024),
        Ok(43 << 10),
        Ok(512),
    ];
    let (steps, end) = play(&mut work, &image(), &script);
    let expected = [
        Seen::Allocate(ZERO, 0, 300 << 10),
        Seen::Write(0, 256 << 10, false),
        Seen::Write(256 << 10, 44 << 10, false),
        Seen::Write(257 << 10, 43 << 10, false),
        Seen::Write(1 << 19, 512, false),
    ];
    assert_eq!((steps.as_slice(), end), (expected.as_slice(), Ok(())));
}

#[test]
fn a_discard_that_is_not_supported_is_no_error() {
    let mut work = Work::default();
    for errno in UNSUPPORTED {
        work.ranges(
            Task::Discard,
            &[range(0, 512, true), range(1024, 512, true)],
            false,
        );
        let (steps, end) = play(&mut work, &image(), &[Err(errno), Ok(0)]);
        assert_eq!((steps.len(), end), (2, Ok(())), "{errno}");
    }
}

#[test]
fn zeroing_is_not_supported_by_the_errnos_that_a_discard_is_not() {
    for errno in UNSUPPORTED {
        let mut work = Work::default();
        work.ranges(Task::WriteZeroes, &[range(0, 512, false)], false);
        let (steps, end) = play(&mut work, &image(), &[Err(errno), Ok(512)]);
        let expected = [Seen::Allocate(ZERO, 0, 512), Seen::Write(0, 512, false)];
        assert_eq!(
            (steps.as_slice(), end),
            (expected.as_slice(), Ok(())),
            "{errno}"
        );
    }
}

#[test]
fn a_discard_that_fails_is_an_error() {
    let mut work = Work::default();
    work.ranges(
        Task::Discard,
        &[range(0, 512, true), range(1024, 512, true)],
        false,
    );
    assert_eq!(
        play(&mut work, &image(), &[Err(Errno::EIO)]).1,
        Err(Errno::EIO)
    );
}

#[test]
fn auto_picks_the_mapping_for_memory() {
    assert_eq!(Rig::new(BlockSpec::memory(4096)).device.engine(), "map");
    let image = tempfile::NamedTempFile::new_in("/dev/shm").expect("an image in memory");
    image.as_file().set_len(4096).expect("its size");
    assert_eq!(
        Rig::new(BlockSpec::image(image.path())).device.engine(),
        "map"
    );
}

#[test]
fn a_sparse_image_in_memory_stays_sparse_when_read() {
    use std::os::unix::fs::MetadataExt;
    let image = tempfile::NamedTempFile::new_in("/dev/shm").expect("an image in memory");
    image.as_file().set_len(1 << 20).expect("its size");
    let mut rig = Rig::new(BlockSpec::image(image.path()));
    assert_eq!(rig.read(0, 1 << 20), vec![0; 1 << 20]);
    assert_eq!(image.as_file().metadata().expect("the image").blocks(), 0);
    assert_eq!(rig.write(8, &[1; 512]), 0);
    assert_eq!(rig.read(0, 8192)[4096..4608], [1; 512]);
    assert_eq!(image.as_file().metadata().expect("the image").blocks(), 8);
}

#[test]
fn the_asked_engine_is_the_one_in_use() {
    let image = image_of(&[0; 4096]);
    for (engine, name) in [(EngineChoice::Uring, "uring"), (EngineChoice::Sync, "sync")] {
        let spec = BlockSpec {
            engine,
            ..BlockSpec::image(image.path())
        };
        assert_eq!(Rig::new(spec).device.engine(), name);
    }
}

#[test]
fn a_signal_that_comes_after_its_completion_was_taken_wakes_the_worker_once() {
    let image = image_of(&[0; 4096]);
    let mut rig = Rig::new(BlockSpec {
        engine: EngineChoice::Uring,
        ..BlockSpec::image(image.path())
    });
    assert_eq!(rig.flush(), 0);
    let event = rig.handler.completion_fd().expect("an event");
    nix::unistd::write(event, &1_u64.to_ne_bytes()).expect("a signal");
    assert!(rig.wakes(), "the signal is there");
    assert!(!rig.wakes(), "the queue is idle");
}

#[test]
fn a_queue_dropped_with_requests_under_way_waits_for_them() {
    let image = image_of(&vec![0; 1 << 20]);
    let spec = BlockSpec {
        engine: EngineChoice::Uring,
        cache: crate::CacheMode::Writethrough,
        ..BlockSpec::image(image.path())
    };
    for _ in 0..20 {
        let mut rig = Rig::new(spec.clone());
        for sector in 0..16_u64 {
            let (out, status) = ([rig.header(1, sector), rig.place(&[7; 512])], [rig.room(1)]);
            rig.add(&out, &status);
        }
        rig.kick();
        drop(rig);
    }
    assert_eq!(
        std::fs::read(image.path()).expect("the image")[..16 * 512],
        [7; 16 * 512]
    );
}

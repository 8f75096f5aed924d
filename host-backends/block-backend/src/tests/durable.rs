//! What is said to be durable, on media that fail, and while the guest and the operator change their minds.

use super::*;
use crate::BlockDevice;
use crate::BlockSpec;
use crate::EngineChoice;
use crate::engine::scripted::Scripted;
use crate::engine::scripted::Seen;
use crate::handler::BlockQueue;
use device_model::Device;
use device_model::QueueHandler;
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::Mutex;
use virtio_spec::block::CONFIG_WRITEBACK_OFFSET;
use virtio_spec::block::request_type;
use virtio_spec::block::status::*;

const WCE: u32 = CONFIG_WRITEBACK_OFFSET as u32;
const MIB: usize = 1 << 20;
const DURABLE: Seen = Seen::Write { durable: true };
const PLAIN: Seen = Seen::Write { durable: false };

fn disk() -> (tempfile::NamedTempFile, Rig) {
    let image = image_of(&vec![0; MIB]);
    let spec = BlockSpec {
        engine: EngineChoice::Sync,
        ..BlockSpec::image(image.path())
    };
    let rig = Rig::new(spec);
    (image, rig)
}

/// A queue of the disk whose steps fail as `script` says.
fn queue(
    device: &BlockDevice,
    script: impl FnMut(Seen) -> Option<Errno> + Send + 'static,
) -> Box<dyn QueueHandler> {
    let disk = device.disk();
    let engine = Scripted::new(Arc::clone(&disk.image), Box::new(script));
    Box::new(BlockQueue::new(disk, Box::new(engine), 512, Arc::default()))
}

/// Fails the first step that is `what`.
fn once(what: Seen, errno: Errno) -> impl FnMut(Seen) -> Option<Errno> {
    let mut due = true;
    move |seen| (seen == what && std::mem::take(&mut due)).then_some(errno)
}

#[test]
fn a_failed_sync_fails_all_later_flushes_of_all_queues() {
    for errno in [Errno::EIO, Errno::ENOSPC, Errno::EDQUOT] {
        let (_image, mut rig) = disk();
        let failing = queue(&rig.device, once(Seen::Sync, errno));
        let other = std::mem::replace(&mut rig.handler, failing);
        assert_eq!(rig.write(0, &[1; 512]), OK);
        assert_eq!(rig.flush(), IOERR);
        assert_eq!(rig.flush(), IOERR);
        rig.handler = other;
        assert_eq!(rig.flush(), IOERR, "the other queue's too");
        let metrics = rig.device.metrics();
        assert_eq!((metrics.io_errors, metrics.not_durable), (1, 1));
        let lost = rig.device.lost_durability().expect("it is shown");
        assert_eq!(lost.raw_os_error(), Some(errno as i32));
        // What claims nothing goes on.
        assert_eq!(rig.write(8, &[2; 512]), OK);
        assert_eq!(rig.read(8, 512), [2; 512]);
    }
}

#[test]
fn neither_a_reset_nor_a_new_session_makes_lost_writes_durable() {
    let (image, mut rig) = disk();
    rig.handler = queue(&rig.device, once(Seen::Sync, Errno::EIO));
    assert_eq!(rig.flush(), IOERR);
    rig.device.reset();
    rig.device.session_ended();
    rig.device.acked(rig::DRIVER);
    rig.handler = rig.device.start_queue(0, rig::DRIVER).expect("a queue");
    assert_eq!(rig.flush(), IOERR);
    assert!(rig.device.write_config(WCE, &[0]).is_err());
    assert!(rig.device.is_write_through(), "the driver believes it");
    assert_eq!(rig.write(0, &[1; 512]), IOERR);
    assert_eq!(rig.ranges(request_type::WRITE_ZEROES, &[(0, 1, 0)]), IOERR);
    drop(rig);
    let mut rig = Rig::new(BlockSpec::image(image.path()));
    assert_eq!(rig.flush(), OK, "the image is open anew");
}

#[test]
fn the_sync_of_a_durable_change_counts_too() {
    for what in [request_type::OUT, request_type::WRITE_ZEROES] {
        let (_image, mut rig) = disk();
        // The write that waits for its sync fails, then the sync that is made apart from it.
        rig.handler = queue(&rig.device, |seen| {
            matches!(seen, DURABLE | Seen::Sync).then_some(Errno::EIO)
        });
        rig.device.write_config(WCE, &[0]).expect("a switch");
        let status = match what {
            request_type::OUT => rig.write(0, &[1; 512]),
            _ => rig.ranges(what, &[(0, 1, 0)]),
        };
        assert_eq!(status, IOERR);
        assert!(rig.device.lost_durability().is_some());
    }
}

#[test]
fn a_durable_write_that_cannot_be_made_is_no_loss_of_others() {
    let (_image, mut rig) = disk();
    let mut left = 2;
    rig.handler = queue(&rig.device, move |seen| {
        let fails = matches!(seen, DURABLE | PLAIN) && left != 0;
        left -= i32::from(fails);
        fails.then_some(Errno::ENOSPC)
    });
    rig.device.write_config(WCE, &[0]).expect("a switch");
    assert_eq!(rig.write(0, &[1; 512]), IOERR);
    assert!(rig.device.lost_durability().is_none());
    assert_eq!((rig.write(0, &[2; 512]), rig.flush()), (OK, OK));
}

#[test]
fn a_sync_that_did_not_run_is_no_loss() {
    for errno in [Errno::EAGAIN, Errno::EINTR, Errno::ECANCELED] {
        let (_image, mut rig) = disk();
        // As often as it is tried again.
        let mut left = if errno == Errno::ECANCELED { 1 } else { 10_001 };
        rig.handler = queue(&rig.device, move |_| {
            let fails = left != 0;
            left -= i32::from(fails);
            fails.then_some(errno)
        });
        assert_eq!(rig.flush(), IOERR);
        assert_eq!(rig.flush(), OK, "{errno}");
        assert!(rig.device.lost_durability().is_none());
    }
}

#[test]
fn a_batch_sees_the_choice_made_while_the_queue_was_busy() {
    let (_image, mut rig) = disk();
    let (device, seen) = (Arc::clone(&rig.device), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&seen);
    rig.handler = queue(&rig.device, move |step| {
        let mut noted = noted.lock().expect("the notes");
        if noted.is_empty() {
            device.write_config(WCE, &[0]).expect("a switch");
        }
        noted.push(step);
        None
    });
    for sector in 0..20 {
        let head = rig.header(request_type::OUT, sector);
        let (data, status) = (rig.place(&[7; 512]), rig.room(1));
        rig.add(&[head, data], &[status]);
    }
    rig.kick();
    let seen = seen.lock().expect("the notes");
    // What was taken together with the first write was there before the choice.
    assert_eq!((seen.len(), seen[0], seen[19]), (20, PLAIN, DURABLE));
    assert!(seen[16..].iter().all(|step| *step == DURABLE), "{seen:?}");
}

#[test]
fn a_write_checked_before_the_disk_shrank_does_not_make_it_grow() {
    for count in [1, 19] {
        let (image, mut rig) = disk();
        let (device, file) = (
            Arc::clone(&rig.device),
            image.reopen().expect("another handle"),
        );
        let mut due = true;
        rig.handler = queue(&rig.device, move |_| {
            if std::mem::take(&mut due) {
                file.set_len(4096).expect("shrinkage");
                device.resize().expect("a resize");
            }
            None
        });
        let first = rig.header(request_type::OUT, 0);
        let (data, status) = (rig.place(&[7; 512]), rig.room(1));
        rig.add(&[first, data], &[status]);
        let ids: Vec<_> = (0..count)
            .map(|sector| {
                let head = rig.header(request_type::OUT, 1000 + sector);
                let (data, status) = (rig.place(&[7; 512]), rig.room(1));
                rig.add(&[head, data], &[status])
            })
            .collect();
        for id in ids {
            assert_eq!(rig.wait(id).status, IOERR);
        }
        assert_eq!(image.as_file().metadata().expect("the image").len(), 4096);
    }
}

#[test]
fn a_mapped_image_that_was_truncated_is_not_made_to_grow() {
    for touched in [false, true] {
        let image = tempfile::NamedTempFile::new_in("/dev/shm").expect("an image in memory");
        image.as_file().set_len(MIB as u64).expect("its size");
        let mut rig = Rig::new(BlockSpec {
            engine: EngineChoice::Map,
            ..BlockSpec::image(image.path())
        });
        if touched {
            assert_eq!(rig.write(1024, &[1; 512]), OK);
        }
        image.as_file().set_len(4096).expect("shrinkage");
        assert_eq!(rig.write(1024, &[2; 512]), IOERR);
        assert_eq!(image.as_file().metadata().expect("the image").len(), 4096);
        assert_eq!(rig.write(0, &[3; 512]), OK);
    }
}

//! Images that fail: the guest sees an I/O error, the disk goes on.

use super::*;
use crate::BlockSpec;
use crate::EngineChoice;
use virtio_spec::block::status::*;

const MIB: usize = 1 << 20;

fn spec(path: &std::path::Path, engine: EngineChoice) -> BlockSpec {
    BlockSpec {
        engine,
        ..BlockSpec::image(path)
    }
}

#[test]
fn an_image_truncated_under_us_fails_there_and_works_elsewhere() {
    for engine in [EngineChoice::Uring, EngineChoice::Sync] {
        let image = image_of(&vec![1; MIB]);
        let mut rig = Rig::new(spec(image.path(), engine));
        image.as_file().set_len(4096).expect("truncation");
        let answer = rig.request(0, 64, &[], 512);
        assert_eq!((answer.status, answer.written), (IOERR, 1));
        // Half there, half gone: what was read is counted.
        let answer = rig.request(0, 7, &[], 1024);
        assert_eq!((answer.status, answer.written), (IOERR, 513));
        assert_eq!(rig.read(0, 4096), [1; 4096]);
        assert_eq!(rig.device.metrics().io_errors, 2);
        image.as_file().set_len(MIB as u64).expect("growth");
        assert_eq!(rig.read(64, 512), [0; 512]);
    }
}

#[test]
fn a_mapped_image_truncated_under_us_does_not_end_the_process() {
    let image = tempfile::NamedTempFile::new_in("/dev/shm").expect("an image in memory");
    std::fs::write(image.path(), vec![1; MIB]).expect("its content");
    let mut rig = Rig::new(spec(image.path(), EngineChoice::Map));
    assert_eq!(rig.read(1024, 4096), [1; 4096]);
    image.as_file().set_len(4096).expect("truncation");
    assert_eq!(rig.request(0, 1024, &[], 4096).status, IOERR);
    assert_eq!(rig.read(0, 4096), [1; 4096]);
    assert_eq!(rig.write(0, &[2; 4096]), OK);
    image.as_file().set_len(MIB as u64).expect("growth");
    assert_eq!(rig.write(1024, &[3; 4096]), OK);
    assert_eq!(rig.read(1024, 4096), [3; 4096]);
    let content = std::fs::read(image.path()).expect("the image");
    assert_eq!(content[1024 * 512..][..4096], [3; 4096]);
    assert_eq!(content[..4096], [2; 4096]);
}

#[test]
fn a_sealed_image_refuses_writes_and_serves_reads() {
    use nix::fcntl::FcntlArg;
    use nix::fcntl::SealFlag;
    use nix::fcntl::fcntl;
    use std::os::fd::AsRawFd;
    let fd = host_os::memfd::create("image", 4096).expect("a memfd");
    let mut rig = Rig::new(spec(
        format!("/proc/self/fd/{}", fd.as_raw_fd()).as_ref(),
        EngineChoice::Sync,
    ));
    assert_eq!(rig.write(0, &[1; 512]), OK);
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).expect("a seal");
    assert_eq!(rig.write(0, &[2; 512]), IOERR);
    assert_eq!(rig.ranges(13, &[(0, 1, 0)]), IOERR);
    assert_eq!(rig.read(0, 512), [1; 512]);
}

/// A file system of 1 MiB, where the machine lets us mount one.
fn small_file_system() -> Option<Mounted> {
    let dir = tempfile::tempdir().expect("a directory");
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        dir.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=1M"),
    );
    match mounted {
        Ok(()) => Some(Mounted(dir)),
        Err(errno) => {
            println!("SKIPS ITSELF faults: no small file system ({errno}), needs root");
            None
        }
    }
}

struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_file_system_is_an_io_error_until_there_is_room() {
    for engine in [EngineChoice::Map, EngineChoice::Sync, EngineChoice::Uring] {
        let Some(mount) = small_file_system() else {
            return;
        };
        let (path, ballast) = (mount.0.path().join("image"), mount.0.path().join("ballast"));
        std::fs::File::create(&path)
            .expect("an image")
            .set_len(8 << 20)
            .expect("its size");
        std::fs::write(&ballast, vec![0; 900 << 10]).expect("ballast");
        let mut rig = Rig::new(spec(&path, engine));
        assert_eq!(rig.write(0, &[1; 4096]), OK, "{engine:?}");
        let failed = (1..100_u64).find(|block| rig.write(block * 8, &[2; 4096]) != OK);
        let failed = failed.expect("the file system fills up");
        assert!(rig.device.metrics().io_errors > 0);
        assert_eq!(rig.read(0, 4096), [1; 4096], "{engine:?}");
        assert_eq!(
            rig.write(0, &[3; 4096]),
            OK,
            "{engine:?}: what has a place can be written"
        );
        // Reading a hole of a sparse image takes no room.
        assert_eq!(rig.read(8192, 4096), [0; 4096], "{engine:?}");
        std::fs::remove_file(&ballast).expect("room");
        assert_eq!(rig.write(failed * 8, &[4; 4096]), OK, "{engine:?}");
        assert_eq!(rig.read(failed * 8, 4096), [4; 4096], "{engine:?}");
        assert_eq!(rig.read(0, 4096), [3; 4096], "{engine:?}");
    }
}

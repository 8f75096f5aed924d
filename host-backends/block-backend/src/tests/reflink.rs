//! Images of which a snapshot was made while they were served, on the file system where that raises what O_DIRECT asks for.

use std::path::Path;
use std::process::Command;

use super::rig::pattern;
use super::*;
use crate::BlockSpec;
use crate::CacheMode;
use crate::EngineChoice;
use virtio_spec::block::status::*;

/// An XFS of its own; unmounted when dropped.
struct Xfs {
    mount: tempfile::TempDir,
    _bytes: tempfile::NamedTempFile,
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Xfs {
    fn new() -> Option<Self> {
        let bytes = tempfile::NamedTempFile::new().expect("a file");
        bytes.as_file().set_len(512 << 20).expect("its size");
        let mount = tempfile::tempdir().expect("a directory");
        let text = |path: &Path| path.display().to_string();
        let (file, folder) = (text(bytes.path()), text(mount.path()));
        let made = run("mkfs.xfs", &["-q", "-m", "reflink=1", &file])
            .and_then(|()| run("mount", &["-o", "loop", &file, &folder]));
        match made {
            Ok(()) => Some(Self {
                mount,
                _bytes: bytes,
            }),
            Err(error) => {
                println!(
                    "SKIPS ITSELF reflink: no XFS ({}), needs root and xfsprogs",
                    error.trim()
                );
                None
            }
        }
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        // Lazily: the kernel lets go of a ring's files a moment after the ring has gone.
        let _ = run(
            "umount",
            &["--lazy", &self.mount.path().display().to_string()],
        );
    }
}

#[test]
fn a_disk_past_the_page_cache_opens_again_after_a_reflink_snapshot() {
    let Some(xfs) = Xfs::new() else {
        return;
    };
    for engine in [EngineChoice::Uring, EngineChoice::Sync] {
        let (path, snapshot) = (
            xfs.mount.path().join("disk"),
            xfs.mount.path().join("snapshot"),
        );
        std::fs::write(&path, pattern(1, 1 << 20)).expect("an image");
        let spec = BlockSpec {
            cache: CacheMode::None,
            engine,
            ..BlockSpec::image(&path)
        };
        let mut before = Rig::new(spec.clone());
        assert_eq!(before.write(1, &[2; 512]), OK);
        let names = [path.display().to_string(), snapshot.display().to_string()];
        run("cp", &["--reflink=always", &names[0], &names[1]]).expect("a snapshot");
        assert_eq!(before.write(3, &[3; 512]), OK, "{engine:?}");
        drop(before);
        let mut after = Rig::new(spec);
        assert_eq!(after.write(5, &[4; 512]), OK, "{engine:?}");
        assert_eq!(after.write(8, &pattern(7, 8192)), OK, "{engine:?}");
        assert_eq!(after.flush(), OK);
        let mut expected = pattern(1, 1 << 20);
        for (sector, byte) in [(1, 2), (3, 3), (5, 4)] {
            expected[sector * 512..(sector + 1) * 512].fill(byte);
        }
        expected[4096..12_288].copy_from_slice(&pattern(7, 8192));
        assert!(after.read(0, 1 << 20) == expected, "{engine:?}");
        assert_eq!(after.read(5, 512), [4; 512], "{engine:?}");
        let mut old = pattern(1, 1 << 20);
        old[512..1024].fill(2);
        assert!(
            std::fs::read(&snapshot).expect("the snapshot") == old,
            "{engine:?}"
        );
    }
}

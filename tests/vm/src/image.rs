//! Disk images on the host: made, measured, checked.
//!
//! One rule: no loop mount and no root; an image is filled by `mke2fs -d`.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::process;
use crate::tool;

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

/// An empty sparse image.
///
/// # Errors
/// When it cannot be created.
pub fn empty(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("Create {}", path.display()))?;
    file.set_len(bytes)?;
    Ok(())
}

/// Changes the size of an image that someone may have open.
///
/// # Errors
/// When the file system does not let us.
pub fn resize(path: &Path, bytes: u64) -> anyhow::Result<()> {
    File::options().write(true).open(path)?.set_len(bytes)?;
    Ok(())
}

/// Bytes that the image takes on the host's disk.
///
/// # Errors
/// When the file is gone.
pub fn allocated(path: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(path)?.blocks() * 512)
}

/// An ext4 image with the content of `tree`.
///
/// # Errors
/// When mke2fs is missing or fails, for example because the tree does not fit.
pub fn ext4_from_tree(path: &Path, tree: &Path, bytes: u64) -> anyhow::Result<()> {
    let mke2fs = tool("mke2fs", "e2fsprogs")?;
    empty(path, bytes)?;
    let mut command = Command::new(mke2fs);
    command
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(tree)
        .arg(path);
    process::run(&mut command).map(drop)
}

/// Checks the file system of an image, changing nothing.
///
/// # Errors
/// When e2fsck finds anything to repair.
pub fn check_ext4(path: &Path) -> anyhow::Result<()> {
    let e2fsck = tool("e2fsck", "e2fsprogs")?;
    process::run(Command::new(e2fsck).arg("-fn").arg(path)).map(drop)
}

//! Folders that become an initramfs or an image: host programs with their libraries, scripts.
//!
//! One rule: a host program is copied with its own loader and libraries, so that it runs whatever
//! libc the tree has.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::process;
use crate::tool;

/// Loads the modules of `/m` in the order of `/m/order`, then hands over to `/scenario`.
const INIT: &str = include_str!("../guest/init.sh");
/// Words that every scenario uses.
const COMMON: &str = include_str!("../guest/common.sh");

/// Copies `program` and what it is linked to into `tree/opt/<name>`, with a starter of the same
/// name in `tree/usr/bin`.
///
/// # Errors
/// When it cannot be read or copied.
pub fn add_host_program(tree: &Path, program: &Path) -> anyhow::Result<()> {
    let name = program
        .file_name()
        .context("A program has a name")?
        .to_string_lossy()
        .into_owned();
    let home = tree.join("opt").join(&name);
    fs::create_dir_all(&home)?;
    fs::create_dir_all(tree.join("usr/bin"))?;
    fs::copy(program, home.join(&name))?;
    let linked = process::run(Command::new("ldd").arg(program)).unwrap_or_default();
    let mut loader = None;
    for library in linked.lines().filter_map(library_path) {
        let file = Path::new(library)
            .file_name()
            .context("A library has a name")?;
        fs::copy(library, home.join(file))?;
        if file.to_string_lossy().starts_with("ld-") {
            loader = Some(file.to_string_lossy().into_owned());
        }
    }
    let home = format!("/opt/{name}");
    let line = match loader {
        Some(loader) => format!("exec {home}/{loader} --library-path {home} {home}/{name} \"$@\""),
        None => format!("exec {home}/{name} \"$@\""),
    };
    script(
        &tree.join("usr/bin").join(&name),
        &format!("#!/bin/sh\n{line}\n"),
    )
}

/// The path in a line of `ldd`: `libc.so.6 => /lib/libc.so.6 (0x..)` or `/lib64/ld.so (0x..)`.
fn library_path(line: &str) -> Option<&str> {
    let target = line.split("=> ").last()?.trim();
    let path = target.split(" (").next()?;
    path.starts_with('/').then_some(path)
}

/// Writes an executable file.
///
/// # Errors
/// When it cannot be written.
pub fn script(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).with_context(|| format!("Write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// An initramfs: busybox, modules, `tree` if given, and the scenario that runs as `/scenario`.
///
/// # Errors
/// When a part is missing or the file cannot be written.
pub fn initramfs(
    out: &Path,
    kernel: &Kernel,
    modules: &[&str],
    tree: Option<&Path>,
    scenario: &str,
) -> anyhow::Result<()> {
    let mut archive = Archive::default();
    match tree {
        Some(tree) => archive.tree(tree)?,
        None => {
            for name in ["bin", "dev", "proc", "sys", "tmp", "mnt"] {
                archive.folder(name);
            }
        }
    }
    let busybox = fs::read(tool("busybox", "busybox-static")?)?;
    archive.folder("m");
    archive.file("m/busybox", &busybox, true);
    for name in modules {
        archive.file(&format!("m/{name}.ko"), &kernel.module(name)?, false);
    }
    archive.file("m/order", modules.join("\n").as_bytes(), false);
    archive.file("init", INIT.as_bytes(), true);
    archive.file("common.sh", COMMON.as_bytes(), false);
    archive.file("scenario", scenario.as_bytes(), true);
    archive
        .write(out)
        .with_context(|| format!("Write {}", out.display()))
}

/// A new tree for an initramfs with nothing but busybox's shell and these programs of the host.
///
/// # Errors
/// When something cannot be copied.
pub fn bare(tree: &Path, programs: &[&Path]) -> anyhow::Result<()> {
    for folder in ["bin", "dev", "proc", "sys", "tmp", "mnt"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    std::os::unix::fs::symlink("/m/busybox", tree.join("bin/sh"))?;
    programs
        .iter()
        .try_for_each(|program| add_host_program(tree, program))
}

/// Copies a folder with its links, as a tree of its own.
///
/// # Errors
/// When `cp` fails.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    process::run(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}

/// Checksums of the files in these folders of `root` that have at least `bytes`, made by the
/// host's tool, in the format that `sha256sum -c` reads in the guest.
///
/// # Errors
/// When something cannot be read.
pub fn manifest(root: &Path, folders: &[&str], bytes: u64) -> anyhow::Result<String> {
    let mut lines = String::new();
    for folder in folders {
        for entry in fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if path.is_symlink() || !path.is_file() || path.metadata()?.len() < bytes {
                continue;
            }
            let sum = process::run(Command::new("sha256sum").arg(&path))?;
            let inside = path.strip_prefix(root)?.display();
            writeln!(
                lines,
                "{}  /{inside}",
                sum.split(' ').next().unwrap_or_default()
            )?;
        }
    }
    Ok(lines)
}

//! Packages from Debian, by the machine's own apt: the cloud kernel and a small user land.
//!
//! One rule: packages are downloaded and unpacked below the cache, never installed on the host, and
//! a cached one is used again without network. Concurrent tests share one download.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;

use crate::kernel;
use crate::kernel::Kernel;
use crate::paths;
use crate::process;
use crate::skip;
use crate::tool;

/// What the user land is made of; libraries follow by dependency.
const USER_LAND: &[&str] = &[
    "base-files",
    "coreutils",
    "dash",
    "diffutils",
    "e2fsprogs",
    "mount",
    "util-linux",
];

/// The user land of a guest that has a network.
const NETWORK_LAND: &[&str] = &[
    "base-files",
    "coreutils",
    "dash",
    "diffutils",
    "ethtool",
    "grep",
    "iperf3",
    "iproute2",
];

/// Library packages that only alternatives of what we need depend on.
const UNWANTED: &[&str] = &[
    "libelogind0",
    "libdebian-installer4",
    "libnewt0.52",
    "libslang2",
    "libtextwrap1",
];

/// The cloud kernel, unpacked.
///
/// # Errors
/// [`crate::Skip`] without apt or network; otherwise when the package is not as expected.
pub fn cloud_kernel() -> anyhow::Result<Kernel> {
    let _one_at_a_time = lock("kernel")?;
    let folder = paths::cache("kernel")?;
    let package = match cached(&folder, "linux-image-")? {
        Some(package) => package,
        None => {
            let name = kernel_package()?;
            download(&folder, &[name])?;
            cached(&folder, "linux-image-")?.context("apt downloaded no kernel")?
        }
    };
    kernel::from_package(&package, &folder.join("unpacked"))
}

/// A minimal Debian tree: libc, dash, coreutils, util-linux, mount, e2fsprogs, busybox.
///
/// # Errors
/// [`crate::Skip`] without apt or network; otherwise when a package cannot be unpacked.
pub fn user_land() -> anyhow::Result<PathBuf> {
    land("user-land", USER_LAND)
}

/// A minimal Debian tree for network tests: libc, dash, coreutils, iproute2, ethtool, iperf3, busybox.
///
/// # Errors
/// [`crate::Skip`] without apt or network; otherwise when a package cannot be unpacked.
pub fn network_land() -> anyhow::Result<PathBuf> {
    land("network-land", NETWORK_LAND)
}

/// A tree of these packages and their libraries, made once.
fn land(name: &str, made_of: &[&str]) -> anyhow::Result<PathBuf> {
    let _one_at_a_time = lock(name)?;
    let folder = paths::cache(name)?;
    let tree = folder.join("tree");
    let complete = folder.join("complete");
    if std::fs::read_to_string(&complete).is_ok_and(|words| words == made_of.join(" ")) {
        return Ok(tree);
    }
    if tree.exists() {
        std::fs::remove_dir_all(&tree)?;
    }
    let packages = folder.join("packages");
    std::fs::create_dir_all(&packages)?;
    let mut names = closure(made_of)?;
    names.push("busybox-static".to_string());
    download(&packages, &names)?;
    for entry in std::fs::read_dir(&packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            process::run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&tree))?;
        }
    }
    merge_usr(&tree)?;
    for unneeded in [
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/info",
    ] {
        let _absent_is_fine = std::fs::remove_dir_all(tree.join(unneeded));
    }
    for needed in ["dev", "proc", "sys", "tmp", "mnt", "run"] {
        std::fs::create_dir_all(tree.join(needed))?;
    }
    std::fs::write(complete, made_of.join(" "))?;
    Ok(tree)
}

/// Debian's merged layout, which the installer makes, not the packages: `/bin` is `/usr/bin`.
fn merge_usr(tree: &Path) -> anyhow::Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let (old, new) = (tree.join(name), tree.join("usr").join(name));
        std::fs::create_dir_all(&new)?;
        if old.is_dir() {
            process::run(Command::new("cp").arg("-a").arg(old.join(".")).arg(&new))?;
            std::fs::remove_dir_all(&old)?;
        }
        std::os::unix::fs::symlink(Path::new("usr").join(name), &old)?;
    }
    let shell = tree.join("usr/bin/sh");
    if !shell.exists() {
        std::os::unix::fs::symlink("dash", shell)?;
    }
    Ok(())
}

/// Two tests must not download into one folder.
pub(crate) fn lock(name: &str) -> anyhow::Result<Flock<File>> {
    let file = File::create(paths::cache("")?.join(format!("{name}.lock")))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

fn cached(folder: &Path, prefix: &str) -> anyhow::Result<Option<PathBuf>> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)?
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(prefix) && name.ends_with(".deb")
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found.pop())
}

/// The meta package names the kernel of the day.
fn kernel_package() -> anyhow::Result<String> {
    let apt = tool("apt-cache", "apt")?;
    let text = process::run(Command::new(apt).args(["depends", "linux-image-cloud-amd64"]))
        .map_err(|error| skip(format!("apt knows no cloud kernel: {error}")))?;
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_string)
        .ok_or_else(|| skip("apt knows no cloud kernel"))
}

/// These packages with the libraries they depend on.
fn closure(made_of: &[&str]) -> anyhow::Result<Vec<String>> {
    let apt = tool("apt-cache", "apt")?;
    let without = [
        "recommends",
        "suggests",
        "conflicts",
        "breaks",
        "replaces",
        "enhances",
    ];
    let mut command = Command::new(apt);
    command
        .args(["depends", "--recurse"])
        .args(without.map(|kind| format!("--no-{kind}")));
    let text = process::run(command.args(made_of))
        .map_err(|error| skip(format!("apt knows no Debian user land: {error}")))?;
    let mut names: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with([' ', '|', '<']))
        .filter(|name| {
            let library = name.starts_with("lib") || name.starts_with("zlib");
            let unwanted = UNWANTED.contains(name) || name.contains("perl");
            (library || made_of.contains(name)) && !unwanted
        })
        .map(str::to_string)
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn download(folder: &Path, names: &[String]) -> anyhow::Result<()> {
    let apt = tool("apt-get", "apt")?;
    process::run(
        Command::new(apt)
            .current_dir(folder)
            .arg("-q")
            .arg("download")
            .args(names),
    )
    .map(drop)
    .map_err(|error| skip(format!("packages cannot be downloaded: {error}")))
}

//! Whole virtual machines for tests: Debian packages, images, initramfs, consoles and processes.
//!
//! One rule: nothing a test starts outlives it, and nothing waits without a limit. A test that
//! cannot run on this machine returns [`Skip`] with its reason; it never passes silently.

pub mod alioth;
pub mod binaries;
pub mod console;
pub mod cpio;
pub mod daemon;
pub mod debian;
pub mod disk_load;
pub mod documents;
pub mod image;
pub mod kernel;
mod lz4;
pub mod monitor;
pub mod netns;
pub mod newer_qemu;
pub mod paths;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod soak;
pub mod stream;
pub mod tree;
mod trial;

use std::fmt;
use std::path::Path;

pub use self::trial::trial;

/// Why a test cannot run on this machine.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// A skip as an error, for `?`.
pub fn skip(reason: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Skip(reason.into()))
}

/// Finds a program in `PATH` or the places for administrators, or skips and names its package.
///
/// # Errors
/// [`Skip`] when the program is not installed.
pub fn tool(name: &str, package: &str) -> anyhow::Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"])
        .map(|folder| Path::new(folder).join(name))
        .find(|candidate| candidate.is_file())
        .map(|found| found.display().to_string())
        .ok_or_else(|| {
            skip(format!(
                "{name} is not installed (Debian package {package})"
            ))
        })
}

/// Whether the scenarios that repeat themselves do so many times (`PARAVANE_LONG=1`).
pub fn long() -> bool {
    std::env::var("PARAVANE_LONG").is_ok_and(|word| word == "1")
}

/// Whether this machine has a KVM that we may open.
///
/// # Errors
/// [`Skip`] when there is no usable `/dev/kvm`.
pub fn kvm() -> anyhow::Result<()> {
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        Ok(_) => Ok(()),
        Err(error) => Err(skip(format!("no /dev/kvm: {error}"))),
    }
}

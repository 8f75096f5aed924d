//! The demo's folder on the host: the image, its owner, and the daemon's sandbox as the kernel sees it.
//!
//! One rule: when we are root the daemon is not.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use nix::unistd::Gid;
use nix::unistd::Uid;

use crate::shell;

/// `nobody` and `nogroup` on Debian.
const NOBODY: u32 = 65534;
const MIB: usize = 1 << 20;

/// The folder with image and sockets; it vanishes with this.
pub struct Host {
    folder: tempfile::TempDir,
    logs: PathBuf,
}

impl Host {
    /// Makes an image of `size_mib`, all of it written, so that reads find data and not holes.
    pub fn prepare(folder: Option<&Path>, size_mib: u64) -> anyhow::Result<Self> {
        let base = folder.map_or_else(default_base, Path::to_path_buf);
        std::fs::create_dir_all(&base)?;
        let folder = tempfile::Builder::new().prefix("demo-").tempdir_in(&base)?;
        let host = Self {
            folder,
            logs: vm::paths::logs("demo")?,
        };
        shell::say(&format!(
            "making an image of {size_mib} MiB: {}",
            host.image().display()
        ));
        let mut file = std::fs::File::create(host.image())?;
        let mut block = vec![0_u8; MIB];
        for number in 0..size_mib {
            for (at, byte) in block.iter_mut().enumerate() {
                *byte = (at as u64 ^ number.wrapping_mul(0x9e37)) as u8;
            }
            file.write_all(&block).context("Write the image")?;
        }
        file.sync_all()?;
        if nix::unistd::geteuid().is_root() {
            for path in [host.folder.path(), &host.image()] {
                nix::unistd::chown(
                    path,
                    Some(Uid::from_raw(NOBODY)),
                    Some(Gid::from_raw(NOBODY)),
                )?;
            }
        }
        Ok(host)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn logs(&self) -> &Path {
        &self.logs
    }

    pub fn image(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    /// Who runs the daemon: `setpriv` words when we are root.
    pub fn unprivileged() -> Vec<String> {
        if !nix::unistd::geteuid().is_root() {
            return Vec::new();
        }
        let id = NOBODY.to_string();
        [
            "setpriv",
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "--no-new-privs",
        ]
        .map(str::to_string)
        .to_vec()
    }
}

/// The target folder, or the temporary one when `nobody` could not get into the former.
fn default_base() -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let target = vm::paths::target();
    let open = |folder: &Path| {
        // A folder that is not there yet will be made, and open.
        folder
            .metadata()
            .map_or(true, |about| about.permissions().mode() & 0o001 != 0)
    };
    if target.ancestors().all(open) {
        target
    } else {
        std::env::temp_dir()
    }
}

/// Reads the whole image, so that every measurement starts with the same page cache.
pub fn warm(image: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::open(image)?;
    std::io::copy(&mut file, &mut std::io::sink())?;
    Ok(())
}

/// What the kernel says about a process: user and system call filter.
pub fn sandbox(id: u32) -> anyhow::Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|words| words.split_whitespace().next())
            .unwrap_or("?")
            .to_string()
    };
    let filter = if field("Seccomp") == "2" {
        "seccomp filter"
    } else {
        "NO seccomp filter"
    };
    Ok(format!(
        "uid {}, {filter}, NoNewPrivs {}",
        field("Uid"),
        field("NoNewPrivs")
    ))
}

//! The driver stack, built where allocation that cannot fail does not exist.
//!
//! One rule: the standard library is built from sources that stand beside its compiler; no toolchain is fetched for it.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::shell;

/// What runs in a kernel.
const CRATES: &[&str] = &[
    "fallible-alloc",
    "virtio-spec",
    "virtqueue",
    "driver-platform",
    "virtio-pci",
    "virtio-core",
    "block-driver",
    "net-driver",
    "balloon-driver",
];

/// Where rustc and cargo of Debian's packages are.
const DEBIAN: &str = "/usr";

/// Why the step is left out.
pub const MISSING: &str = "the sources of the standard library are missing (Debian packages rustc-web, cargo-web and \
                           rust-web-src, or rustup component add rust-src)";

/// What Debian's packages have that this step needs: the file, and its package.
pub const FILES: &[(&str, &str)] = &[
    ("/usr/bin/rustc", "rustc-web"),
    ("/usr/bin/cargo", "cargo-web"),
    (
        "/usr/lib/rustlib/src/rust/library/Cargo.lock",
        "rust-web-src",
    ),
];

/// Checks the crates against a `core` and an `alloc` without the calls that abort when memory runs out: `Vec::push`, `Box::new`, `vec!`,
/// `collect` into a list. Bare metal, so that nothing is behind them.
pub fn check() -> anyhow::Result<Result<bool, String>> {
    let Some(sysroot) = sysroot() else {
        return Ok(Err(MISSING.into()));
    };
    let mut command = Command::new(sysroot.join("bin/cargo"));
    command
        .current_dir(shell::root())
        .args(["check", "--quiet", "--locked"])
        .args(["-Zbuild-std=core,alloc", "--target", "x86_64-unknown-none"])
        .args(CRATES.iter().flat_map(|name| ["-p", name]))
        .arg("--target-dir")
        .arg(vm::paths::target().join("allocation"));
    // Another toolchain than the one that runs this.
    for inherited in [
        "RUSTUP_TOOLCHAIN",
        "RUSTC",
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
    ] {
        command.env_remove(inherited);
    }
    command
        .env("PATH", format!("{}/bin:/usr/bin:/bin", sysroot.display()))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "--cfg no_global_oom_handling");
    shell::show(&mut command).map(Ok)
}

/// A toolchain with the sources of its standard library: the one that runs this, or Debian's.
fn sysroot() -> Option<PathBuf> {
    // Cargo says where it is to what it starts.
    let cargo = std::env::var_os("CARGO").map(PathBuf::from);
    let ours = cargo.and_then(|cargo| Some(cargo.parent()?.parent()?.to_path_buf()));
    let mut candidates = ours.into_iter().chain([PathBuf::from(DEBIAN)]);
    candidates.find(|sysroot| is_whole(sysroot))
}

fn is_whole(sysroot: &Path) -> bool {
    let sources = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
    sources.exists() && sysroot.join("bin/cargo").exists() && sysroot.join("bin/rustc").exists()
}

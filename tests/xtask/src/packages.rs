//! Debian packages that tests and benchmarks need: named always, installed when we may.
//!
//! One rule: only root installs, and only what is missing.

use std::path::Path;
use std::process::Command;

use crate::allocation;
use crate::shell;

/// A program and the package it comes in.
const TOOLS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-storage-daemon", "qemu-system-common"),
    ("busybox", "busybox-static"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("fio", "fio"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("passt", "passt"),
    ("dpdk-testpmd", "dpdk-dev"),
    ("c++", "g++"),
    ("tcpdump", "tcpdump"),
    ("socat", "socat"),
    ("promtool", "prometheus"),
    ("systemd-analyze", "systemd"),
    ("zstd", "zstd"),
    ("xz", "xz-utils"),
];

fn missing() -> Vec<&'static str> {
    let lacks = |tool: &&(&str, &str)| vm::tool(tool.0, tool.1).is_err();
    let tools = TOOLS.iter().filter(lacks);
    let files = allocation::FILES.iter();
    let files = files.filter(|(file, _)| !Path::new(file).exists());
    let mut packages: Vec<_> = tools.chain(files).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// Installs what is missing, or names it.
pub fn ensure(no_install: bool) -> anyhow::Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let root = nix::unistd::geteuid().is_root();
    if no_install || !root || vm::tool("apt-get", "apt").is_err() {
        shell::say(&format!(
            "missing Debian packages, some tests will be skipped: {list}"
        ));
        return Ok(());
    }
    shell::say(&format!("installing Debian packages: {list}"));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg("-qq")
            .args(arguments);
        command.stdout(std::process::Stdio::null());
        command
    };
    let lists = shell::show(&mut apt(&["update"]))?;
    let options = ["install", "-y", "--no-install-recommends"];
    let installed = shell::show(apt(&options).args(&missing))?;
    if !(lists && installed) {
        shell::say("apt-get failed; tests that need these packages will be skipped");
    }
    Ok(())
}

//! A QEMU that takes any vhost-user device (`vhost-user-test-device-pci`, since 10.1), newer than the machine's own.
//!
//! One rule: it is downloaded with all that it is linked to and unpacked below the cache, from a later
//! Debian than the machine's, and runs with its own loader; nothing of the machine changes.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use crate::paths;
use crate::process;
use crate::skip;
use crate::tool;
use crate::tree;

const DEVICE: &str = "vhost-user-test-device-pci";
/// Where Debian keeps the keys of its archive.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SUITE: &str = "trixie-backports";
/// A QEMU program that has the device.
///
/// # Errors
/// [`crate::Skip`] when the installed one has it not and apt cannot give another.
pub fn program() -> anyhow::Result<PathBuf> {
    if let Ok(installed) = tool("qemu-system-x86_64", "qemu-system-x86")
        && has_device(Path::new(&installed))
    {
        return Ok(installed.into());
    }
    let folder = paths::cache("newer-qemu")?;
    let starter = folder.join("qemu");
    if !starter.exists() {
        fetch(&folder)?;
        start_script(&folder, &starter)?;
    }
    if has_device(&starter) {
        Ok(starter)
    } else {
        Err(skip(format!("Debian's newest QEMU has no {DEVICE}")))
    }
}

/// Without a socket the device says what it lacks; where there is none, QEMU says that.
fn has_device(qemu: &Path) -> bool {
    let output = Command::new(qemu)
        .args([
            "-M",
            "q35",
            "-nodefaults",
            "-display",
            "none",
            "-device",
            DEVICE,
        ])
        .output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("chardev"))
}

/// The later suites, from where the machine gets its own Debian.
fn sources(apt: &str) -> anyhow::Result<String> {
    let mut ask = Command::new(apt);
    ask.args(["indextargets", "--format", "$(REPO_URI)"])
        .args(["Created-By: Packages", "Label: Debian"]);
    let text =
        process::run(&mut ask).map_err(|error| skip(format!("apt has no sources: {error}")))?;
    let uri = text.lines().next();
    let uri = uri.ok_or_else(|| skip("apt has no Debian"))?;
    let signed = if Path::new(KEYS).exists() {
        format!("[signed-by={KEYS}] ")
    } else {
        String::new()
    };
    let suites = ["trixie", SUITE].map(|suite| format!("deb {signed}{uri} {suite} main\n"));
    Ok(suites.concat())
}

fn fetch(folder: &Path) -> anyhow::Result<()> {
    let apt = tool("apt-get", "apt")?;
    for part in ["lists/partial", "cache/archives/partial", "tree"] {
        std::fs::create_dir_all(folder.join(part))?;
    }
    let at = |name: &str| folder.join(name).display().to_string();
    std::fs::write(folder.join("sources.list"), sources(&apt)?)?;
    std::fs::write(folder.join("status"), "")?;
    let options = [
        format!("Dir::Etc::sourcelist={}", at("sources.list")),
        "Dir::Etc::sourceparts=/dev/null".into(),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::State::status={}", at("status")),
        format!("Dir::Cache={}", at("cache")),
        "APT::Install-Recommends=false".into(),
        "Debug::NoLocking=1".into(),
        "Acquire::Retries=2".into(),
    ];
    let options = options.iter().flat_map(|option| ["-o", option.as_str()]);
    let options: Vec<&str> = options.collect();
    let mut update = Command::new(&apt);
    process::run(update.args(&options).arg("update"))
        .map_err(|error| skip(format!("apt reaches no later Debian: {error}")))?;
    let mut install = Command::new(&apt);
    install.args(&options).args([
        "install",
        "-y",
        "--download-only",
        "-t",
        SUITE,
        "qemu-system-x86",
    ]);
    process::run(&mut install)
        .map_err(|error| skip(format!("apt has no {SUITE} QEMU: {error}")))?;
    for entry in std::fs::read_dir(folder.join("cache/archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            process::run(
                Command::new("dpkg-deb")
                    .arg("-x")
                    .arg(&path)
                    .arg(folder.join("tree")),
            )?;
        }
    }
    Ok(())
}

fn start_script(folder: &Path, starter: &Path) -> anyhow::Result<()> {
    let usr = folder.join("tree/usr");
    let loader = usr.join("lib64/ld-linux-x86-64.so.2");
    anyhow::ensure!(loader.exists(), "The unpacked Debian has no loader");
    let (usr, loader) = (usr.display(), loader.display());
    let text = format!(
        "#!/bin/sh\nexport QEMU_MODULE_DIR={usr}/lib/x86_64-linux-gnu/qemu\nexec {loader} --library-path \
         {usr}/lib/x86_64-linux-gnu {usr}/bin/qemu-system-x86_64 -L {usr}/share/qemu -L {usr}/share/seabios \"$@\"\n"
    );
    let half = starter.with_extension("new");
    tree::script(&half, &text)?;
    std::fs::rename(&half, starter).context("Put the starter in its place")
}

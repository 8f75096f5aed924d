//! Debian's kernel: the ELF inside its bzImage, and its modules.
//!
//! One rule: the kernel is used as Debian built it; only the packing around it is taken off.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use anyhow::ensure;

use crate::lz4;
use crate::process;

/// Modules that a guest needs for its disks, in loading order.
pub const DISK_MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
];

/// Modules that a guest needs for its balloon, in loading order.
pub const BALLOON_MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_balloon",
];

/// Modules that a guest needs for its network, in loading order.
pub const NET_MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// Modules that a host of nested guests needs besides, in loading order.
pub const KVM_MODULES: &[&str] = &["irqbypass", "kvm", "kvm-amd"];

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The uncompressed kernel, with its PVH entry.
    pub vmlinux: PathBuf,
    /// `lib/modules/<release>` of the package.
    pub modules: PathBuf,
    /// What `uname -r` says.
    pub release: String,
}

impl Kernel {
    /// The content of module `name`, unpacked.
    ///
    /// # Errors
    /// When the package has no such module or it cannot be unpacked.
    pub fn module(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let found = find(&self.modules, name)?
            .with_context(|| format!("No module {name} in {}", self.modules.display()))?;
        let content = std::fs::read(&found)?;
        if found.extension().is_some_and(|e| e == "ko") {
            Ok(content)
        } else {
            unpack(&content)
        }
    }
}

/// Looks for `name.ko`, packed or not; `-` and `_` are the same in module names.
fn find(folder: &Path, name: &str) -> anyhow::Result<Option<PathBuf>> {
    let wanted = format!("{}.ko", name.replace('-', "_"));
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if let Some(file) = path.file_name() {
            let file = file.to_string_lossy().replace('-', "_");
            if file == wanted || file == format!("{wanted}.xz") || file == format!("{wanted}.zst") {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// Where the code of [`elf`] lies.
pub const ELF_CODE: u32 = 0x10_0000;

/// An ELF kernel of these bytes, with a PVH note. It starts at [`ELF_CODE`] in 32-bit protected mode.
pub fn elf(code: &[u8]) -> Vec<u8> {
    let note = [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), ELF_CODE]
        .map(u32::to_le_bytes)
        .concat();
    let code_at = 64 + 2 * 56;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, 62].map(u16::to_le_bytes).concat());
    file.extend(1u32.to_le_bytes());
    file.extend([u64::from(ELF_CODE), 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    let mut header = |kind: u32, at: u64, address: u64, len: u64| {
        file.extend([kind, 7].map(u32::to_le_bytes).concat());
        file.extend(
            [at, address, address, len, len, 4]
                .map(u64::to_le_bytes)
                .concat(),
        );
    };
    let len = code.len() as u64;
    header(1, code_at, ELF_CODE.into(), len);
    header(4, code_at + len, 0, note.len() as u64);
    file.extend(code);
    file.extend(note);
    file
}

/// Takes the ELF out of a bzImage (Linux boot protocol 2.08: `payload_offset`, `payload_length`).
///
/// # Errors
/// When it is no bzImage, or packed in a way that we do not know.
pub fn vmlinux_of(image: &[u8]) -> anyhow::Result<Vec<u8>> {
    let word = |at: usize| -> anyhow::Result<usize> {
        let bytes = image.get(at..at + 4).context("The bzImage is cut")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "Not a bzImage");
    let setup_sectors = usize::from(image[0x1f1]).max(1);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let payload = image
        .get(start..start + word(0x24c)?)
        .context("The payload is cut")?;
    let elf = unpack(payload)?;
    ensure!(elf.starts_with(b"\x7fELF"), "The payload is not an ELF");
    Ok(elf)
}

/// Unpacks by magic number: LZ4 here, xz, zstd and gzip by their tools.
fn unpack(packed: &[u8]) -> anyhow::Result<Vec<u8>> {
    if packed.starts_with(&lz4::MAGIC) {
        return lz4::unpack(packed);
    }
    let (tool, package) = match packed.get(..4) {
        Some([0xfd, b'7', b'z', b'X']) => ("xz", "xz-utils"),
        Some([0x28, 0xb5, 0x2f, 0xfd]) => ("zstd", "zstd"),
        Some([0x1f, 0x8b, ..]) => ("gzip", "gzip"),
        other => anyhow::bail!("Packed in an unknown way: {other:x?}"),
    };
    let mut command = Command::new(crate::tool(tool, package)?);
    // The kernel's build appends the unpacked size, which the tools report as trailing garbage.
    command
        .arg("-dcq")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().context("No pipe to the unpacker")?;
    let content = packed.to_vec();
    let feeder = std::thread::spawn(move || input.write_all(&content));
    let output = child.wait_with_output()?;
    let _broken_pipe_is_fine = feeder.join();
    ensure!(!output.stdout.is_empty(), "{tool} could not unpack");
    Ok(output.stdout)
}

/// Unpacks a kernel package into `folder` unless that was done before.
///
/// # Errors
/// When the package is not what we expect of a Debian kernel.
pub fn from_package(package: &Path, folder: &Path) -> anyhow::Result<Kernel> {
    let release = std::fs::read_to_string(folder.join("release"));
    let release = match release {
        Ok(known) => known,
        Err(_) => prepare(package, folder)?,
    };
    Ok(Kernel {
        vmlinux: folder.join("vmlinux"),
        modules: ["lib/modules", "usr/lib/modules"]
            .iter()
            .map(|base| folder.join(base).join(&release))
            .find(|path| path.is_dir())
            .context("The kernel package has no modules")?,
        release,
    })
}

fn prepare(package: &Path, folder: &Path) -> anyhow::Result<String> {
    process::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder))?;
    let image = std::fs::read_dir(folder.join("boot"))?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"))
        .context("The kernel package has no vmlinuz")?;
    let name = image.file_name().to_string_lossy().into_owned();
    let release = name.trim_start_matches("vmlinuz-").to_string();
    std::fs::write(
        folder.join("vmlinux"),
        vmlinux_of(&std::fs::read(image.path())?)?,
    )?;
    // Written last: it marks the folder as complete.
    std::fs::write(folder.join("release"), &release)?;
    Ok(release)
}

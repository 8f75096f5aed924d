//! A network namespace with a TAP in it: the stage for loads between a guest's port and the host's own stack.
//!
//! One rule: everything happens in a namespace of this process; the machine's own network is not touched.
#![expect(unsafe_code, reason = "the TAP's ioctl")]

use std::fs::File;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use nix::sched::CloneFlags;
use nix::sched::unshare;

/// Name of the TAP.
pub const TAP: &str = "bench0";
/// The host's address on it.
pub const HOST: [u8; 4] = [10, 77, 0, 1];
/// The guest's.
pub const GUEST: [u8; 4] = [10, 77, 0, 2];
/// The guest's hardware address.
pub const GUEST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];

nix::ioctl_write_int!(tun_set_iff, b'T', 202);
nix::ioctl_write_int!(tun_set_offload, b'T', 208);
nix::ioctl_write_ptr!(tun_set_header, b'T', 216, libc::c_int);

/// Enters a new network namespace and makes the TAP. From here on this thread and its children are in it.
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .context("a network namespace cannot be made (are you root?)")?;
    ip(&["link", "set", "lo", "up"])?;
    ip(&[
        "tuntap",
        "add",
        "dev",
        TAP,
        "mode",
        "tap",
        "vnet_hdr",
        "multi_queue",
    ])?;
    ip(&["address", "add", "10.77.0.1/24", "dev", TAP])?;
    ip(&["link", "set", TAP, "up"])?;
    ip(&[
        "neigh",
        "replace",
        "10.77.0.2",
        "lladdr",
        "02:00:00:00:00:77",
        "dev",
        TAP,
        "nud",
        "permanent",
    ])?;
    // Nothing but the load: no neighbour discovery of IPv6 on it.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{TAP}/disable_ipv6"), "1");
    Ok(())
}

fn ip(words: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(words).output();
    let done = done.context("ip is missing: install iproute2")?;
    ensure!(
        done.status.success(),
        "ip {} failed: {}",
        words.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// The host's hardware address on the TAP.
pub fn host_mac() -> Result<[u8; 6]> {
    // /sys shows the namespace it was mounted in; `ip` shows ours.
    let shown = Command::new("ip")
        .args(["-o", "link", "show", "dev", TAP])
        .output()?;
    let text = String::from_utf8(shown.stdout)?;
    let mac = text
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1);
    let mut bytes = [0; 6];
    let parts = mac.context("the TAP has no hardware address")?.split(':');
    for (byte, part) in bytes.iter_mut().zip(parts) {
        *byte = u8::from_str_radix(part, 16)?;
    }
    Ok(bytes)
}

/// Attaches to the TAP as a guest's port would be: headers of 12 bytes, all offloads.
pub fn attach() -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("/dev/net/tun")?;
    // struct ifreq: the name, then the flags.
    let mut request = [0_u8; 40];
    for (place, byte) in request.iter_mut().zip(TAP.bytes()) {
        *place = byte;
    }
    let flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the request is a whole `struct ifreq`.
    unsafe { tun_set_iff(file.as_raw_fd(), request.as_ptr() as u64) }.context("TUNSETIFF")?;
    // SAFETY: the size is read from a valid int.
    unsafe { tun_set_header(file.as_raw_fd(), &12) }.context("TUNSETVNETHDRSZ")?;
    // Checksum, TSO4, TSO6, ECN.
    // SAFETY: the argument is a number.
    unsafe { tun_set_offload(file.as_raw_fd(), 0xf) }.context("TUNSETOFFLOAD")?;
    Ok(file)
}

//! The probe guest: a freestanding guest that lists the machine, verifies its disks and networks and measures them.
//!
//! Rule: all code runs at CPL 3 but for the few instructions in `boot.s`, so that it is fast under a KVM that emulates CPL 0; what it
//! finds leaves as one JSON object a line on the serial port 0x3f8, and the verdict as a byte to port 0xf4.
//!
//! Build it with `cargo build -p probe-guest --profile probe`: only that profile gives the guest image (a static PVH ELF), because a
//! freestanding program cannot unwind. In every other profile the same modules are compiled and linted, but the program only says how
//! to build it, so that `cargo test --workspace` links.
//!
//! The command line names jobs and parameters; parameters before the first job count for all of them, `;` separates groups:
//! - `probe`: PCI functions, features and queues of every virtio disk;
//! - `verify disk=0 size=64M seconds=0 queues=1 qd=16 packed=0`: verified random I/O with a shadow model;
//! - `sequence seconds=10`: the same without the error paths on a small part of the disk, for as long as a test kills the backend;
//! - `load rw=randread bs=4k qd=32 queues=1 seconds=2 wait=poll batch=8 packed=0 disk=0`: load with latency percentiles.
//! - `balloon pool=64M data=16M touch=1 report=0 rounds=1 seconds=60 oom=0 traffic=0 net=0 grow=0 demand=5:32M,9:8M`: follows the balloon with pages
//!   of a pool of which `data` is in use and verified.
//! - `netinfo card=0 watch=0`: what the network card is; every change of its link until there were so many;
//! - `peer seconds=60 connections=4`: the other end of the jobs that follow, until one asks it to quit;
//! - `ping peer=10.0.0.1 count=1000 size=56 lost=0`: echoes, one after the other;
//! - `udp peer=... size=1400 qd=16 seconds=2`: datagrams that come back;
//! - `tcp peer=... mode=send|receive|both|quit streams=1 seconds=2 window=512k amount=0`: verified streams;
//! - `flood to=52-54-00-00-00-01 size=64 seconds=2 batch=32`: raw frames as fast as they go, and how many arrived;
//! - `pingpong to=... size=64 count=20000`: raw frames that come back, timed.
//!
//! Network jobs take `address=dhcp` or `address=10.0.0.2/24 router=...`, `pairs=1`, `wait=poll|irq`, `csum=`, `tso=`, `guest_csum=`,
//! `guest_tso=`, `mrg=`, `mq=`, `piece=`.
//!
//! Common parameters: `tsc_khz=`, `packed=`, `event_idx=`, `indirect=`, `in_order=`, `queue_size=`, `seed=`.
#![cfg_attr(freestanding, no_std, no_main)]
#![cfg_attr(
    not(freestanding),
    expect(
        dead_code,
        reason = "outside the probe profile the guest's code is only checked"
    )
)]

extern crate alloc;

mod apic;
mod balloon;
mod card;
mod command;
mod cpu;
mod device;
#[cfg(freestanding)]
mod entry;
mod flow;
mod frames;
mod heap;
mod histogram;
mod json;
mod load;
mod machine;
mod net;
mod offload;
mod paging;
mod pattern;
mod pci;
mod ping;
mod platform;
mod pool;
mod probe;
mod serve;
mod start_info;
mod tcp_load;
mod traffic;
mod udp_load;
mod verify;
mod wire;
mod workload;

#[cfg(not(freestanding))]
#[expect(
    clippy::print_stderr,
    reason = "it ends with this, and knows nothing of the host"
)]
fn main() {
    eprintln!(
        "probe-guest runs in a virtual machine; build it with: cargo build -p probe-guest --profile probe"
    );
    std::process::exit(2);
}

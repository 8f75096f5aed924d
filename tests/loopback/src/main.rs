//! `paravane-loopback`: driver core against backend, disk or network, in one process, where there is no KVM.
//!
//! Rule: one JSON line with the figures, in the fields that every measuring program here uses.
use std::path::PathBuf;
use std::time::Duration;

use block_backend::BlockDevice;
use block_backend::BlockSpec;
use clap::Parser;
use loopback::NetWorkload;
use loopback::Workload;

/// Measures driver core against backend in one process, without a virtual machine: a disk, or two networks on a switch.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Disk image.
    #[arg(long, required_unless_present = "net")]
    path: Option<PathBuf>,
    /// Frames from one guest to another instead of a disk; `bs` is their size.
    #[arg(long, conflicts_with = "path")]
    net: bool,
    /// Packed rings, with `net`.
    #[arg(long, requires = "net")]
    packed: bool,
    /// randread, randwrite, randrw, read, write or fsync.
    #[arg(long, default_value = "randread")]
    rw: String,
    /// Bytes of a request.
    #[arg(long, default_value_t = 4096)]
    bs: usize,
    /// Requests under way.
    #[arg(long, default_value_t = 1)]
    qd: u64,
    /// Seconds to run.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.net {
        return net(&arguments);
    }
    let device = BlockDevice::open(BlockSpec {
        path: arguments.path,
        ..BlockSpec::default()
    })?;
    let work = Workload {
        pattern: arguments.rw,
        block_bytes: arguments.bs,
        depth: arguments.qd,
        duration: Duration::from_secs(arguments.seconds),
    };
    let rates = loopback::measure(device, &work)?;
    let us = |percentile: f64| rates.latency_ns.value_at_percentile(percentile) as f64 / 1000.0;
    host_os::say!(
        "{{\"kind\":\"loopback\",\"rw\":\"{}\",\"bs\":{},\"qd\":{},\"iops\":{:.0},\"p50_us\":{:.3},\"p99_us\":{:.3},\"p999_us\":{:.3},\"errors\":{}}}",
        work.pattern,
        work.block_bytes,
        work.depth,
        rates.operations as f64 / rates.elapsed.as_secs_f64(),
        us(50.0),
        us(99.0),
        us(99.9),
        rates.errors
    );
    Ok(())
}

fn net(arguments: &Arguments) -> anyhow::Result<()> {
    let work = NetWorkload {
        frame_bytes: arguments.bs,
        duration: Duration::from_secs(arguments.seconds),
        packed: arguments.packed,
    };
    let rates = loopback::measure_net(&work)?;
    host_os::say!(
        "{{\"kind\":\"loopback\",\"net\":\"switch\",\"bs\":{},\"packed\":{},\"frames_per_second\":{:.0},\"sent\":{},\"received\":{},\"doorbells\":{}}}",
        work.frame_bytes,
        work.packed,
        rates.received as f64 / rates.elapsed.as_secs_f64(),
        rates.sent,
        rates.received,
        rates.doorbells
    );
    Ok(())
}

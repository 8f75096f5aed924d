//! `paravane-blockd`: serves disks to virtual machines over vhost-user.
//!
//! One rule: it says what its devices are; how a daemon behaves stands in `daemon-shell`, how a disk does in
//! `block-backend`.

mod cli;
mod disk;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use block_backend::BlockDevice;
use block_backend::BlockSpec;
use clap::CommandFactory;
use clap::Parser;
use daemon_shell::DeviceSpec;
use daemon_shell::Error;
use daemon_shell::Exit;
use daemon_shell::ProcessSpec;
use daemon_shell::Unit;
use daemon_shell::capabilities::Capabilities;
use daemon_shell::capabilities::Descriptor;
use daemon_shell::capabilities::to_json;
use daemon_shell::exit;
use daemon_shell::identity;

use crate::cli::Cli;
use crate::disk::Disk;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.print_capabilities {
        return exit::print(&to_json(&capabilities())).into();
    }
    if cli.print_descriptor {
        return exit::print(&descriptor()).into();
    }
    if let Some(folder) = &cli.man_pages {
        let written = clap_mangen::generate_to(Cli::command(), folder);
        return exit::man_pages(folder, written).into();
    }
    match serve(cli) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => exit::report(&error).into(),
    }
}

fn serve(cli: Cli) -> Result<(), Error> {
    let (process, devices) = settle(cli)?;
    daemon_shell::begin(&process)?;
    let units: Result<Vec<_>, _> = devices.into_iter().enumerate().map(open).collect();
    daemon_shell::run(&process, units?)
}

/// The devices of the command line or of the config file.
fn settle(cli: Cli) -> Result<(ProcessSpec, Vec<DeviceSpec<BlockSpec>>), Error> {
    if let Some(path) = &cli.config {
        let (file, devices) = daemon_shell::config::load(path)?;
        return Ok((cli.process.or(file), devices));
    }
    let device = DeviceSpec {
        socket: cli.socket,
        service: cli.service,
        device: cli.disk,
    };
    Ok((cli.process, vec![device]))
}

fn open((at, spec): (usize, DeviceSpec<BlockSpec>)) -> Result<Unit, Error> {
    let name = spec
        .service
        .name
        .clone()
        .unwrap_or_else(|| format!("device{}", at + 1));
    let mut disk = spec.device;
    disk.serial.get_or_insert_with(|| {
        let fingerprint = match &disk.path {
            Some(path) => identity::of_path("disk", path),
            None => identity::of_socket("disk", &spec.socket, &name),
        };
        format!("{fingerprint:016x}")
    });
    let device = BlockDevice::open(disk).map_err(|source| match source {
        block_backend::Error::Spec(faults) => Error::Socket {
            device: name,
            message: faults.join("; "),
        },
        source => Error::Device {
            device: name,
            source: Box::new(source),
        },
    })?;
    Ok(Unit {
        socket: spec.socket,
        service: spec.service,
        served: Arc::new(Disk(device)),
    })
}

fn capabilities() -> Capabilities {
    Capabilities {
        kind: "block",
        features: vec!["read-only", "blk-file"],
    }
}

fn descriptor() -> String {
    let binary = std::env::current_exe()
        .unwrap_or_else(|_| Path::new("/usr/libexec/paravane-blockd").to_owned());
    to_json(&Descriptor {
        description: "Paravane vhost-user block daemon",
        kind: "block",
        binary: &binary,
    })
}

//! `paravane-balloond`: serves balloons to virtual machines over vhost-user, and moves memory between them.
//!
//! One rule: how a daemon behaves stands in `daemon-shell`, how a balloon does in `balloon-backend`, how memory is shared
//! out in `policy`; what is here joins them.

mod cli;
mod host;
mod journal;
mod memory;
mod policy;
mod pool;
mod vm;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use balloon_backend::BalloonDevice;
use balloon_backend::BalloonSpec;
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
use serde::Deserialize;

use crate::cli::Cli;
use crate::pool::Pool;
use crate::pool::PoolSpec;
use crate::vm::Vm;

/// What the config file has beside process and devices.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Tables {
    pool: PoolSpec,
}

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
    let (process, pool, devices) = settle(cli)?;
    daemon_shell::begin(&process)?;
    let mut vms = Vec::new();
    let mut units = Vec::new();
    for (at, spec) in devices.into_iter().enumerate() {
        let vm = Arc::new(open(at, &spec)?);
        vms.push(Arc::clone(&vm));
        units.push(Unit {
            socket: spec.socket,
            service: spec.service,
            served: vm,
        });
    }
    let pool = Pool::new(&pool, vms)?;
    daemon_shell::run_with(&process, units, Arc::new(pool))
}

/// Process, pool and devices of the command line or of the config file.
fn settle(cli: Cli) -> Result<(ProcessSpec, PoolSpec, Vec<DeviceSpec<BalloonSpec>>), Error> {
    if let Some(path) = &cli.config {
        let (file, tables, devices) = daemon_shell::config::load_with(path, &["pool"])?;
        let Tables { pool } = tables;
        return Ok((cli.process.or(file), cli.pool.or(pool), devices));
    }
    let device = DeviceSpec {
        socket: cli.socket,
        service: cli.service,
        device: cli.balloon,
    };
    Ok((cli.process, cli.pool, vec![device]))
}

fn open(at: usize, spec: &DeviceSpec<BalloonSpec>) -> Result<Vm, Error> {
    let name = spec.service.name.clone();
    let name = name.unwrap_or_else(|| format!("device{}", at + 1));
    match BalloonDevice::new(spec.device.clone()) {
        Ok(device) => Vm::new(name, device),
        Err(balloon_backend::Error::Spec(faults)) => Err(Error::Socket {
            device: name,
            message: faults.join("; "),
        }),
        Err(source) => Err(Error::Device {
            device: name,
            source: Box::new(source),
        }),
    }
}

fn capabilities() -> Capabilities {
    Capabilities {
        kind: "balloon",
        features: Vec::new(),
    }
}

fn descriptor() -> String {
    let binary = std::env::current_exe()
        .unwrap_or_else(|_| Path::new("/usr/libexec/paravane-balloond").to_owned());
    to_json(&Descriptor {
        description: "Paravane vhost-user balloon daemon",
        kind: "balloon",
        binary: &binary,
    })
}

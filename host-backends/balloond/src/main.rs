//! `paravane-balloond`: serves balloons to virtual machines over vhost-user, and moves memory between them.
//!
//! One rule: how a daemon behaves stands in `daemon-shell`, how a balloon does in `balloon-backend`, how memory is shared
//! out in `policy`; what is here joins them.

mod help;
mod host;
mod journal;
mod policy;
mod pool;
mod spec;
mod vm;
mod vm_state;

use std::process::ExitCode;
use std::sync::Arc;

use config_file::Section;
use daemon_shell::Daemon;
use daemon_shell::DeviceSpec;
use daemon_shell::Error;
use daemon_shell::Opened;
use daemon_shell::Program;

use crate::pool::Pool;
use crate::pool::PoolTable;
use crate::spec::VmSpec;

struct BalloonDaemon;

impl Daemon for BalloonDaemon {
    type Device = VmSpec;
    type Shared = PoolTable;

    const PROGRAM: Program = help::PROGRAM;
    const DEVICE_FLAGS: &'static [&'static str] = &["balloon", "terms", "state"];

    fn read_device(table: Section<'_>) -> Result<VmSpec, config_file::Error> {
        VmSpec::read(table)
    }

    fn open(table: PoolTable, devices: Vec<DeviceSpec<VmSpec>>) -> Result<Opened, Error> {
        let vms: Result<Vec<_>, _> = devices.into_iter().map(vm::open).collect();
        let (vms, units) = vms?.into_iter().unzip();
        let pool = Arc::new(Pool::new(&table.pool, vms)?);
        Ok(Opened {
            units,
            overseer: Some(pool),
        })
    }
}

fn main() -> ExitCode {
    daemon_shell::main::<BalloonDaemon>()
}

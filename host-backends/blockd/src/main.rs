//! `paravane-blockd`: serves disks to virtual machines over vhost-user.
//!
//! One rule: it says what its devices are; how a daemon behaves stands in `daemon-shell`, how a disk does in
//! `block-backend`.

mod disk;
mod help;

use std::process::ExitCode;

use block_backend::BlockSpec;
use config_file::Section;
use daemon_shell::Daemon;
use daemon_shell::DeviceSpec;
use daemon_shell::Error;
use daemon_shell::NothingShared;
use daemon_shell::Opened;
use daemon_shell::Program;

struct BlockDaemon;

impl Daemon for BlockDaemon {
    type Device = BlockSpec;
    type Shared = NothingShared;

    const PROGRAM: Program = help::PROGRAM;
    const DEVICE_FLAGS: &'static [&'static str] = &["disk"];

    fn read_device(table: Section<'_>) -> Result<BlockSpec, config_file::Error> {
        table.read()
    }

    fn open(_: NothingShared, devices: Vec<DeviceSpec<BlockSpec>>) -> Result<Opened, Error> {
        devices.into_iter().map(disk::open).collect()
    }
}

fn main() -> ExitCode {
    daemon_shell::main::<BlockDaemon>()
}

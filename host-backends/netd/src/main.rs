//! `paravane-netd`: serves networks to virtual machines over vhost-user.
//!
//! One rule: it says what its devices are; how a daemon behaves stands in `daemon-shell`, how a network card does in
//! `net-backend`.

mod card;
mod help;
mod settings;
mod spec;
mod switches;

use std::process::ExitCode;

use config_file::Section;
use daemon_shell::Daemon;
use daemon_shell::DeviceSpec;
use daemon_shell::Error;
use daemon_shell::Opened;
use daemon_shell::Program;

use crate::spec::CardSpec;
use crate::switches::Network;

struct NetDaemon;

impl Daemon for NetDaemon {
    type Device = CardSpec;
    type Shared = Network;

    const PROGRAM: Program = help::PROGRAM;
    const DEVICE_FLAGS: &'static [&'static str] = &["net", "state"];

    fn read_device(table: Section<'_>) -> Result<CardSpec, config_file::Error> {
        CardSpec::read(table)
    }

    fn open(network: Network, devices: Vec<DeviceSpec<CardSpec>>) -> Result<Opened, Error> {
        let fabric = network.make(&devices)?;
        let units = devices.into_iter().map(|spec| card::open(spec, &fabric));
        Ok(Opened {
            units: units.collect::<Result<_, _>>()?,
            overseer: network.overseer(fabric),
        })
    }
}

fn main() -> ExitCode {
    daemon_shell::main::<NetDaemon>()
}

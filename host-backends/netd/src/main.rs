//! `paravane-netd`: serves networks to virtual machines over vhost-user.
//!
//! One rule: it says what its devices are; how a daemon behaves stands in `daemon-shell`, how a network card does in
//! `net-backend`.

mod card;
mod cli;
mod settings;
mod switches;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

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
use net_backend::Fabric;
use net_backend::LinkChoice;
use net_backend::NetDevice;
use net_backend::NetSpec;
use net_backend::SwitchSpec;
use serde::Deserialize;

use crate::card::Card;
use crate::cli::Cli;
use crate::switches::Switches;

/// The config file's tables beside `[[device]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Network {
    switch: Vec<SwitchSpec>,
}

type Settled = (ProcessSpec, Network, Vec<DeviceSpec<NetSpec>>);

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
    let (process, network, devices) = settle(cli)?;
    daemon_shell::begin(&process)?;
    let fabric = make_switches(&network, &devices)?;
    let units: Result<Vec<_>, _> = devices
        .into_iter()
        .enumerate()
        .map(|(at, spec)| open(at, spec, &fabric))
        .collect();
    let units = units?;
    if network.switch.is_empty() {
        return daemon_shell::run(&process, units);
    }
    let mut uplinks = network
        .switch
        .iter()
        .filter_map(|spec| spec.uplink.as_ref());
    let reconnects = uplinks.any(net_link::LinkSpec::reconnects);
    let switches = Switches { fabric, reconnects };
    daemon_shell::run_with(&process, units, Arc::new(switches))
}

/// The devices of the command line or of the config file.
fn settle(cli: Cli) -> Result<Settled, Error> {
    if let Some(path) = &cli.config {
        let (file, network, devices) = daemon_shell::config::load_with(path, &["switch"])?;
        return Ok((cli.process.or(file), network, devices));
    }
    let device = DeviceSpec {
        socket: cli.socket,
        service: cli.service,
        device: cli.net,
    };
    Ok((cli.process, Network::default(), vec![device]))
}

/// Makes the switches of the config file; every switch that a device names must be there.
fn make_switches(network: &Network, devices: &[DeviceSpec<NetSpec>]) -> Result<Fabric, Error> {
    let fabric = Fabric::default();
    for spec in &network.switch {
        let fault = |message| Error::Socket {
            device: format!("switch {}", spec.name),
            message,
        };
        spec.check().map_err(fault)?;
        let switch = fabric.switch(&spec.name);
        let Some(link) = &spec.uplink else {
            continue;
        };
        let chain = |error: &dyn std::error::Error| exit::chain(error);
        let ends = net_link::open(link, 1).map_err(|error| fault(chain(&error)))?;
        for end in ends {
            let added = switch.add_uplink(end);
            added.map_err(|error| fault(chain(&error)))?;
        }
    }
    for (at, device) in devices.iter().enumerate() {
        let LinkChoice::Switch(name) = &device.device.link else {
            continue;
        };
        if !network.switch.iter().any(|switch| switch.name == *name) && devices.len() > 1 {
            let message =
                format!("there is no switch {name:?}: add a [[switch]] table with name = {name:?}");
            return Err(Error::Socket {
                device: name_of(at, device),
                message,
            });
        }
    }
    Ok(fabric)
}

fn name_of(at: usize, spec: &DeviceSpec<NetSpec>) -> String {
    let name = spec.service.name.clone();
    name.unwrap_or_else(|| format!("device{}", at + 1))
}

fn open(at: usize, spec: DeviceSpec<NetSpec>, fabric: &Fabric) -> Result<Unit, Error> {
    let name = name_of(at, &spec);
    let mut card = spec.device;
    // Before it has an address that only this process knows.
    card.mac_filter = Some(card.filters_mac());
    card.mac.get_or_insert_with(|| {
        let fingerprint = identity::of_socket("net", &spec.socket, &name);
        net_backend::MacAddress::from_fingerprint(fingerprint)
    });
    let device = NetDevice::open(&name, card, fabric).map_err(|error| refusal(&name, error))?;
    Ok(Unit {
        socket: spec.socket,
        service: spec.service,
        served: Arc::new(Card(device)),
    })
}

fn refusal(device: &str, error: net_backend::Error) -> Error {
    let device = device.to_owned();
    match error {
        net_backend::Error::Spec(faults) => Error::Socket {
            device,
            message: faults.join("; "),
        },
        source => Error::Device {
            device,
            source: Box::new(source),
        },
    }
}

fn capabilities() -> Capabilities {
    Capabilities {
        kind: "net",
        features: vec![],
    }
}

fn descriptor() -> String {
    let binary = std::env::current_exe()
        .unwrap_or_else(|_| Path::new("/usr/libexec/paravane-netd").to_owned());
    to_json(&Descriptor {
        description: "Paravane vhost-user network daemon",
        kind: "net",
        binary: &binary,
    })
}

//! The validated description of a VM.
//!
//! One rule: all mistakes are found here and reported together; what passes needs no further checks of its values.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use config_file::ConfigFile;
use config_file::Places;
use host_os::ByteSize;

use crate::devices;
use crate::devices::Device;
use crate::devices::Kind;
use crate::devices::Source;
use crate::options::OnReset;
use crate::options::RunOptions;
use crate::options::Sandbox;
use crate::options::Serial;

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VmConfig {
    pub(crate) name: String,
    /// Somebody chose the name.
    pub(crate) named: bool,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: String,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) cpus: u32,
    /// Disks, networks, the balloon.
    pub(crate) devices: Vec<Device>,
    /// More of the daemons' config files, by daemon.
    pub(crate) daemons: BTreeMap<String, DaemonTable>,
    pub(crate) serial: Serial,
    pub(crate) on_reset: OnReset,
    pub(crate) debug_exit: bool,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) sandbox: bool,
    /// Whom the VMM and its daemons become.
    pub(crate) user: Option<String>,
    pub(crate) group: Option<String>,
}

/// More of a daemon's config file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DaemonTable {
    pub(crate) table: toml::Table,
    /// Where it stands in the VM's file.
    pub(crate) places: Places,
}

/// Reads the file that the options name, if any, merges and validates. The error is all that is wrong, one per line.
pub(crate) fn resolve(flags: RunOptions) -> Result<VmConfig, String> {
    let merged = match &flags.file {
        Some(path) => merge(
            read(path).map_err(|error| host_os::error_chain(&error))?,
            flags,
        ),
        None => flags,
    };
    validate(merged)
}

fn read(path: &Path) -> Result<RunOptions, config_file::Error> {
    let file = ConfigFile::read(path)?;
    let root = file.root()?;
    let places = root.places();
    let mut options = RunOptions {
        places,
        ..root.read()?
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    // A path in the file is relative to the file.
    let fix = |path: &mut PathBuf| *path = folder.join(&*path);
    options.kernel.iter_mut().for_each(fix);
    options.initrd.iter_mut().for_each(fix);
    let tables = options.disk.iter_mut().chain(&mut options.net);
    tables
        .chain(&mut options.balloon)
        .for_each(|table| devices::anchor(table, folder));
    if let Some(Serial::File(path)) = &mut options.serial {
        fix(path);
    }
    Ok(options)
}

fn merge(mut file: RunOptions, flags: RunOptions) -> RunOptions {
    // What a flag overrides is not what can be wrong.
    if flags.memory.is_some() {
        file.places.add("memory", "--memory");
    }
    if flags.cpus.is_some() {
        file.places.add("cpus", "--cpus");
    }
    if flags.balloon.is_some() {
        file.places.forget("balloon");
    }
    let both = |mut file: Vec<toml::Table>, flags| {
        file.extend(flags);
        file
    };
    RunOptions {
        file: flags.file,
        name: flags.name.or(file.name),
        kernel: flags.kernel.or(file.kernel),
        initrd: flags.initrd.or(file.initrd),
        cmdline: flags.cmdline.or(file.cmdline),
        memory: flags.memory.or(file.memory),
        cpus: flags.cpus.or(file.cpus),
        disk: both(file.disk, flags.disk),
        net: both(file.net, flags.net),
        balloon: flags.balloon.or(file.balloon),
        daemon: file.daemon,
        places: file.places,
        serial: flags.serial.or(file.serial),
        on_reset: flags.on_reset.or(file.on_reset),
        debug_exit: flags.debug_exit.or(file.debug_exit),
        shutdown_timeout: flags.shutdown_timeout.or(file.shutdown_timeout),
        sandbox: flags.sandbox.or(file.sandbox),
        user: flags.user.or(file.user),
        group: flags.group.or(file.group),
        json: flags.json,
    }
}

fn validate(options: RunOptions) -> Result<VmConfig, String> {
    let mut wrong = Vec::new();
    let kernel = options.kernel.unwrap_or_else(|| {
        wrong.push("kernel: missing (an ELF file with a PVH entry point)".to_owned());
        PathBuf::new()
    });
    let ByteSize(memory) = options.memory.unwrap_or(ByteSize(512 << 20));
    if memory == 0
        || !memory.is_multiple_of(machine::ram::GRANULE)
        || memory > machine::layout::MAX_RAM
    {
        wrong.push(format!(
            "memory: {memory} bytes are not a multiple of 2 MiB up to 1 TiB (a bare number is bytes: write 512M or 2G)"
        ));
    }
    let cpus = options.cpus.unwrap_or(1);
    if cpus == 0 {
        wrong.push("cpus: at least 1".to_owned());
    }
    let tables = [
        (Kind::Disk, options.disk),
        (Kind::Net, options.net),
        (Kind::Balloon, options.balloon.into_iter().collect()),
    ];
    let places = options.places;
    wrong
        .iter_mut()
        .for_each(|fault| *fault = places.locate(fault));
    let devices = resolve_devices(tables, &places, &mut wrong);
    check_daemons(&options.daemon, &places, &devices, &mut wrong);
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    let stem = kernel
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    Ok(VmConfig {
        named: options.name.is_some(),
        name: options.name.or(stem).unwrap_or_default(),
        kernel,
        initrd: options.initrd,
        cmdline: options.cmdline.unwrap_or_default(),
        memory,
        cpus,
        devices,
        daemons: options
            .daemon
            .into_iter()
            .map(|(name, table)| {
                let places = places.below(&format!("daemon.{name}"));
                (name, DaemonTable { table, places })
            })
            .collect(),
        serial: options.serial.unwrap_or(Serial::Stdio),
        on_reset: options.on_reset.unwrap_or(OnReset::Restart),
        debug_exit: options.debug_exit.unwrap_or(false),
        shutdown_timeout: Duration::from_secs(options.shutdown_timeout.unwrap_or(10)),
        sandbox: options.sandbox != Some(Sandbox::Off),
        user: options.user,
        group: options.group,
    })
}

/// A table for a daemon that is not started would say nothing to anybody.
fn check_daemons(
    tables: &BTreeMap<String, toml::Table>,
    places: &Places,
    devices: &[Device],
    wrong: &mut Vec<String>,
) {
    for name in tables.keys() {
        let ours = |device: &Device| matches!(device.source, Source::Daemon(_));
        let mut started = devices.iter().filter(|device| ours(device));
        if !started.any(|device| device.kind.daemon() == name) {
            wrong.push(places.locate(&format!(
                "daemon.{name}: no device of this VM has a daemon of that name started"
            )));
        }
    }
}

fn resolve_devices(
    tables: [(Kind, Vec<toml::Table>); 3],
    places: &Places,
    wrong: &mut Vec<String>,
) -> Vec<Device> {
    let mut found: Vec<Device> = Vec::new();
    for (kind, tables) in tables {
        for (number, table) in tables.into_iter().enumerate() {
            let word = kind.word();
            let path = match kind {
                Kind::Balloon => word.to_owned(),
                _ => format!("{word}.{number}"),
            };
            // Not of what stands in the file, but of the flags behind it.
            let places = match places.keys().any(|(key, _)| key == path) {
                true => places.below(&path),
                false => Places::new(format!("--{word}")),
            };
            let mut refuse = |fault: &str| wrong.push(places.locate(fault));
            match devices::resolve(kind, number, table) {
                Ok(device) if found.iter().any(|other| other.name == device.name) => {
                    refuse(&format!("name: another device is named {:?}", device.name));
                }
                Ok(device) => found.push(Device { places, ..device }),
                Err(faults) => faults.iter().for_each(|fault| refuse(fault)),
            }
        }
    }
    found
}

#[cfg(test)]
#[path = "vm_config_tests.rs"]
mod tests;

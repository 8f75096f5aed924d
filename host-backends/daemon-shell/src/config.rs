//! The config file: options of the process, then one `[[device]]` table per device.
//!
//! Rule: an unknown key is an error that names its place and the keys there are; nothing is skipped in silence.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use config_file::ConfigFile;
use config_file::Places;
use config_file::Section;

use crate::Error;
use crate::ProcessSpec;
use crate::Served;
use crate::ServiceSpec;
use crate::SocketSpec;
use crate::Unit;
use crate::program::SharedOptions;

const SOCKET_KEYS: [&str; 4] = ["socket-path", "fd", "connect", "socket-mode"];
const SERVICE_KEYS: [&str; 2] = ["name", "poll"];
const DEVICES: &str = "device";

/// One device of a daemon: where it is found, how it is served, what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec<S> {
    /// In logs and on the control socket.
    pub name: String,
    /// Where its front-end finds it.
    pub socket: SocketSpec,
    /// How it is served.
    pub service: ServiceSpec,
    /// What it is.
    pub device: S,
    /// Where its keys stand in the config file, if they do.
    pub places: Places,
}

impl<S> DeviceSpec<S> {
    /// The error for `faults` of what the device is asked to be; each begins with the key that it is about, if there is one.
    pub fn wrong(&self, faults: &[String]) -> Error {
        let faults: Vec<_> = faults
            .iter()
            .map(|fault| self.places.locate(fault))
            .collect();
        Error::Spec {
            name: self.name.clone(),
            message: faults.join("; "),
        }
    }

    /// The device as `served`, at its place and in its manner.
    pub fn served(self, served: Arc<dyn Served>) -> Unit {
        Unit {
            name: self.name,
            socket: self.socket,
            service: self.service,
            served,
        }
    }

    /// The error for a device that cannot be opened.
    pub fn refused(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Device {
            device: self.name.clone(),
            source: source.into(),
        }
    }
}

/// What a config file says.
#[derive(Debug)]
pub struct Config<S, T> {
    /// Of the process.
    pub process: ProcessSpec,
    /// Beside the devices.
    pub shared: S,
    /// At least one.
    pub devices: Vec<DeviceSpec<T>>,
}

/// Reads the config file at `path`, as [`parse`].
///
/// # Errors
/// It cannot be read, or as [`parse`].
pub fn load<S: SharedOptions, T>(
    path: &Path,
    read_device: impl Fn(Section<'_>) -> Result<T, config_file::Error>,
) -> Result<Config<S, T>, Error> {
    parse(&ConfigFile::read(path)?, read_device)
}

/// Reads `file`; `read_device` reads a device's table, from which the keys of socket and service have been taken.
///
/// # Errors
/// It is no TOML, or holds what it should not.
pub fn parse<S: SharedOptions, T>(
    file: &ConfigFile,
    read_device: impl Fn(Section<'_>) -> Result<T, config_file::Error>,
) -> Result<Config<S, T>, Error> {
    let mut root = file.root()?;
    let whole = root.places();
    let tables = root.take_tables(DEVICES)?;
    let shared = root.take(S::TABLES).read()?;
    let process = root.read()?;
    if tables.is_empty() {
        return Err(whole
            .fault(DEVICES, "there is no device: add a [[device]] table")
            .into());
    }
    let mut names = HashSet::new();
    let mut devices = Vec::new();
    for (at, mut table) in tables.into_iter().enumerate() {
        let places = table.places();
        let socket = table.take(&SOCKET_KEYS).read()?;
        let service = table.take(&SERVICE_KEYS).read()?;
        let name = name(&service, at + 1);
        if !names.insert(name.clone()) {
            let message = format!("two devices are named {name:?}: give each its own name");
            return Err(places.fault("name", message).into());
        }
        devices.push(DeviceSpec {
            name,
            socket,
            service,
            device: read_device(table)?,
            places,
        });
    }
    Ok(Config {
        process,
        shared,
        devices,
    })
}

/// The name of device `number`, counted from 1.
pub(crate) fn name(service: &ServiceSpec, number: usize) -> String {
    let name = service.name.clone();
    name.unwrap_or_else(|| format!("device{number}"))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

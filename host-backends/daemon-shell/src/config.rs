//! The config file: options of the process, then one `[[device]]` table per device.
//!
//! Rule: an unknown key is an error that names the device and the keys there are; nothing is skipped in silence.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::ProcessSpec;
use crate::ServiceSpec;
use crate::SocketSpec;

const SOCKET_KEYS: [&str; 4] = ["socket-path", "fd", "connect", "socket-mode"];
const SERVICE_KEYS: [&str; 2] = ["name", "poll"];
const DEVICES: &str = "device";

/// One device of a daemon: where it is found, how it is served, what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec<S> {
    /// Where its front-end finds it.
    pub socket: SocketSpec,
    /// How it is served.
    pub service: ServiceSpec,
    /// What it is.
    pub device: S,
}

/// Reads the config file at `path`.
///
/// # Errors
/// It cannot be read, is no TOML, or holds what it should not.
pub fn load<S: DeserializeOwned>(path: &Path) -> Result<(ProcessSpec, Vec<DeviceSpec<S>>), Error> {
    let (process, NoTables {}, devices) = load_with(path, &[])?;
    Ok((process, devices))
}

/// Reads the config file at `path`, in which `tables` have a meaning of their own, together an `E`.
///
/// # Errors
/// As [`load`].
pub fn load_with<S: DeserializeOwned, E: DeserializeOwned>(
    path: &Path,
    tables: &[&str],
) -> Result<(ProcessSpec, E, Vec<DeviceSpec<S>>), Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::ConfigRead {
        path: path.to_owned(),
        source,
    })?;
    parse_with(&text, path, tables)
}

/// Nothing beside process and devices.
#[derive(Deserialize)]
struct NoTables {}

/// Reads `text`, which came from `path`.
///
/// # Errors
/// As [`load`].
pub fn parse<S: DeserializeOwned>(
    text: &str,
    path: &Path,
) -> Result<(ProcessSpec, Vec<DeviceSpec<S>>), Error> {
    let (process, NoTables {}, devices) = parse_with(text, path, &[])?;
    Ok((process, devices))
}

/// Reads `text`, which came from `path`, with `tables` as for [`load_with`].
///
/// # Errors
/// As [`load`].
pub fn parse_with<S: DeserializeOwned, E: DeserializeOwned>(
    text: &str,
    path: &Path,
    tables: &[&str],
) -> Result<(ProcessSpec, E, Vec<DeviceSpec<S>>), Error> {
    let malformed = |source| Error::Config {
        path: path.to_owned(),
        source,
    };
    let mut file: toml::Table = toml::from_str(text).map_err(malformed)?;
    let devices = match file.remove(DEVICES) {
        None => Vec::new(),
        Some(devices) => Vec::<toml::Table>::deserialize(devices).map_err(malformed)?,
    };
    let mut own = toml::Table::new();
    for key in tables {
        own.extend(file.remove_entry(*key));
    }
    let own = E::deserialize(own).map_err(malformed)?;
    let process = ProcessSpec::deserialize(file).map_err(malformed)?;
    if devices.is_empty() {
        return Err(Error::ConfigDevice {
            path: path.to_owned(),
            device: "1".to_owned(),
            message: "there is none: add a [[device]] table".to_owned(),
        });
    }
    let devices: Result<Vec<_>, _> = devices
        .into_iter()
        .enumerate()
        .map(|(at, table)| device(table, at + 1, path))
        .collect();
    let devices = devices?;
    check_names(&devices, path)?;
    Ok((process, own, devices))
}

fn device<S: DeserializeOwned>(
    table: toml::Table,
    number: usize,
    path: &Path,
) -> Result<DeviceSpec<S>, Error> {
    let (mut socket, mut service, mut rest) =
        (toml::Table::new(), toml::Table::new(), toml::Table::new());
    for (key, value) in table {
        let part = match key.as_str() {
            key if SOCKET_KEYS.contains(&key) => &mut socket,
            key if SERVICE_KEYS.contains(&key) => &mut service,
            _ => &mut rest,
        };
        part.insert(key, value);
    }
    let fail = |source: toml::de::Error| Error::ConfigDevice {
        path: path.to_owned(),
        device: number.to_string(),
        message: source.message().to_owned(),
    };
    let mut service: ServiceSpec = service.try_into().map_err(fail)?;
    service
        .name
        .get_or_insert_with(|| format!("device{number}"));
    Ok(DeviceSpec {
        socket: socket.try_into().map_err(fail)?,
        service,
        device: rest.try_into().map_err(fail)?,
    })
}

fn check_names<S>(devices: &[DeviceSpec<S>], path: &Path) -> Result<(), Error> {
    let mut names = std::collections::HashSet::new();
    for device in devices {
        let name = device.service.name.clone().unwrap_or_default();
        if !names.insert(name.clone()) {
            return Err(Error::ConfigDevice {
                path: path.to_owned(),
                device: name,
                message: "two devices have this name: give each its own".to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

//! A learning switch between the ports of one process.
//!
//! Rule: the sender's worker carries a frame to its end; the switch has no thread of its own but that of its uplink.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;

use crate::Error;
use crate::port::Core;
use crate::published::Published;
use crate::published::lock;

/// Most ports of a switch, its uplink included.
pub const MAX_PORTS: usize = 256;

/// Where a port is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortNumber(u16);

/// All switches of a process, by name.
#[derive(Debug, Default)]
pub struct Fabric {
    switches: Mutex<HashMap<String, Arc<Switch>>>,
}

impl Fabric {
    /// The switch of this name; it is made when it is named first.
    pub fn switch(&self, name: &str) -> Arc<Switch> {
        let mut switches = lock(&self.switches);
        let made = || Arc::new(Switch::new(name));
        Arc::clone(switches.entry(name.to_owned()).or_insert_with(made))
    }
}

/// One switch.
#[derive(Debug)]
pub struct Switch {
    name: String,
    ports: Published<Vec<Option<Arc<Core>>>>,
}

impl Switch {
    /// A switch without ports.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ports: Published::new(Vec::new()),
        }
    }

    /// The switch's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn plug(&self, port: &Arc<Core>) -> Result<PortNumber, Error> {
        self.ports.update(|ports| {
            let free = ports.iter().position(Option::is_none);
            let at = free.unwrap_or(ports.len());
            let number = u16::try_from(at).ok().filter(|_| at < MAX_PORTS);
            let number = number.ok_or_else(|| Error::SwitchFull {
                switch: self.name.clone(),
                max: MAX_PORTS,
            })?;
            if at == ports.len() {
                ports.push(None);
            }
            if let Some(place) = ports.get_mut(at) {
                *place = Some(Arc::clone(port));
            }
            Ok(PortNumber(number))
        })
    }

    pub(crate) fn unplug(&self, number: PortNumber) {
        self.ports.update(|ports| {
            if let Some(place) = ports.get_mut(usize::from(number.0)) {
                *place = None;
            }
        });
    }
}

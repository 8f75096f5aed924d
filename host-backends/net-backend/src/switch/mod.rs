//! A learning switch between the ports of one process.
//!
//! Rule: the sender's worker carries a frame to its end; the switch has no thread of its own but that of its uplink.

mod sender;
mod table;
mod uplink;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use net_link::Link;

use crate::Error;
use crate::port::Core;
use crate::published::Published;
use crate::published::lock;
use crate::switch::table::Address;
use crate::switch::table::Table;
use crate::switch::uplink::Uplink;

pub(crate) use sender::Sender;

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

    /// All switches, by name.
    pub fn switches(&self) -> Vec<Arc<Switch>> {
        let mut all: Vec<_> = lock(&self.switches).values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// What is behind a port.
#[derive(Clone, Debug)]
enum Station {
    Card(Arc<Core>),
    Uplink(Arc<Uplink>),
}

/// What is plugged in, at one moment.
#[derive(Clone, Debug, Default)]
struct Ports {
    list: Vec<Option<Station>>,
    /// Configured addresses: never learned elsewhere.
    pinned: HashMap<Address, u16>,
}

/// One switch.
#[derive(Debug)]
pub struct Switch {
    name: String,
    ports: Published<Ports>,
    table: Table,
    uplinks: Mutex<Vec<(PortNumber, Arc<Uplink>)>>,
    start: Instant,
}

impl Switch {
    /// A switch without ports.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ports: Published::new(Ports::default()),
            table: Table::new(),
            uplinks: Mutex::default(),
            start: Instant::now(),
        }
    }

    /// The switch's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Stations that were learned.
    pub fn stations(&self) -> usize {
        self.table.len()
    }

    /// Seconds since the switch was made.
    fn now(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    pub(crate) fn plug(&self, port: &Arc<Core>) -> Result<PortNumber, Error> {
        let address = Address::new(port.state.get().receive.mac.0);
        self.add(Station::Card(Arc::clone(port)), Some(address))
    }

    /// Gives the switch a way out of the process, once per link; [`Self::start`] follows.
    ///
    /// # Errors
    /// The switch is full, or the link refuses.
    pub fn add_uplink(&self, link: Box<dyn Link>) -> Result<(), Error> {
        let uplink = Arc::new(Uplink::new(link)?);
        let number = self.add(Station::Uplink(Arc::clone(&uplink)), None)?;
        lock(&self.uplinks).push((number, uplink));
        Ok(())
    }

    /// Starts the threads of the uplinks.
    ///
    /// # Errors
    /// No thread or memory is to be had.
    pub fn start(self: &Arc<Self>) -> Result<(), Error> {
        for (number, uplink) in lock(&self.uplinks).iter() {
            uplink.start(&self.name, Sender::new(self, *number, 0))?;
        }
        Ok(())
    }

    /// Ends the threads of the uplinks soon.
    pub fn stop(&self) {
        for (_, uplink) in lock(&self.uplinks).iter() {
            uplink.stop();
        }
    }

    /// Frames that left by the uplinks, and that came in by them.
    pub fn uplink_frames(&self) -> (u64, u64) {
        let uplinks = lock(&self.uplinks);
        uplinks.iter().fold((0, 0), |(out, inward), (_, uplink)| {
            let (more_out, more_in) = uplink.frames();
            (out + more_out, inward + more_in)
        })
    }

    fn add(&self, station: Station, address: Option<Address>) -> Result<PortNumber, Error> {
        self.ports.update(|ports| {
            let free = ports.list.iter().position(Option::is_none);
            let at = free.unwrap_or(ports.list.len());
            let number = u16::try_from(at).ok().filter(|_| at < MAX_PORTS);
            let number = number.ok_or_else(|| Error::SwitchFull {
                switch: self.name.clone(),
                max: MAX_PORTS,
            })?;
            if at == ports.list.len() {
                ports.list.push(None);
            }
            if let Some(place) = ports.list.get_mut(at) {
                *place = Some(station);
            }
            if let Some(address) = address {
                ports.pinned.entry(address).or_insert(number);
            }
            Ok(PortNumber(number))
        })
    }

    pub(crate) fn unplug(&self, number: PortNumber) {
        self.ports.update(|ports| {
            if let Some(place) = ports.list.get_mut(usize::from(number.0)) {
                *place = None;
            }
            ports.pinned.retain(|_, port| *port != number.0);
        });
        self.table.forget(number.0);
    }
}

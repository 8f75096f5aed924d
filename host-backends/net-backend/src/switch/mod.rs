//! A learning switch between the ports of one process.
//!
//! Rule: the sender's worker carries a frame to its end; the switch has no thread of its own but that of its uplink.

mod claims;
mod sender;
mod table;
mod uplink;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use host_os::sync::lock;
use net_link::Interface;
use net_link::Link;

use crate::ConditionKind;
use crate::Error;
use crate::MacAddress;
use crate::port::Core;
use crate::published::Published;
use crate::switch::claims::Claims;
use crate::switch::claims::Verdict;
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
    claims: Claims,
}

impl Ports {
    /// What a port is called in messages.
    fn name(&self, number: u16) -> String {
        match self.list.get(usize::from(number)) {
            Some(Some(Station::Card(card))) => card.name.clone(),
            Some(Some(Station::Uplink(_))) => "a station behind the uplink".to_owned(),
            _ => "a port that is gone".to_owned(),
        }
    }
}

/// One switch.
#[derive(Debug)]
pub struct Switch {
    name: String,
    ports: Published<Ports>,
    table: Table,
    uplinks: Mutex<Vec<(PortNumber, Arc<Uplink>)>>,
    /// What is behind the first uplink.
    interface: Mutex<Option<Arc<Interface>>>,
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
            interface: Mutex::default(),
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
        let interface = link.interface();
        let uplink = Arc::new(Uplink::new(link)?);
        let number = self.add(Station::Uplink(Arc::clone(&uplink)), None)?;
        lock(&self.uplinks).push((number, uplink));
        let mut first = lock(&self.interface);
        *first = first.take().or(interface);
        Ok(())
    }

    /// The interface behind the first uplink that has one.
    pub fn interface(&self) -> Option<Arc<Interface>> {
        lock(&self.interface).clone()
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

    /// Frames that came in by the uplinks and were for nobody in here.
    #[cfg(test)]
    pub(crate) fn uplink_nowhere(&self) -> u64 {
        let uplinks = lock(&self.uplinks);
        uplinks.iter().map(|(_, uplink)| uplink.nowhere()).sum()
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
            if let Some(address) = address
                && let Err(other) = ports.claims.configure(address, number)
            {
                return Err(Error::AddressTaken {
                    mac: address.into(),
                    port: ports.name(other),
                });
            }
            if at == ports.list.len() {
                ports.list.push(None);
            }
            if let Some(place) = ports.list.get_mut(at) {
                *place = Some(station);
            }
            Ok(PortNumber(number))
        })
    }

    /// The driver of `number` says that it has this address; nobody takes it over from now on.
    ///
    /// # Errors
    /// It is another port's, which was told.
    pub(crate) fn hold(&self, number: PortNumber, mac: MacAddress) -> Result<(), Error> {
        let (address, port) = (Address::new(mac.0), number.0);
        let heard = self.table.port(address, self.now());
        let held = self.ports.update(|ports| {
            let may = ports.may_hold(address, port, heard);
            may.and_then(|()| ports.claims.hold(address, port))
        });
        held.map_err(|other| {
            self.collided(&self.ports.get(), address, port, other);
            Error::AddressTaken {
                mac,
                port: self.ports.get().name(other),
            }
        })
    }

    /// The front-end of `number` says that a guest with this address has come here, from elsewhere most likely.
    pub(crate) fn arrived(&self, number: PortNumber, mac: MacAddress) {
        let address = Address::new(mac.0);
        let held = |ports: &mut Ports| ports.claims.hold(address, number.0).is_ok();
        if self.ports.update(held) {
            self.table.learn(address, number.0, self.now());
        }
    }

    /// The guest of `number` is gone, and what it held with it.
    pub(crate) fn release(&self, number: PortNumber) {
        self.ports.update(|ports| ports.claims.release(number.0));
        self.table.forget(number.0);
    }

    /// Acts on a verdict about a frame's source. The sender's view of the claims may be old: what was decided since counts.
    #[cold]
    fn claim(&self, source: Address, number: u16, verdict: Verdict) {
        self.ports.update(|ports| match verdict {
            Verdict::Displace => {
                if let Some(holder) = ports.claims.port(source) {
                    self.collided(ports, source, number, holder);
                    ports.claims.release(holder);
                }
            }
            _ if !ports.claims.holds(number) => {
                let _ = ports.claims.hold(source, number);
            }
            _ => {}
        });
    }

    /// Port `number` sends from an address that is `holder`'s: said of both.
    #[cold]
    fn collided(&self, ports: &Ports, address: Address, number: u16, holder: u16) {
        let mac = MacAddress::from(address);
        let mend = "each guest needs an address of its own: `mac=` at its virtual machine monitor, \
                    which may give every first card the same";
        let switch = &self.name;
        let (sender, owner) = (ports.name(number), ports.name(holder));
        if let Some(Some(Station::Card(card))) = ports.list.get(usize::from(number)) {
            card.conditions.raise(ConditionKind::AddressInUse, || {
                format!("It sends from {mac}, which on switch {switch} is the address of {owner}, and gets no answers: {mend}")
            });
        }
        if let Some(Some(Station::Card(card))) = ports.list.get(usize::from(holder)) {
            card.conditions.raise(ConditionKind::AddressInUse, || {
                format!("Its address {mac} is used by {sender} too on switch {switch}, which gets nothing for it: {mend}")
            });
        }
    }

    pub(crate) fn unplug(&self, number: PortNumber) {
        self.ports.update(|ports| {
            if let Some(place) = ports.list.get_mut(usize::from(number.0)) {
                *place = None;
            }
            ports.claims.forget(number.0);
        });
        self.table.forget(number.0);
    }
}

//! Which port an address belongs to, beyond what was heard: what the operator configured, and what a guest holds.
//!
//! Rules, the strongest first:
//! - a configured address is its port's, whoever sends from it;
//! - a station that was heard of behind an uplink, the gateway above all, stays there for as long as it is known,
//!   whatever guests send;
//! - the address that a guest's driver sets (CTRL_MAC_ADDR_SET), or else the first that it sends from, is its port's
//!   until its driver is reset; no other guest can take it over;
//! - any further address is where it was heard of last.
//!
//! What comes in by an uplink may be a guest's own broadcast that something outside gives back. So an address that was
//! heard of at a card is moved to an uplink only by a frame that cannot be that: one to a station behind another card.

use std::collections::HashMap;

use crate::switch::Ports;
use crate::switch::Station;
use crate::switch::table::Address;

/// Why an address is a port's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// Its driver said so, or it was the first to send from it.
    Guest,
    /// The operator said so.
    Operator,
}

/// Addresses that belong to ports.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    by_address: HashMap<Address, (u16, Right)>,
    /// The one address of each port that its guest holds.
    by_guest: HashMap<u16, Address>,
}

/// What is to be done about a frame's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is behind the sender.
    Learn,
    /// It is the sender's from now on.
    Claim,
    /// It was another port's, and is the sender's from now on.
    Displace,
    /// It is this port's.
    Refuse(u16),
    /// It may be a frame that came back.
    Ignore,
}

impl Claims {
    /// Whose an address is.
    #[inline]
    pub fn port(&self, address: Address) -> Option<u16> {
        self.by_address.get(&address).map(|(port, _)| *port)
    }

    /// `address` is `port`'s by configuration; the port that has it already otherwise.
    pub fn configure(&mut self, address: Address, port: u16) -> Result<(), u16> {
        match self.by_address.get(&address) {
            Some((other, Right::Operator)) if *other != port => Err(*other),
            _ => {
                self.by_address.insert(address, (port, Right::Operator));
                Ok(())
            }
        }
    }

    /// The guest of `port` holds `address`, instead of what it held before; the port whose it is otherwise.
    pub fn hold(&mut self, address: Address, port: u16) -> Result<(), u16> {
        match self.by_address.get(&address) {
            Some((other, _)) if *other != port => return Err(*other),
            Some(_) => {}
            None => {
                self.by_address.insert(address, (port, Right::Guest));
            }
        }
        let before = self.by_guest.insert(port, address);
        if let Some(before) = before.filter(|before| *before != address) {
            self.release_address(before, port);
        }
        Ok(())
    }

    /// Whether the guest of `port` holds an address.
    pub fn holds(&self, port: u16) -> bool {
        self.by_guest.contains_key(&port)
    }

    fn release_address(&mut self, address: Address, port: u16) {
        if self.by_address.get(&address) == Some(&(port, Right::Guest)) {
            self.by_address.remove(&address);
        }
    }

    /// The guest of `port` is gone, or what it held is another's.
    pub fn release(&mut self, port: u16) {
        if let Some(address) = self.by_guest.remove(&port) {
            self.release_address(address, port);
        }
    }

    /// `port` itself is gone.
    pub fn forget(&mut self, port: u16) {
        self.by_guest.remove(&port);
        self.by_address.retain(|_, (holder, _)| *holder != port);
    }
}

impl Ports {
    fn is_uplink(&self, port: u16) -> bool {
        let station = self.list.get(usize::from(port));
        matches!(station, Some(Some(Station::Uplink(_))))
    }

    fn is_card(&self, port: u16) -> bool {
        let station = self.list.get(usize::from(port));
        matches!(station, Some(Some(Station::Card(_))))
    }

    /// A frame from `source` came in at `sender`, for a station behind port `to`; `heard` is where the source was heard of
    /// last.
    pub(super) fn judge(
        &self,
        source: Address,
        sender: u16,
        to: u16,
        heard: Option<u16>,
    ) -> Verdict {
        let owner = self.claims.by_address.get(&source).copied();
        if self.is_uplink(sender) {
            let comes_back = !self.is_card(to);
            return match (owner, heard) {
                (Some(_), _) if comes_back => Verdict::Ignore,
                (Some((owner, Right::Operator)), _) => Verdict::Refuse(owner),
                (Some((_, Right::Guest)), _) => Verdict::Displace,
                (None, Some(port)) if self.is_card(port) && comes_back => Verdict::Ignore,
                (None, _) => Verdict::Learn,
            };
        }
        match (owner, heard) {
            (Some((owner, _)), _) if owner != sender => Verdict::Refuse(owner),
            (Some(_), _) => Verdict::Learn,
            (None, Some(port)) if self.is_uplink(port) => Verdict::Refuse(port),
            (None, _) if self.claims.holds(sender) => Verdict::Learn,
            (None, _) => Verdict::Claim,
        }
    }

    /// Whether a guest of `port` may say that it has `address`; the port whose it is if not.
    pub(super) fn may_hold(
        &self,
        address: Address,
        port: u16,
        heard: Option<u16>,
    ) -> Result<(), u16> {
        match (self.claims.port(address), heard) {
            (Some(owner), _) if owner != port => Err(owner),
            (None, Some(heard)) if self.is_uplink(heard) => Err(heard),
            _ => Ok(()),
        }
    }
}

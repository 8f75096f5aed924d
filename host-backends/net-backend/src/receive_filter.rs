//! Which received frames the driver wants (virtio 1.4 sec. 5.1.6.5.1 to 5.1.6.5.3): receive modes, addresses, VLANs.
//!
//! Rule: until the first command of its kind everything is wanted, for a front-end may keep the control queue to itself
//! and filter there.

use crate::MacAddress;

/// Most addresses of each kind that are kept; a longer table admits all addresses of its kind.
pub const MAX_ADDRESSES: usize = 64;
/// VLAN ids.
pub const VLANS: u16 = 4096;

/// The receive modes, each a command of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Everything.
    pub promiscuous: bool,
    /// All group addresses.
    pub all_multicast: bool,
    /// All station addresses.
    pub all_unicast: bool,
    /// No group addresses but the broadcast address.
    pub no_multicast: bool,
    /// No station addresses.
    pub no_unicast: bool,
    /// No broadcasts.
    pub no_broadcast: bool,
}

/// One kind of address of the MAC table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressTable {
    /// Sorted.
    addresses: Vec<MacAddress>,
    overflow: bool,
}

impl AddressTable {
    /// A table of `addresses`.
    pub fn new(mut addresses: Vec<MacAddress>) -> Self {
        if addresses.len() > MAX_ADDRESSES {
            return Self {
                addresses: Vec::new(),
                overflow: true,
            };
        }
        addresses.sort_unstable_by_key(|address| address.0);
        Self {
            addresses,
            overflow: false,
        }
    }

    fn admits(&self, address: MacAddress) -> bool {
        self.overflow
            || self
                .addresses
                .binary_search_by_key(&address.0, |known| known.0)
                .is_ok()
    }
}

/// The whole filter; changed by making a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveFilter {
    /// The interface's own address.
    pub mac: MacAddress,
    /// The modes.
    pub modes: Modes,
    /// Stations beside `mac`.
    pub unicast: AddressTable,
    /// Groups.
    pub multicast: AddressTable,
    /// A bit per VLAN id; none means that VLANs are not filtered.
    vlans: Option<Box<[u64; 64]>>,
}

impl ReceiveFilter {
    /// Everything passes.
    pub fn open(mac: MacAddress) -> Self {
        Self {
            mac,
            modes: Modes {
                promiscuous: true,
                ..Modes::default()
            },
            unicast: AddressTable::default(),
            multicast: AddressTable::default(),
            vlans: None,
        }
    }

    /// Whether no frame would be refused, so that none needs to be looked at.
    pub fn is_open(&self) -> bool {
        self.modes.promiscuous && self.vlans.is_none()
    }

    /// Filters VLANs from now on; none is in the table at first.
    pub fn filter_vlans(&mut self) {
        self.vlans.get_or_insert_with(|| Box::new([0; 64]));
    }

    /// Adds VLAN `id` to the table or takes it out; ids past the last are ignored.
    pub fn set_vlan(&mut self, id: u16, wanted: bool) {
        self.filter_vlans();
        let words = self.vlans.as_mut().map(|words| words.as_mut_slice());
        if let Some(word) = words.and_then(|words| words.get_mut(usize::from(id / 64))) {
            let bit = 1 << (id % 64);
            *word = if wanted { *word | bit } else { *word & !bit };
        }
    }

    /// Whether the driver wants the frame that begins with `head`, at least its Ethernet header and tag.
    pub fn admits(&self, head: &[u8]) -> bool {
        let Some(to) = head.first_chunk().copied().map(MacAddress) else {
            return false;
        };
        self.admits_vlan(head) && (self.modes.promiscuous || self.admits_address(to))
    }

    fn admits_vlan(&self, head: &[u8]) -> bool {
        let Some(words) = &self.vlans else {
            return true;
        };
        match head.get(12..16) {
            Some(&[0x81, 0x00, high, low]) => {
                let id = u16::from_be_bytes([high & 15, low]);
                let word = words.get(usize::from(id / 64)).copied().unwrap_or(0);
                // Tag 0 is a priority without a VLAN.
                id == 0 || word & 1 << (id % 64) != 0
            }
            _ => true,
        }
    }

    fn admits_address(&self, to: MacAddress) -> bool {
        let modes = &self.modes;
        if to == MacAddress::BROADCAST {
            !modes.no_broadcast
        } else if to.is_multicast() {
            !modes.no_multicast && (modes.all_multicast || self.multicast.admits(to))
        } else {
            !modes.no_unicast && (modes.all_unicast || to == self.mac || self.unicast.admits(to))
        }
    }
}

//! What a guest may say it is: checks of the frames it sends against its own addresses.
//!
//! Rule: looks only at bytes that we own, and those are what is delivered; a frame that cannot be understood is not
//! its own.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use crate::MacAddress;
use crate::frame;
use crate::frame::Fragment;
use crate::frame::Ip;
use crate::frame::be16;
use crate::frame::ethertype;
use crate::frame::field;
use crate::frame::protocol;

const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const MLD_REPORT: u8 = 131;
const MLD2_REPORT: u8 = 143;
const NDP_ROUTER_SOLICITATION: u8 = 133;
const NDP_ROUTER_ADVERTISEMENT: u8 = 134;
const NDP_NEIGHBOUR_SOLICITATION: u8 = 135;
const NDP_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const NDP_REDIRECT: u8 = 137;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const DHCP_CLIENT: u16 = 68;
const DHCP_SERVER: u16 = 67;

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoof {
    /// The Ethernet source, or an address of hardware inside ARP or neighbour discovery, is another's.
    Mac,
    /// The IP source, or an address that ARP or neighbour discovery claims, is another's.
    Ip,
    /// Headers cut short, wrong lengths, more VLAN tags than two, neighbour discovery in fragments.
    Malformed,
    /// Neither IP nor ARP, where only listed addresses may be used; or what only routers say.
    Forbidden,
}

/// The addresses that one guest may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    mac: MacAddress,
    /// Empty: any.
    addresses: Vec<IpAddr>,
    /// The IPv6 address that the guest may always have: made from `mac` (RFC 4291, appendix A).
    link_local: Ipv6Addr,
}

impl Filter {
    /// Lets through what comes from `mac` and, unless `addresses` is empty, from one of `addresses`. With addresses,
    /// DHCP, duplicate address detection and the link-local address made from `mac` work as well; any other
    /// link-local address has to be listed.
    pub fn new(mac: MacAddress, addresses: Vec<IpAddr>) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        let link_local = [
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ];
        Self {
            mac,
            addresses,
            link_local: link_local.into(),
        }
    }

    /// The address that the guest is held to.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// Looks at a frame that the guest sends. `head` is its start: the whole frame or at least
    /// [`crate::HEAD_BYTES`] of it.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn check(&self, head: &[u8]) -> Result<(), Spoof> {
        let source: [u8; 6] = field(head, 6).ok_or(Spoof::Malformed)?;
        let ethernet = frame::ethernet(head).ok_or(Spoof::Malformed)?;
        if source != self.mac.0 {
            return Err(Spoof::Mac);
        }
        match ethernet.ethertype {
            ethertype::ARP => self.arp(head, ethernet.network),
            ethertype::RARP => self.rarp(head, ethernet.network),
            _ if self.addresses.is_empty() && ethernet.ethertype != ethertype::IPV6 => Ok(()),
            ethertype::IPV4 => {
                let ip = ethernet.ip(head).ok_or(Spoof::Malformed)?;
                self.ipv4(head, &ip)
            }
            ethertype::IPV6 => {
                let ip = ethernet.ip(head).ok_or(Spoof::Malformed)?;
                self.ipv6(head, &ip)
            }
            _ => Err(Spoof::Forbidden),
        }
    }

    /// What [`Self::check`] refused, in words with the mend. `some_passed`: not all of the guest's frames are.
    pub(crate) fn explain(&self, spoof: Spoof, head: &[u8], some_passed: bool) -> String {
        let own = self.mac;
        let source = MacAddress(field(head, 6).unwrap_or_default());
        let which = if some_passed {
            "Frames that the guest sends"
        } else {
            "All frames that the guest sends"
        };
        if source != own && spoof == Spoof::Mac {
            return format!(
                "{which} are dropped by `mac-filter`: they are from {source}, and this card's address is {own}. If the \
                 guest's card has {source}, give both the same: `mac = {source}` here, or `mac={own}` at the virtual \
                 machine monitor; if it sends for others too, `mac-filter = false`"
            );
        }
        let what = match spoof {
            Spoof::Mac => "they claim another's Ethernet address in ARP or neighbour discovery",
            Spoof::Ip => "their IP address is not in `allow-ip`",
            Spoof::Malformed => "their headers are malformed",
            Spoof::Forbidden => {
                "they are no IP or ARP, which `allow-ip` leaves nothing of, or speak as a router"
            }
        };
        format!("{which} from {source} are dropped by the address filter: {what}")
    }

    fn own_ip(&self, address: impl Into<IpAddr>) -> Result<(), Spoof> {
        let address = address.into();
        let own = self.addresses.is_empty()
            || self.addresses.contains(&address)
            || address == IpAddr::V6(self.link_local);
        if own { Ok(()) } else { Err(Spoof::Ip) }
    }

    fn own_mac(&self, address: Option<[u8; 6]>) -> Result<(), Spoof> {
        match address {
            None => Err(Spoof::Malformed),
            Some(address) if address == self.mac.0 => Ok(()),
            Some(_) => Err(Spoof::Mac),
        }
    }

    /// Requests and answers alike: the sender is the guest. A probe (RFC 5227) has no sender address yet, but asks for
    /// the one that it is about to use.
    fn arp(&self, head: &[u8], at: usize) -> Result<(), Spoof> {
        let kind: [u8; 6] = field(head, at).ok_or(Spoof::Malformed)?;
        if kind != ARP_ETHERNET_IPV4 {
            return Err(Spoof::Malformed);
        }
        self.own_mac(field(head, at + 8))?;
        let sender: [u8; 4] = field(head, at + 14).ok_or(Spoof::Malformed)?;
        let target: [u8; 4] = field(head, at + 24).ok_or(Spoof::Malformed)?;
        let sender = Ipv4Addr::from(sender);
        if sender.is_unspecified() {
            return self.own_ip(Ipv4Addr::from(target));
        }
        self.own_ip(sender)
    }

    /// Only what announces the guest after it moved: both hardware addresses are its own.
    fn rarp(&self, head: &[u8], at: usize) -> Result<(), Spoof> {
        let kind: [u8; 6] = field(head, at).ok_or(Spoof::Malformed)?;
        if kind != ARP_ETHERNET_IPV4 {
            return Err(Spoof::Malformed);
        }
        field::<4>(head, at + 24).ok_or(Spoof::Malformed)?;
        self.own_mac(field(head, at + 8))?;
        self.own_mac(field(head, at + 18))
    }

    fn ipv4(&self, head: &[u8], ip: &Ip) -> Result<(), Spoof> {
        let source: [u8; 4] = field(head, ip.network + 12).ok_or(Spoof::Malformed)?;
        let source = Ipv4Addr::from(source);
        if source.is_unspecified() && is_dhcp(head, ip) {
            return Ok(());
        }
        self.own_ip(source)
    }

    fn ipv6(&self, head: &[u8], ip: &Ip) -> Result<(), Spoof> {
        let source: [u8; 16] = field(head, ip.network + 8).ok_or(Spoof::Malformed)?;
        let source = Ipv6Addr::from(source);
        let kind = message_kind(head, ip)?;
        if source.is_unspecified() {
            // Duplicate address detection, looking for routers, and reports of groups.
            return match kind {
                Some(NDP_NEIGHBOUR_SOLICITATION) => self.target(head, ip),
                Some(NDP_ROUTER_SOLICITATION | MLD_REPORT | MLD2_REPORT) => Ok(()),
                _ if self.addresses.is_empty() => Ok(()),
                _ => Err(Spoof::Ip),
            };
        }
        self.own_ip(source)?;
        // Where the options begin, and which of them has the sender's hardware address.
        let (options, own) = match kind {
            Some(NDP_ROUTER_ADVERTISEMENT | NDP_REDIRECT) if !self.addresses.is_empty() => {
                return Err(Spoof::Forbidden);
            }
            Some(NDP_ROUTER_SOLICITATION) => (8, OPTION_SOURCE),
            Some(NDP_ROUTER_ADVERTISEMENT) => (16, OPTION_SOURCE),
            Some(NDP_NEIGHBOUR_SOLICITATION) => (24, OPTION_SOURCE),
            Some(NDP_NEIGHBOUR_ADVERTISEMENT) => {
                self.target(head, ip)?;
                (24, OPTION_TARGET)
            }
            _ => return Ok(()),
        };
        self.options(head, ip.transport + options, ip.end, own)
    }

    /// The address that a neighbour message is about is the guest's own.
    fn target(&self, head: &[u8], ip: &Ip) -> Result<(), Spoof> {
        let target: [u8; 16] = field(head, ip.transport + 8).ok_or(Spoof::Malformed)?;
        self.own_ip(Ipv6Addr::from(target))
    }

    /// Hardware addresses among the options of neighbour discovery are the guest's own.
    fn options(&self, head: &[u8], from: usize, end: usize, wanted: u8) -> Result<(), Spoof> {
        let mut at = from;
        // An option has 8 bytes at least, so this ends.
        while at < end {
            let [kind, units] = field(head, at).ok_or(Spoof::Malformed)?;
            if units == 0 {
                return Err(Spoof::Malformed);
            }
            if kind == wanted {
                self.own_mac(field(head, at + 2))?;
            }
            at += usize::from(units) * 8;
        }
        Ok(())
    }
}

/// The type of an ICMPv6 message. RFC 6980: neighbour discovery in fragments is ignored, so nothing can hide in later
/// ones as long as every first one has its header.
fn message_kind(head: &[u8], ip: &Ip) -> Result<Option<u8>, Spoof> {
    if ip.protocol != protocol::ICMPV6 || ip.fragment == Fragment::Later {
        return Ok(None);
    }
    let [kind] = field(head, ip.transport).ok_or(Spoof::Malformed)?;
    let discovery = (NDP_ROUTER_SOLICITATION..=NDP_REDIRECT).contains(&kind);
    if ip.transport >= ip.end || discovery && ip.fragment != Fragment::Whole {
        return Err(Spoof::Malformed);
    }
    Ok(Some(kind))
}

/// A client that has no address yet, asking everybody.
fn is_dhcp(head: &[u8], ip: &Ip) -> bool {
    ip.protocol == protocol::UDP
        && ip.fragment == Fragment::Whole
        && be16(head, ip.transport) == Some(DHCP_CLIENT)
        && be16(head, ip.transport + 2) == Some(DHCP_SERVER)
}

#[cfg(test)]
mod tests;

//! A packet socket on an interface of the host: the guest shares the wire with its own Ethernet address.
//!
//! Rule: the host itself is not reached over it, as with any second address on one wire; for that there are TAP
//! interfaces. One queue pair: the sockets of a fanout group cannot leave it while the guest uses fewer.
//!
//! Frames come as the interface has them, and an interface may join received TCP segments to large ones. A guest that
//! does not accept those (any Linux does) needs `ethtool -K INTERFACE gro off`; until then they are dropped.
//!
//! A frame costs here 1.2 (64 KiB) to 1.9 times (small ones) the CPU time that it costs through a TAP interface
//! (`cargo bench -p net-link`): where both will do, use TAP.

mod link;
mod sys;

use std::io;

use crate::Error;
use crate::Interface;
use crate::Link;
use crate::tap::check_pairs;
use link::PacketLink;

/// Opens the interface.
pub(crate) fn open(interface: &str, pairs: u16) -> Result<Vec<Box<dyn Link>>, Error> {
    let link = format!("packet:{interface}");
    check_pairs(&link, 1, pairs)?;
    let index = crate::tap::sys::interface_index(interface).map_err(|source| {
        let mend = "ip link";
        match source.raw_os_error() {
            Some(libc::ENODEV) => Error::NoSuchInterface {
                name: interface.to_owned(),
                mend,
            },
            _ => Error::Open {
                link: link.clone(),
                source,
            },
        }
    })?;
    let host = Interface::new(interface)?;
    host.check_ethernet()?;
    let socket = sys::open(index).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => Error::PacketPermission {
            name: interface.to_owned(),
        },
        _ => Error::Open { link, source },
    })?;
    Ok(vec![Box::new(PacketLink::new(socket, host)?)])
}

//! What the host says of the network interface behind a link.
//!
//! Rule: asked anew each time, for the host may change it while we run.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use crate::Error;
use crate::tap::sys;

/// ARPHRD_RAWIP of linux/if_arp.h.
const RAW_IP: u16 = 519;

/// A network interface of the host, by its name.
#[derive(Debug)]
pub struct Interface {
    name: String,
    /// Any socket of its network namespace will do.
    socket: UnixDatagram,
}

impl Interface {
    pub(crate) fn new(name: &str) -> Result<Self, Error> {
        let socket = UnixDatagram::unbound().map_err(|source| Error::System {
            call: "socket",
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            socket,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its MTU in bytes; `None` when it is gone.
    pub fn mtu(&self) -> Option<u32> {
        sys::interface_mtu(self.socket.as_fd(), &self.name).ok()
    }

    /// Whether the operator has it up; `None` when it is gone.
    pub fn is_up(&self) -> Option<bool> {
        sys::interface_is_up(self.socket.as_fd(), &self.name).ok()
    }

    /// Refuses an interface whose frames have no Ethernet header.
    pub(crate) fn check_ethernet(&self) -> Result<(), Error> {
        let kind = sys::interface_hardware(self.socket.as_fd(), &self.name);
        let kind = kind.map_err(|errno| Error::Open {
            link: self.name.clone(),
            source: io::Error::from(errno),
        })?;
        let what = match kind {
            libc::ARPHRD_ETHER => return Ok(()),
            libc::ARPHRD_LOOPBACK => "the host's loopback".to_owned(),
            libc::ARPHRD_NONE => {
                "a TUN interface or a tunnel, which has IP packets only".to_owned()
            }
            libc::ARPHRD_PPP => "a PPP interface, which has IP packets only".to_owned(),
            RAW_IP => "a modem, which has IP packets only".to_owned(),
            other => format!("of hardware type {other} (linux/if_arp.h)"),
        };
        Err(Error::NotEthernet {
            name: self.name.clone(),
            what,
        })
    }
}

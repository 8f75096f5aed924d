//! TAP interfaces: opening their queues, and what to tell the user when that fails.
//!
//! Rule: an interface is used, never made: a mistyped name must not leave a new interface behind.

mod link;
pub(crate) mod sys;

use std::fs::File;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;

use crate::Error;
use crate::HEADER_BYTES;
use crate::Interface;
use crate::Link;
use crate::LinkSpec;
use crate::TapSpec;
use link::TapLink;

/// Most queues of a TAP interface (MAX_TAP_QUEUES).
pub(crate) const MAX_QUEUES: u16 = 256;
const DEVICE: &str = "/dev/net/tun";
const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Opens `pairs` queues of the interface.
pub(crate) fn open(spec: &TapSpec, pairs: u16) -> Result<Vec<Box<dyn Link>>, Error> {
    let pairs = pairs.max(1);
    check_pairs(&format!("tap:{}", spec.name), MAX_QUEUES, pairs)?;
    if !sys::interface_exists(&spec.name) {
        return Err(Error::NoInterface {
            name: spec.name.clone(),
            mend: make_line(&spec.name),
        });
    }
    let interface = Arc::new(Interface::new(&spec.name)?);
    interface.check_ethernet()?;
    let mut links: Vec<Box<dyn Link>> = Vec::with_capacity(usize::from(pairs));
    for queue in 0..pairs {
        let file = open_queue(&spec.name, pairs, queue)?;
        let interface = Some(Arc::clone(&interface));
        links.push(Box::new(TapLink::new(file, pairs > 1, interface)?));
    }
    Ok(links)
}

/// Uses descriptors that somebody else opened, one per queue.
pub(crate) fn adopt(files: Vec<OwnedFd>, spec: &LinkSpec) -> Result<Vec<Box<dyn Link>>, Error> {
    let several = files.len() > 1;
    let mut links: Vec<Box<dyn Link>> = Vec::with_capacity(files.len());
    for file in files {
        let file = File::from(file);
        let wrong = |what| Error::Descriptor {
            link: spec.to_string(),
            what,
        };
        let flags =
            sys::interface_flags(&file).map_err(|_| wrong("no TAP interface and no socket"))?;
        if flags & libc::IFF_TAP == 0 {
            return Err(wrong("a TUN interface, which has no Ethernet frames"));
        }
        if flags & libc::IFF_VNET_HDR == 0 {
            return Err(wrong("a TAP interface opened without IFF_VNET_HDR"));
        }
        if flags & libc::IFF_NO_PI == 0 {
            return Err(wrong("a TAP interface opened without IFF_NO_PI"));
        }
        if several && flags & libc::IFF_MULTI_QUEUE == 0 {
            return Err(wrong("a TAP interface opened without IFF_MULTI_QUEUE"));
        }
        let nonblocking = FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&file, nonblocking).map_err(Error::system("fcntl"))?;
        sys::set_header(&file, HEADER_BYTES).map_err(Error::system("TUNSETVNETHDRSZ"))?;
        // Whoever opened it may live in another network namespace, where its name means something.
        links.push(Box::new(TapLink::new(file, several, None)?));
    }
    Ok(links)
}

/// Refuses more queue pairs than a link has.
pub(crate) fn check_pairs(link: &str, max: u16, asked: u16) -> Result<(), Error> {
    if asked <= max {
        return Ok(());
    }
    Err(Error::Pairs {
        link: link.to_owned(),
        max,
        asked,
    })
}

fn open_queue(name: &str, pairs: u16, queue: u16) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)
        .map_err(|source| Error::TunDevice { source })?;
    let attached = if pairs > 1 {
        sys::attach_interface(&file, name, FLAGS | libc::IFF_MULTI_QUEUE)
    } else {
        match sys::attach_interface(&file, name, FLAGS) {
            // Made with multi_queue: then every queue has to say so.
            Err(Errno::EINVAL) => sys::attach_interface(&file, name, FLAGS | libc::IFF_MULTI_QUEUE),
            other => other,
        }
    };
    attached.map_err(|errno| refused(name, pairs, queue, errno))?;
    sys::set_header(&file, HEADER_BYTES).map_err(Error::system("TUNSETVNETHDRSZ"))?;
    Ok(file)
}

/// What TUNSETIFF's refusal means, and what mends it.
fn refused(name: &str, pairs: u16, queue: u16, errno: Errno) -> Error {
    let name = name.to_owned();
    match errno {
        Errno::EPERM | Errno::EACCES => Error::NotOurs {
            mend: make_line(&name),
            name,
        },
        Errno::EBUSY => Error::Busy { name },
        Errno::EINVAL if pairs > 1 => Error::NotMultiQueue {
            mend: make_line(&name),
            name,
        },
        Errno::EINVAL => Error::NotTap { name },
        Errno::E2BIG => Error::Pairs {
            link: format!("tap:{name}"),
            max: queue,
            asked: pairs,
        },
        _ => Error::Open {
            link: format!("tap:{name}"),
            source: errno.into(),
        },
    }
}

/// The commands that make an interface which we can use.
fn make_line(name: &str) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let user = match user {
        Ok(Some(user)) => user.name,
        _ => nix::unistd::geteuid().to_string(),
    };
    format!("ip tuntap add dev {name} mode tap multi_queue user {user} && ip link set {name} up")
}

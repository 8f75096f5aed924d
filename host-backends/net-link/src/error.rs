//! What can go wrong with a link, apart from single frames.
//!
//! Rule: an error of opening names the command that mends it, where there is one.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// Why a link cannot be opened or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The description of a link is wrong
    #[error("{0}")]
    Spec(String),
    /// The link cannot be opened
    #[error("Cannot open the link {link}")]
    Open {
        /// As the user wrote it.
        link: String,
        /// Why.
        source: io::Error,
    },
    /// The link has fewer queue pairs than asked for
    #[error("The link {link} has {max} queue pairs at most, {asked} are asked for")]
    Pairs {
        /// As the user wrote it.
        link: String,
        /// What it has.
        max: u16,
        /// What was asked for.
        asked: u16,
    },
    /// The interface does not exist
    #[error("There is no interface {name}: make it with `{mend}`")]
    NoInterface {
        /// Its name.
        name: String,
        /// The command that makes it.
        mend: String,
    },
    /// The TUN/TAP driver cannot be reached
    #[error(
        "Cannot open /dev/net/tun: load the module (`modprobe tun`), or give this user access to it"
    )]
    TunDevice {
        /// Why.
        source: io::Error,
    },
    /// The interface belongs to another user
    #[error("The interface {name} belongs to another user: remove it and make it with `{mend}`")]
    NotOurs {
        /// Its name.
        name: String,
        /// The command that makes it.
        mend: String,
    },
    /// The interface has its only user already
    #[error(
        "The interface {name} is in use: stop the program that has it, or make it with multi_queue if several shall \
         share it"
    )]
    Busy {
        /// Its name.
        name: String,
    },
    /// The interface has one queue
    #[error("The interface {name} has one queue only: remove it and make it with `{mend}`")]
    NotMultiQueue {
        /// Its name.
        name: String,
        /// The command that makes it.
        mend: String,
    },
    /// The interface is of another kind
    #[error("The interface {name} is no TAP interface; for any other kind write packet:{name}")]
    NotTap {
        /// Its name.
        name: String,
    },
    /// The interface has no Ethernet frames
    #[error(
        "The interface {name} is {what}: a guest's card needs Ethernet frames; use an interface that has them, a TAP \
         interface (`ip tuntap add dev NAME mode tap`) or passt"
    )]
    NotEthernet {
        /// Its name.
        name: String,
        /// What it is instead.
        what: String,
    },
    /// An inherited descriptor is of the wrong kind
    #[error("The descriptor of {link} is {what}")]
    Descriptor {
        /// As the user wrote it.
        link: String,
        /// What it is.
        what: &'static str,
    },
    /// The interface of a packet socket does not exist
    #[error("There is no interface {name}: `{mend}` lists them")]
    NoSuchInterface {
        /// Its name.
        name: String,
        /// The command that lists interfaces.
        mend: &'static str,
    },
    /// Packet sockets need a privilege
    #[error(
        "A packet socket on {name} needs CAP_NET_RAW: start with it (systemd: AmbientCapabilities=CAP_NET_RAW), or use \
         a TAP interface or passt"
    )]
    PacketPermission {
        /// The interface.
        name: String,
    },
    /// There is no passt to start
    #[error(
        "There is no {}: install passt, name it with passt:binary=PATH, or choose another link",
        program.display()
    )]
    NoPasst {
        /// What was looked for.
        program: PathBuf,
    },
    /// passt does not work
    #[error("Cannot use passt: {what}")]
    Passt {
        /// What does not work.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A system call failed
    #[error("{call} failed")]
    System {
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System {
            call,
            source: io::Error::from(errno),
        }
    }
}

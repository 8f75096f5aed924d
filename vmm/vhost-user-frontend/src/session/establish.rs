//! From a fresh socket to a negotiated connection. Rule: nothing is taken over from an earlier connection here, and
//! no lock is held, so a backend that stalls delays nobody but the supervisor.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost_user_protocol::feature::LOG_ALL;
use vhost_user_protocol::feature::PROTOCOL_FEATURES;
use vhost_user_protocol::feature::protocol;
use virtio_spec::feature;
use virtio_spec::net;

use super::SessionSpec;
use super::Shared;
use super::backend_channel::BackendChannel;
use super::channel::Channel;
use super::config;
use super::connection::Connection;
use super::connection::Timeouts;
use crate::Error;
use crate::Result;

/// Most regions of one `SET_MEM_TABLE` (the vhost-user document, "Memory regions description").
pub(crate) const TABLE_REGIONS: usize = 8;

/// Feature bits that concern the backend and the front-end, or that this front-end does not carry.
const HIDDEN: u64 = LOG_ALL
    | PROTOCOL_FEATURES
    | feature::ACCESS_PLATFORM
    | feature::SR_IOV
    | feature::NOTIF_CONFIG_DATA
    | feature::ADMIN_VQ;

/// Network features that a backend without a configuration space cannot have: what the driver would read there or order
/// through the control queue, which such backends leave to the front-end.
const SHOWN_OR_COMMANDED: u64 = net::feature::STATUS
    | net::feature::MTU
    | net::feature::SPEED_DUPLEX
    | net::feature::MQ
    | net::feature::RSS
    | net::feature::HASH_REPORT
    | net::feature::CTRL_VQ
    | net::feature::CTRL_RX
    | net::feature::CTRL_VLAN
    | net::feature::CTRL_RX_EXTRA
    | net::feature::CTRL_MAC_ADDR
    | net::feature::CTRL_GUEST_OFFLOADS
    | net::feature::GUEST_ANNOUNCE
    | net::feature::NOTF_COAL
    | net::feature::VQ_NOTF_COAL;

/// A negotiated connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub connection: Arc<Connection>,
    /// All features that the backend offers, hidden ones included.
    pub offered: u64,
    pub queue_count: u16,
    /// The configuration space is this front-end's own.
    pub own_config: bool,
    /// Regions that the backend can hold.
    pub mem_slots: usize,
    /// The memory table was sent.
    pub has_memory: bool,
    /// Kept for its thread.
    _backend_channel: Option<BackendChannel>,
}

impl Link {
    /// Features for the driver.
    pub(crate) fn visible(&self) -> u64 {
        let offered = self.offered & !HIDDEN;
        if self.own_config {
            (offered & !SHOWN_OR_COMMANDED) | net::feature::MAC
        } else {
            offered
        }
    }
}

/// Connects and negotiates; also returns the configuration space.
pub(crate) fn establish(shared: &Arc<Shared>) -> Result<(Link, Vec<u8>)> {
    let spec = &shared.spec;
    let timeouts = Timeouts {
        reply: spec.reply_timeout,
        drain: spec.drain_timeout,
    };
    let channel = Channel::connect(&spec.socket)?;
    shared.set_stream(channel.stream());
    let mut connection = Connection::new(channel, timeouts);
    let offered = connection.features()?;
    if offered & feature::VERSION_1 == 0 {
        return Err(Error::Missing("VIRTIO_F_VERSION_1"));
    }
    connection.set_owner()?;
    if offered & PROTOCOL_FEATURES != 0 {
        let wanted = connection.protocol_features()? & spec.protocol_features;
        connection.set_protocol_features(wanted)?;
    }
    let own_config = spec.config_own.is_some() && !connection.has(protocol::CONFIG);
    let queue_count = if own_config {
        // One pair. Such backends may count pairs where queues are asked for.
        2
    } else {
        queue_count(spec, &connection)?
    };
    let mem_slots = mem_slots(&connection)?;
    let backend_channel = backend_channel(shared, &connection)?;
    set_mtu(spec, &connection)?;
    let known = shared.config().len();
    let config = config::read(spec, known, &connection)?;
    let link = Link {
        connection: Arc::new(connection),
        offered,
        queue_count,
        own_config,
        mem_slots,
        has_memory: false,
        _backend_channel: backend_channel,
    };
    Ok((link, config))
}

fn queue_count(spec: &SessionSpec, connection: &Connection) -> Result<u16> {
    let limit = if connection.has(protocol::MQ) {
        connection.queue_count()?
    } else {
        1
    };
    let limit = u16::try_from(limit).unwrap_or(u16::MAX);
    match limit.min(spec.queue_count) {
        0 => Err(Error::Missing("any queue")),
        count => Ok(count),
    }
}

fn mem_slots(connection: &Connection) -> Result<usize> {
    if !connection.has(protocol::CONFIGURE_MEM_SLOTS) {
        return Ok(TABLE_REGIONS);
    }
    let slots = connection.max_mem_slots()?;
    Ok(usize::try_from(slots).unwrap_or(usize::MAX))
}

fn backend_channel(
    shared: &Arc<Shared>,
    connection: &Connection,
) -> Result<Option<BackendChannel>> {
    if !connection.has(protocol::BACKEND_REQ) {
        return Ok(None);
    }
    let weak = Arc::downgrade(shared);
    let (channel, end) = BackendChannel::start("vhost-user", move || {
        if let Some(shared) = weak.upgrade() {
            shared.config_changed.store(true, Ordering::Release);
            shared.wake();
        }
    })?;
    connection.set_backend_channel(&end)?;
    Ok(Some(channel))
}

/// Tells the backend the MTU that the operator wants (the vhost-user document, NET_SET_MTU). It comes before the
/// configuration is read, which shows it.
fn set_mtu(spec: &SessionSpec, connection: &Connection) -> Result<()> {
    match spec.mtu {
        None => Ok(()),
        Some(mtu) if connection.has(protocol::NET_MTU) => connection.set_mtu(mtu),
        Some(_) => Err(Error::Missing("an MTU that can be set (NET_MTU)")),
    }
}

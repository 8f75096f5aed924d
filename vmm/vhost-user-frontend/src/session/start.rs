//! Hands the device, or one queue of it, to the connected backend, and takes it back. Rule: a queue is complete
//! (size, base, addresses, descriptors) before it is enabled, and it is kicked after that, because a backend may lose
//! a kick that comes before.

use std::os::fd::AsFd;
use std::sync::Arc;

use host_os::EventFd;
use vhost_user_protocol::feature::LOG_ALL;
use vhost_user_protocol::feature::PROTOCOL_FEATURES;
use vhost_user_protocol::feature::protocol;
use virtio_spec::feature;
use virtio_spec::status;

use super::Queue;
use super::State;
use super::establish::Link;
use super::establish::TABLE_REGIONS;
use super::inflight::InflightArea;
use super::memory::Region;
use super::recover;
use super::ring;
use crate::Error;
use crate::Result;

/// Starts everything that `state` says: at first, and again with each new backend.
pub(crate) fn device(state: &mut State, link: &mut Link) -> Result<()> {
    let Some(features) = state.started else {
        return Ok(());
    };
    set_features(state, link, features)?;
    let negotiated = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
    set_status(link, negotiated)?;
    state.written.send(link)?;
    memory(state, link)?;
    if let Some(log) = &state.log {
        link.connection.set_log_base(log.describe(), &log.file)?;
    }
    inflight(state, link)?;
    let indices: Vec<u16> = state.queues.keys().copied().collect();
    for index in &indices {
        set_up_queue(state, link, features, *index)?;
    }
    for index in &indices {
        enable_queue(state, link, *index)?;
    }
    set_status(link, negotiated | status::DRIVER_OK)
}

/// Starts one more queue.
pub(crate) fn queue(state: &mut State, link: &mut Link, features: u64, index: u16) -> Result<()> {
    set_up_queue(state, link, features, index)?;
    enable_queue(state, link, index)
}

/// Looks up where every queue stands, before a new backend touches anything.
pub(crate) fn find_places(state: &mut State) -> Result<()> {
    let packed = state.started.unwrap_or(0) & feature::RING_PACKED != 0;
    let inflight = state.inflight.as_ref();
    for queue in state.queues.values_mut().filter(|queue| queue.handed_over) {
        let base = recover::base(&state.memory, &queue.setup, packed, inflight)?;
        queue.setup.base = Some(base);
    }
    Ok(())
}

/// Stops a queue. `None` when the backend never had it.
pub(crate) fn stop_queue(link: &Link, queue: &Queue) -> Result<Option<u32>> {
    if !queue.handed_over {
        return Ok(None);
    }
    let index = queue.setup.index;
    // The drain comes first: a disabled ring need not be served, and what is in flight has to be finished.
    let base = link.connection.stop_vring(index)?;
    if link.offered & PROTOCOL_FEATURES != 0 {
        link.connection.set_vring_enable(index, false)?;
    }
    Ok(Some(base))
}

/// Resets a device whose queues are stopped, by the best way that the backend knows.
pub(crate) fn reset_device(link: &Link) -> Result<()> {
    // Some backends take a status of zero for a mere pause.
    if link.connection.has(protocol::RESET_DEVICE) {
        link.connection.reset_device()
    } else {
        set_status(link, 0)
    }
}

pub(crate) fn set_call(link: &Link, index: u16, call: &Arc<EventFd>) -> Result<()> {
    link.connection
        .set_vring_call(wire_index(index)?, call.as_fd())
}

pub(crate) fn region_added(state: &State, link: &mut Link, region: &Region) -> Result<()> {
    if !link.has_memory {
        return Ok(());
    }
    if link.connection.has(protocol::CONFIGURE_MEM_SLOTS) {
        check_slots(state, link)?;
        return link.connection.add_mem_reg(region);
    }
    memory(state, link)
}

pub(crate) fn region_removed(state: &State, link: &mut Link, region: &Region) -> Result<()> {
    if !link.has_memory {
        return Ok(());
    }
    if link.connection.has(protocol::CONFIGURE_MEM_SLOTS) {
        return link.connection.remove_mem_reg(region);
    }
    memory(state, link)
}

/// Logging was switched on or off while the device may run.
pub(crate) fn log_changed(state: &mut State, link: &mut Link) -> Result<()> {
    if !link.connection.has(protocol::LOG_SHMFD) || link.offered & LOG_ALL == 0 {
        return Err(Error::Missing("a dirty log (LOG_SHMFD and LOG_ALL)"));
    }
    let Some(features) = state.started else {
        return Ok(());
    };
    if let Some(log) = &state.log {
        link.connection.set_log_base(log.describe(), &log.file)?;
    }
    set_features(state, link, features)?;
    for queue in state.queues.values() {
        let address = ring::address(&state.memory, &queue.setup, features, state.log.is_some())?;
        link.connection.set_vring_addr(address)?;
    }
    Ok(())
}

fn set_features(state: &State, link: &Link, features: u64) -> Result<()> {
    let log = if state.log.is_some() { LOG_ALL } else { 0 };
    let own = (PROTOCOL_FEATURES | log) & link.offered;
    // The front-end's own are none of the backend's business.
    link.connection
        .set_features((features & link.offered) | own)
}

fn set_status(link: &Link, status: u8) -> Result<()> {
    if link.connection.has(protocol::STATUS) {
        link.connection.set_status(status)?;
    }
    Ok(())
}

/// Sends the whole table. Regions beyond what one message holds follow one by one, where the backend can take them.
fn memory(state: &State, link: &mut Link) -> Result<()> {
    check_slots(state, link)?;
    let regions = state.memory.regions();
    let (table, rest) = regions.split_at(regions.len().min(TABLE_REGIONS));
    if !rest.is_empty() && !link.connection.has(protocol::CONFIGURE_MEM_SLOTS) {
        return Err(Error::Missing("room for this many memory regions"));
    }
    link.connection.set_mem_table(table)?;
    for region in rest {
        link.connection.add_mem_reg(region)?;
    }
    link.has_memory = true;
    Ok(())
}

fn check_slots(state: &State, link: &Link) -> Result<()> {
    if state.memory.regions().len() > link.mem_slots {
        return Err(Error::Missing("room for this many memory regions"));
    }
    Ok(())
}

/// Gives the backend the in-flight record: the one that is kept, or at first one that it makes.
fn inflight(state: &mut State, link: &Link) -> Result<()> {
    if !link.connection.has(protocol::INFLIGHT_SHMFD) {
        return match state.inflight {
            Some(_) => Err(Error::Incompatible("it keeps no in-flight record".into())),
            None => Ok(()),
        };
    }
    let area = match state.inflight.take() {
        Some(area) => area,
        None => {
            let (queues, size) = (state.queue_count, state.queue_size_max);
            match link.connection.inflight(queues, size) {
                Ok((description, file)) => InflightArea { description, file },
                Err(Error::Refused(_)) => {
                    tracing::warn!(
                        "the backend gives no in-flight record; a crash may lose requests"
                    );
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    };
    // Recorded before it is sent: a backend that dies in between gets it again.
    let area = state.inflight.insert(area);
    link.connection.set_inflight(area.description, &area.file)
}

fn set_up_queue(state: &mut State, link: &Link, features: u64, index: u16) -> Result<()> {
    let Some(queue) = state.queues.get_mut(&index) else {
        return Ok(());
    };
    let packed = features & feature::RING_PACKED != 0;
    let fresh = if packed { recover::PACKED_START } else { 0 };
    let setup = &queue.setup;
    let address = ring::address(&state.memory, setup, features, state.log.is_some())?;
    let wire = wire_index(index)?;
    let connection = &link.connection;
    connection.set_vring_num(index, setup.size)?;
    connection.set_vring_base(index, setup.base.unwrap_or(fresh))?;
    connection.set_vring_addr(address)?;
    connection.set_vring_call(wire, setup.call.as_fd())?;
    connection.set_vring_err(wire, queue.error.as_fd())?;
    // The kick starts the ring: from here on the backend may have taken requests.
    queue.handed_over = true;
    connection.set_vring_kick(wire, setup.kick.as_fd())
}

fn enable_queue(state: &State, link: &Link, index: u16) -> Result<()> {
    let Some(queue) = state.queues.get(&index) else {
        return Ok(());
    };
    if link.offered & PROTOCOL_FEATURES != 0 {
        link.connection.set_vring_enable(index, true)?;
    }
    queue.setup.kick.notify();
    Ok(())
}

fn wire_index(index: u16) -> Result<u8> {
    u8::try_from(index).map_err(|_| Error::Spec("a device has 1 to 255 queues"))
}

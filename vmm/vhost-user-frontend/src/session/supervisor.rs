//! The thread that watches the connection and, when it breaks, makes another for ever. Rule: events are reported
//! with no lock held, and after a reconnect every queue is kicked and every interrupt raised once, since the backend
//! may have died between a request and its notification.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use vhost_user_protocol::feature::protocol;
use virtio_spec::device_id;
use virtio_spec::net;
use virtio_spec::status;

use super::SessionSpec;
use super::Shared;
use super::State;
use super::compatible;
use super::connection::Connection;
use super::establish::Link;
use super::establish::establish;
use super::start;
use crate::Error;
use crate::Result;

/// Pause before the second attempt; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Attempts between two reports of the same failure.
const REPORT_EVERY: u32 = 64;

/// Waits for the backend to listen, and negotiates.
pub(crate) fn first_connection(shared: &Arc<Shared>) -> Result<()> {
    let end = Instant::now() + shared.spec.connect_timeout;
    let mut pause = FIRST_PAUSE;
    let (link, config) = loop {
        match establish(shared) {
            Ok(established) => break established,
            // A backend that is being started or restarted; anything else will not mend itself.
            Err(Error::Connect { .. } | Error::Disconnected) if Instant::now() < end => {
                thread::sleep(pause);
                pause = (pause * 2).min(shared.spec.reconnect_pause_max);
            }
            Err(error) => return Err(error),
        }
    };
    check_queue_size(&shared.spec, &link)?;
    *shared.config() = config;
    install(&mut shared.lock(), link);
    Ok(())
}

/// The protocol has no question for the largest queue, but a backend that keeps a record refuses one that is too large.
fn check_queue_size(spec: &SessionSpec, link: &Link) -> Result<()> {
    if !link.connection.has(protocol::INFLIGHT_SHMFD) {
        return Ok(());
    }
    let size = spec.queue_size_max;
    match link.connection.inflight(link.queue_count, size) {
        Err(Error::Refused(_)) => Err(Error::QueueSize(size)),
        other => other.map(drop),
    }
}

pub(crate) fn spawn(shared: &Arc<Shared>) -> Result<thread::JoinHandle<()>> {
    let shared = Arc::clone(shared);
    thread::Builder::new()
        .name("vhost-user".into())
        .spawn(move || run(&shared))
        .map_err(|source| Error::Resource {
            what: "the session's thread",
            source,
        })
}

fn run(shared: &Arc<Shared>) {
    while !stopping(shared) {
        let connection = shared
            .lock()
            .link
            .as_ref()
            .map(|link| Arc::clone(&link.connection));
        match connection {
            Some(connection) => watch(shared, &connection),
            None => {
                shared.events.disconnected();
                reconnect(shared);
            }
        }
    }
}

fn stopping(shared: &Shared) -> bool {
    shared.stopping.load(Ordering::Acquire)
}

fn install(state: &mut State, link: Link) {
    state.offered = link.visible();
    state.queue_count = link.queue_count;
    state.last_error = None;
    state.link = Some(link);
}

/// Sleeps until something happens, and deals with it.
fn watch(shared: &Shared, connection: &Connection) {
    let errors: Vec<_> = {
        let state = shared.lock();
        let queues = state.queues.iter();
        queues
            .map(|(index, queue)| (*index, Arc::clone(&queue.error)))
            .collect()
    };
    // Replies are not this thread's business: only the end of the connection is.
    let end = PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut fds = vec![
        PollFd::new(connection.as_fd(), end),
        PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN),
    ];
    fds.extend(
        errors
            .iter()
            .map(|(_, error)| PollFd::new(error.as_fd(), PollFlags::POLLIN)),
    );
    // An interruption is a wake-up like any other: every condition is looked at again.
    let _ = nix::poll::poll(&mut fds, PollTimeout::NONE);
    // `any` is `None` when there are bits that nix has no name for, and POLLRDHUP is one.
    let hung_up = fds.first().is_some_and(|fd| fd.any().unwrap_or(true));
    drop(fds);
    shared.wake.drain();
    for (index, error) in &errors {
        if error.drain() {
            shared.events.needs_reset(&Error::Queue {
                index: *index,
                what: "the backend found the ring to be malformed",
            });
        }
    }
    if stopping(shared) {
        return;
    }
    if hung_up {
        lost(shared, connection);
    } else if shared.config_changed.swap(false, Ordering::AcqRel) {
        refresh_config(shared);
    }
}

/// Drops the connection, unless another thread already has, and there may even be a new one.
fn lost(shared: &Shared, connection: &Connection) {
    let mut state = shared.lock();
    let same = |link: &Link| std::ptr::eq(Arc::as_ptr(&link.connection), connection);
    if state.link.as_ref().is_some_and(same) {
        tracing::warn!(socket = %shared.spec.socket.display(), "the backend went away");
        shared.drop_link(&mut state);
    }
}

/// The backend said that its configuration, or (which has no message of its own) its status, changed.
fn refresh_config(shared: &Shared) {
    let known = shared.config().len();
    let read = {
        let mut state = shared.lock();
        shared.with_link(&mut state, |state, link| {
            let has = |feature| link.connection.has(feature);
            let config = (has(protocol::CONFIG) && known != 0).then(|| shared.read_config(link));
            let status = (has(protocol::STATUS) && state.started.is_some())
                .then(|| link.connection.status());
            Ok((config.transpose()?, status.transpose()?.unwrap_or(0)))
        })
    };
    let Some(Ok((config, status))) = read else {
        return;
    };
    if let Some(config) = config {
        shared.config().clone_from(&config);
        shared.events.config_changed(&config);
    }
    if status & u64::from(status::DEVICE_NEEDS_RESET) != 0 {
        shared.events.needs_reset(&Error::BrokenRing);
    }
}

fn reconnect(shared: &Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut attempts: u32 = 0;
    while !stopping(shared) {
        let Err(error) = attempt(shared) else {
            return;
        };
        report(shared, &error, attempts);
        attempts = attempts.wrapping_add(1);
        sleep(shared, pause);
        pause = (pause * 2).min(shared.spec.reconnect_pause_max);
    }
}

fn report(shared: &Shared, error: &Error, attempts: u32) {
    let text = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let mut state = shared.lock();
    if attempts.is_multiple_of(REPORT_EVERY) || state.last_error.as_ref() != Some(&text) {
        let socket = shared.spec.socket.display();
        tracing::warn!(%socket, error = text, "cannot reconnect; trying on");
    }
    state.last_error = Some(text);
}

/// Sleeps for `pause`, or until the session ends.
fn sleep(shared: &Shared, pause: Duration) {
    let end = Instant::now() + pause;
    while !stopping(shared) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        let mut fds = [PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX));
        shared.wake.drain();
    }
}

fn attempt(shared: &Arc<Shared>) -> Result<()> {
    let (mut link, mut config) = establish(shared)?;
    let config_differs;
    let mut broken = None;
    {
        let mut state = shared.lock();
        let old = shared.config().clone();
        compatible::check(&state, &link, shared.spec.device_id, &old, &config)?;
        let resumed = resume(&mut state, &mut link, shared);
        state.written.overlay(&mut config);
        config_differs = old != config;
        match resumed {
            // The device is lost, the backend is not: it serves again once the driver resets.
            Err(error @ Error::Unrecoverable(_)) => {
                state.forget_device();
                broken = Some(error);
            }
            other => other?,
        }
        shared.config().clone_from(&config);
        // Whoever sees the connection sees it counted.
        shared.reconnects.fetch_add(1, Ordering::Relaxed);
        install(&mut state, link);
    }
    let socket = shared.spec.socket.display();
    tracing::info!(%socket, "the backend is back");
    if let Some(error) = broken {
        shared.events.needs_reset(&error);
    }
    if config_differs {
        shared.events.config_changed(&config);
    }
    shared.events.reconnected();
    Ok(())
}

fn resume(state: &mut State, link: &mut Link, shared: &Shared) -> Result<()> {
    if state.started.is_none() {
        return Ok(());
    }
    if stopping(shared) {
        return Err(Error::Disconnected);
    }
    start::find_places(state)?;
    start::device(state, link)?;
    for queue in state.queues.values() {
        queue.setup.call.notify();
    }
    announce(state, link, shared)?;
    Ok(())
}

/// A network that lost its switch has forgotten where the guest is.
fn announce(state: &State, link: &Link, shared: &Shared) -> Result<()> {
    let addressed = state.started.unwrap_or(0) & net::feature::MAC != 0;
    let wanted = shared.spec.device_id == device_id::NET && addressed;
    let mac = shared.config().first_chunk().copied();
    match mac.filter(|_| wanted && link.connection.has(protocol::RARP)) {
        // A backend that does not know how has said so; that is no reason to do without it.
        Some(mac) => match link.connection.announce(mac) {
            Err(Error::Refused(_)) => Ok(()),
            other => other,
        },
        None => Ok(()),
    }
}

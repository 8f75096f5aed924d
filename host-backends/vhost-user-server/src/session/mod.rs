//! One connection, from its first message to its last. One rule: a message is decoded and its descriptors are counted
//! before any handler sees it; each handler is one short function in the file of its subject.

mod device;
mod memory;
mod rings;

use crate::Polling;
use crate::backend_channel::BackendChannel;
use crate::connection::Connection;
use crate::connection::End;
use crate::connection::Event;
use crate::connection::Incoming;
use crate::shutdown::ShutdownHandle;
use crate::state_transfer::StateTransfer;
use crate::statistics::Shared;
use crate::vring::Environment;
use crate::vring::Vring;
use crate::worker::Failure;
use crate::worker::Stop;
use device_model::Device;
use device_model::InflightRegion;
use guest_memory::DirtyLog;
use guest_memory::GuestMemory;
use host_os::EventFd;
use host_os::error_chain;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vhost_user_protocol::FrontendMessage;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::feature;
use vhost_user_protocol::feature::protocol;
use virtqueue::Format;

/// Why a message was refused; its text goes to the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("It is malformed")]
    Malformed(#[from] vhost_user_protocol::Error),
    #[error("It came with {0} descriptors")]
    FdCount(usize),
    #[error(
        "Its descriptors could not be taken: this process is at its limit of open files \
         (RLIMIT_NOFILE; raise it by `ulimit -n` or LimitNOFILE=)"
    )]
    FdsLost,
    #[error("The request is unknown")]
    Unknown,
    #[error("There is no ring {0}")]
    NoRing(u32),
    #[error("{0}")]
    Rule(&'static str),
    #[error("The device refused")]
    Device(#[from] device_model::Error),
    #[error("The memory was refused")]
    Memory(#[from] guest_memory::Error),
    #[error("The descriptor was refused")]
    Descriptor(#[from] host_os::Error),
}

/// What a handler answers with.
pub(crate) enum Answer {
    /// Nothing, unless the front-end asked for an acknowledgement.
    Done,
    /// This, in any case.
    Reply(Reply),
    /// This with a descriptor.
    ReplyWithFd(Reply, OwnedFd),
}

pub(crate) type Outcome = Result<Answer, Refusal>;

/// All state of a connection.
pub(crate) struct Session {
    connection: Connection,
    device: Arc<dyn Device>,
    name: String,
    polling: Polling,
    shared: Arc<Shared>,
    worker_ended: Arc<EventFd>,
    channel: Arc<BackendChannel>,
    /// Virtio features accepted, transport bits included.
    features: u64,
    protocol_features: u64,
    /// `SET_FEATURES` was refused since the last reset; `FEATURES_OK` is then withheld.
    features_refused: bool,
    status: u8,
    needs_reset: bool,
    memory: Arc<GuestMemory>,
    log: Option<Arc<DirtyLog>>,
    inflight: Option<InflightRegion>,
    vrings: Vec<Vring>,
    transfer: Option<StateTransfer>,
    /// The operator was told that a ring waits for memory.
    told_no_memory: bool,
}

impl Session {
    pub(crate) fn new(
        stream: (UnixStream, Option<UnixListener>),
        device: Arc<dyn Device>,
        (name, polling): (String, Polling),
        shutdown: ShutdownHandle,
        shared: Arc<Shared>,
    ) -> Result<Self, host_os::Error> {
        let worker_ended = Arc::new(EventFd::new()?);
        let vrings = (0..)
            .zip(&shared.queues)
            .map(|(i, c)| Vring::new(i, c.clone()))
            .collect();
        let channel = Arc::new(BackendChannel::default());
        let notify = channel.clone();
        device.on_config_change(Arc::new(move || notify.config_changed()));
        Ok(Self {
            connection: Connection::new(stream, shutdown, worker_ended.clone()),
            device,
            name,
            polling,
            shared,
            worker_ended,
            channel,
            features: 0,
            protocol_features: 0,
            features_refused: false,
            status: 0,
            needs_reset: false,
            memory: Arc::new(GuestMemory::default()),
            log: None,
            inflight: None,
            vrings,
            transfer: None,
            told_no_memory: false,
        })
    }

    /// Serves until the connection ends.
    pub(crate) fn run(&mut self) -> End {
        loop {
            let step = match self.connection.next_event() {
                Ok(Event::Message(incoming)) => self.serve(incoming),
                Ok(Event::WorkerEnded) => self.reap(),
                Ok(Event::AnotherWaits) => {
                    self.note_another();
                    Ok(())
                }
                Err(end) => Err(end),
            };
            if let Err(end) = step {
                return end;
            }
            let inflight_lost = self.inflight.as_ref().is_some_and(InflightRegion::poisoned);
            if self.shared.lost.load(Ordering::Relaxed) {
                return End::Lost;
            }
            if self.memory.poisoned() || inflight_lost {
                return End::Poisoned;
            }
        }
    }

    fn serve(&mut self, incoming: Incoming) -> Result<(), End> {
        let Incoming {
            header,
            payload,
            fds,
            fds_lost,
        } = incoming;
        let request = Request(header.request);
        let acknowledge = header.flags.need_reply() && self.acknowledges(request, &payload);
        self.shared.messages.fetch_add(1, Ordering::Relaxed);
        let outcome = if fds_lost {
            Err(Refusal::FdsLost)
        } else {
            self.decode_and_handle(request, &payload, fds)
        };
        match outcome {
            Ok(Answer::Reply(reply)) => self.connection.send(&reply.encode(request), &[]),
            Ok(Answer::ReplyWithFd(reply, fd)) => {
                self.connection.send(&reply.encode(request), &[fd.as_fd()])
            }
            Ok(Answer::Done) if acknowledge => {
                self.connection.send(&Reply::OK.encode(request), &[])
            }
            Ok(Answer::Done) => Ok(()),
            Err(refusal) => self.refuse(request, &refusal, acknowledge),
        }
    }

    /// Whether `need_reply` of this message counts. The message that takes up REPLY_ACK may ask for its own
    /// acknowledgement already, and whoever asks waits for it, refused or not.
    fn acknowledges(&self, request: Request, payload: &[u8]) -> bool {
        let mut features = self.protocol_features;
        if request == Request::SetProtocolFeatures
            && let Ok(FrontendMessage::SetProtocolFeatures(wanted)) =
                FrontendMessage::decode(request, payload)
        {
            features |= wanted;
        }
        features & protocol::REPLY_ACK != 0
    }

    fn decode_and_handle(
        &mut self,
        request: Request,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Outcome {
        let message = FrontendMessage::decode(request, payload)?;
        if let FrontendMessage::Unknown(_) = message {
            return Err(Refusal::Unknown);
        }
        if !message.fd_rule().allows(fds.len()) {
            return Err(Refusal::FdCount(fds.len()));
        }
        self.handle(message, fds)
    }

    fn handle(&mut self, message: FrontendMessage, mut fds: Vec<OwnedFd>) -> Outcome {
        use FrontendMessage as M;
        match message {
            M::GetFeatures => self.get_features(),
            M::SetFeatures(features) => self.set_features(features),
            M::GetProtocolFeatures => self.get_protocol_features(),
            M::SetProtocolFeatures(features) => self.set_protocol_features(features),
            M::SetOwner => Ok(Answer::Done),
            M::ResetOwner => self.reset_owner(),
            M::GetQueueNum => Ok(number(self.vrings.len() as u64)),
            M::GetConfig(config) => self.get_config(config),
            M::SetConfig(config) => self.set_config(&config),
            M::SetBackendReqFd => self.set_backend_req_fd(fds.pop()),
            M::ResetDevice => self.reset_device(),
            M::SetStatus(status) => self.set_status(status),
            M::GetStatus => self.get_status(),
            M::SetDeviceStateFd(transfer) => self.set_device_state_fd(transfer, fds.pop()),
            M::CheckDeviceState => self.check_device_state(),
            M::SetMemTable(regions) => self.set_mem_table(&regions, fds),
            M::GetMaxMemSlots => Ok(number(GuestMemory::MAX_REGIONS as u64)),
            M::AddMemReg(region) => self.add_mem_reg(region, fds.pop()),
            M::RemMemReg(region) => self.rem_mem_reg(region),
            M::SetLogBase(log) => self.set_log_base(log, fds.pop()),
            M::SetLogFd => Ok(Answer::Done),
            M::GetInflightFd(inflight, length) => self.get_inflight_fd(inflight, length),
            M::SetInflightFd(inflight) => self.set_inflight_fd(inflight, fds.pop()),
            M::SetVringNum(state) => self.set_vring_num(state),
            M::SetVringAddr(addresses) => self.set_vring_addr(&addresses),
            M::SetVringBase(state) => self.set_vring_base(state),
            M::GetVringBase(state) => self.get_vring_base(state),
            M::SetVringKick(vring) => self.set_vring_kick(vring, fds.pop()),
            M::SetVringCall(vring) => self.set_vring_call(vring, fds.pop()),
            M::SetVringErr(vring) => self.set_vring_err(vring, fds.pop()),
            M::SetVringEnable(state) => self.set_vring_enable(state),
            M::SetLogBaseAddress(_) => Err(Refusal::Rule("A log needs LOG_SHMFD")),
            M::SendRarp(mac) => self.send_rarp(mac),
            M::NetSetMtu(mtu) => self.net_set_mtu(mtu),
            M::Unknown(_) => Err(Refusal::Unknown),
        }
    }

    /// Tells the front-end that its message was refused, as far as the protocol can.
    fn refuse(
        &mut self,
        request: Request,
        refusal: &Refusal,
        acknowledge: bool,
    ) -> Result<(), End> {
        self.shared.message_errors.fetch_add(1, Ordering::Relaxed);
        if let Some(suppressed) = self.shared.admit_log() {
            let chain = error_chain(refusal);
            tracing::warn!(
                device = self.name,
                ?request,
                suppressed,
                "Message refused: {chain}"
            );
        }
        match request {
            // These replies are no plain numbers; without a payload the front-end sees that something is wrong.
            Request::GetConfig | Request::GetVringBase | Request::GetInflightFd => {
                self.connection.send(&Reply::Empty.encode(request), &[])
            }
            Request::SetDeviceStateFd | Request::CheckDeviceState => self
                .connection
                .send(&Reply::U64(0x101).encode(request), &[]),
            _ if acknowledge => self.connection.send(&Reply::FAILED.encode(request), &[]),
            // Going on would let a migration lose the guest's writes.
            Request::SetLogBase => Err(End::Refused("the dirty log was refused")),
            _ => Ok(()),
        }
    }

    /// One front-end is served at a time; without this line the next one's VMM just hangs.
    fn note_another(&self) {
        self.shared.waiting.store(true, Ordering::Relaxed);
        self.shared.waits.fetch_add(1, Ordering::Relaxed);
        if let Some(suppressed) = self.shared.admit_log() {
            tracing::warn!(
                device = self.name,
                suppressed,
                "Another front-end waits: it is served when the present one has left"
            );
        }
    }

    /// Says once that ring `at` would run if there was memory: the guest's VMM is silent about it, and the guest hangs.
    fn note_missing_memory(&mut self, at: usize) {
        let missing = self.memory.regions().len() == 0;
        let waits = self.vrings.get(at).is_some_and(Vring::is_described);
        if !missing || !waits || self.told_no_memory {
            return;
        }
        self.told_no_memory = true;
        if let Some(suppressed) = self.shared.admit_log() {
            tracing::warn!(
                device = self.name,
                queue = at,
                suppressed,
                "Not started: the front-end shared no memory; is the guest's memory shared (QEMU: share=on)?"
            );
        }
    }

    /// Collects workers that ended by themselves.
    fn reap(&mut self) -> Result<(), End> {
        for at in 0..self.vrings.len() {
            let failure = self.vrings.get_mut(at).and_then(Vring::reap);
            if let Some(failure) = failure {
                self.ring_failed(at, &failure)?;
            }
        }
        Ok(())
    }

    /// A ring failed: the device needs a reset, the other rings go on.
    pub(crate) fn ring_failed(&mut self, index: usize, failure: &Failure) -> Result<(), End> {
        let reason = match failure {
            Failure::Poisoned => return Err(End::Poisoned),
            Failure::Queue(error) => error_chain(error),
            Failure::Panic => "the handler panicked".to_owned(),
            Failure::Lost => {
                self.shared.lost.store(true, Ordering::Relaxed);
                return Err(End::Lost);
            }
        };
        if let Some(suppressed) = self.shared.admit_log() {
            tracing::warn!(
                device = self.name,
                queue = index,
                suppressed,
                "Queue stopped: {reason}"
            );
        }
        self.needs_reset = true;
        self.channel.config_changed();
        Ok(())
    }

    /// Stops every worker; failures are noted.
    pub(crate) fn pause_all(&mut self, how: Stop) {
        for at in 0..self.vrings.len() {
            let failure = self.vrings.get_mut(at).and_then(|vring| vring.stop(how));
            if let Some(failure) = failure {
                // Poisoned memory is seen again by the loop in `run`.
                let _ = self.ring_failed(at, &failure);
            }
        }
    }

    /// Stops ring `at` as `GET_VRING_BASE` does; failures are noted.
    pub(crate) fn halt_ring(&mut self, at: usize, how: Stop) {
        let packed = self.features & virtio_spec::feature::RING_PACKED != 0;
        let format = if packed {
            Format::Packed
        } else {
            Format::Split
        };
        let Self {
            vrings, inflight, ..
        } = self;
        let failure = vrings
            .get_mut(at)
            .and_then(|v| v.halt(how, inflight.as_ref(), format));
        if let Some(failure) = failure {
            let _ = self.ring_failed(at, &failure);
        }
        if let Ok(index) = u16::try_from(at) {
            self.device.queue_ended(index);
        }
    }

    /// Starts every ring that is to run. One that cannot is signalled and logged, and tried again with the next message
    /// that may help it; what the present message asked for was done all the same.
    pub(crate) fn start_all(&mut self) {
        for at in 0..self.vrings.len() {
            if let Err(refusal) = self.start_ring(at)
                && let Some(suppressed) = self.shared.admit_log()
            {
                let chain = error_chain(&refusal);
                tracing::warn!(
                    device = self.name,
                    queue = at,
                    suppressed,
                    "Not started: {chain}"
                );
            }
        }
    }

    pub(crate) fn start_ring(&mut self, at: usize) -> Result<(), Refusal> {
        self.note_missing_memory(at);
        let Self {
            vrings,
            device,
            memory,
            inflight,
            name,
            worker_ended,
            ..
        } = self;
        let Some(vring) = vrings.get_mut(at) else {
            return Ok(());
        };
        let environment = Environment {
            device: &**device,
            memory,
            inflight: inflight.as_ref(),
            features: self.features,
            polling: self.polling,
            name,
            worker_ended,
        };
        vring.start_if_ready(&environment)?;
        Ok(())
    }

    /// Whether rings start enabled, the front-end not having taken up protocol features.
    pub(crate) fn starts_enabled(&self) -> bool {
        self.features & feature::PROTOCOL_FEATURES == 0
    }
}

impl Drop for Session {
    /// Drains the queues; what completes is visible to the guest should the front-end come back.
    fn drop(&mut self) {
        self.channel.set(None);
        self.device.on_config_change(Arc::new(|| {}));
        for vring in &mut self.vrings {
            vring.stop(Stop::Drain);
        }
        self.device.session_ended();
    }
}

pub(crate) fn number(value: u64) -> Answer {
    Answer::Reply(Reply::U64(value))
}

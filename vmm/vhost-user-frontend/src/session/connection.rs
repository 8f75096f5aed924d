//! One connection to a backend: every request of the protocol as a method. Rule: a reply is taken only when its
//! number, length and descriptors are those that the request calls for.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use vhost_user_protocol::ConfigSpace;
use vhost_user_protocol::DeviceStateTransfer;
use vhost_user_protocol::FrontendMessage as Message;
use vhost_user_protocol::Inflight;
use vhost_user_protocol::LogBase;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::VringAddress;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;
use vhost_user_protocol::feature::protocol;

use super::channel::Channel;
use super::channel::Deadline;
use super::memory::Region;
use crate::Error;
use crate::Result;

/// Waits of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For most replies.
    pub reply: Duration,
    /// For replies that wait until requests in flight are done.
    pub drain: Duration,
}

/// A connection; `&self` methods must not run at the same time (the session's lock sees to that).
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    timeouts: Timeouts,
    /// Negotiated protocol features; 0 before that.
    protocol: u64,
}

impl Connection {
    pub(crate) fn new(channel: Channel, timeouts: Timeouts) -> Self {
        Self {
            channel,
            timeouts,
            protocol: 0,
        }
    }

    pub(crate) fn has(&self, protocol_feature: u64) -> bool {
        self.protocol & protocol_feature != 0
    }

    pub(crate) fn shut_down(&self) {
        self.channel.shut_down();
    }

    pub(crate) fn features(&self) -> Result<u64> {
        self.ask_number(&Message::GetFeatures)
    }

    pub(crate) fn set_features(&self, features: u64) -> Result<()> {
        self.tell(&Message::SetFeatures(features), &[])
    }

    pub(crate) fn set_owner(&self) -> Result<()> {
        self.tell(&Message::SetOwner, &[])
    }

    pub(crate) fn protocol_features(&self) -> Result<u64> {
        self.ask_number(&Message::GetProtocolFeatures)
    }

    pub(crate) fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        // Never acknowledged: whether the backend acknowledges is what this message settles.
        self.tell(&Message::SetProtocolFeatures(features), &[])?;
        self.protocol = features;
        Ok(())
    }

    pub(crate) fn queue_count(&self) -> Result<u64> {
        self.ask_number(&Message::GetQueueNum)
    }

    pub(crate) fn max_mem_slots(&self) -> Result<u64> {
        self.ask_number(&Message::GetMaxMemSlots)
    }

    pub(crate) fn set_backend_channel(&self, end: &OwnedFd) -> Result<()> {
        self.tell(&Message::SetBackendReqFd, &[end.as_fd()])
    }

    pub(crate) fn set_mem_table(&self, regions: &[Region]) -> Result<()> {
        let table = regions.iter().map(Region::describe).collect();
        let fds: Vec<BorrowedFd<'_>> = regions.iter().map(|region| region.file.as_fd()).collect();
        self.tell(&Message::SetMemTable(table), &fds)
    }

    pub(crate) fn add_mem_reg(&self, region: &Region) -> Result<()> {
        self.tell(
            &Message::AddMemReg(region.describe()),
            &[region.file.as_fd()],
        )
    }

    pub(crate) fn remove_mem_reg(&self, region: &Region) -> Result<()> {
        self.tell(&Message::RemMemReg(region.describe()), &[])
    }

    pub(crate) fn set_log_base(&self, log: LogBase, file: &File) -> Result<()> {
        let message = Message::SetLogBase(log);
        // This request has a reply of its own form, whatever was negotiated; its content means nothing.
        self.ask(&message, &[file.as_fd()]).map(drop)
    }

    pub(crate) fn set_vring_num(&self, index: u16, size: u16) -> Result<()> {
        self.tell(&Message::SetVringNum(state(index, size.into())), &[])
    }

    pub(crate) fn set_vring_base(&self, index: u16, base: u32) -> Result<()> {
        self.tell(&Message::SetVringBase(state(index, base)), &[])
    }

    pub(crate) fn set_vring_addr(&self, address: VringAddress) -> Result<()> {
        self.tell(&Message::SetVringAddr(address), &[])
    }

    pub(crate) fn set_vring_enable(&self, index: u16, enable: bool) -> Result<()> {
        self.tell(&Message::SetVringEnable(state(index, enable.into())), &[])
    }

    pub(crate) fn set_vring_kick(&self, index: u8, fd: BorrowedFd<'_>) -> Result<()> {
        self.tell(&Message::SetVringKick(VringFd::new(index, true)), &[fd])
    }

    pub(crate) fn set_vring_call(&self, index: u8, fd: BorrowedFd<'_>) -> Result<()> {
        self.tell(&Message::SetVringCall(VringFd::new(index, true)), &[fd])
    }

    pub(crate) fn set_vring_err(&self, index: u8, fd: BorrowedFd<'_>) -> Result<()> {
        self.tell(&Message::SetVringErr(VringFd::new(index, true)), &[fd])
    }

    /// Stops a ring once its requests in flight are done, and returns where it stopped.
    pub(crate) fn stop_vring(&self, index: u16) -> Result<u32> {
        let message = Message::GetVringBase(state(index, 0));
        match self.ask(&message, &[])?.0 {
            Reply::Vring(answer) if answer.index == u32::from(index) => Ok(answer.num),
            Reply::Empty => Err(Error::Refused(message.request())),
            _ => Err(bad(&message, "another queue's state")),
        }
    }

    pub(crate) fn config(&self, len: u32) -> Result<Vec<u8>> {
        let size = usize::try_from(len).unwrap_or(0);
        let message = Message::GetConfig(ConfigSpace {
            offset: 0,
            size: len,
            flags: 0,
            data: vec![0; size],
        });
        match self.ask(&message, &[])?.0 {
            Reply::Config(config) if config.data.len() == size => Ok(config.data),
            // Empty is how the document says "no".
            Reply::Empty => Err(Error::Refused(Request::GetConfig)),
            Reply::Config(config) if config.data.is_empty() => {
                Err(Error::Refused(Request::GetConfig))
            }
            _ => Err(bad(&message, "a configuration of another size")),
        }
    }

    pub(crate) fn set_config(&self, offset: u32, data: &[u8]) -> Result<()> {
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let config = ConfigSpace {
            offset,
            size,
            flags: 0,
            data: data.to_vec(),
        };
        self.tell(&Message::SetConfig(config), &[])
    }

    pub(crate) fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.tell(&Message::NetSetMtu(mtu.into()), &[])
    }

    /// Asks the backend to let the network know where `mac` is.
    pub(crate) fn announce(&self, mac: [u8; 6]) -> Result<()> {
        let [a, b, c, d, e, f] = mac;
        let number = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        self.tell(&Message::SendRarp(number), &[])
    }

    pub(crate) fn inflight(&self, queues: u16, size: u16) -> Result<(Inflight, File)> {
        let request = Inflight {
            num_queues: queues,
            queue_size: size,
            ..Inflight::default()
        };
        let message = Message::GetInflightFd(request, size_of::<Inflight>());
        match self.ask(&message, &[])? {
            (Reply::Inflight(inflight, _), Some(file)) if inflight.mmap_size != 0 => {
                Ok((inflight, file))
            }
            (Reply::Inflight(..) | Reply::Empty, _) => Err(Error::Refused(Request::GetInflightFd)),
            _ => Err(bad(&message, "something else")),
        }
    }

    pub(crate) fn set_inflight(&self, inflight: Inflight, file: &File) -> Result<()> {
        self.tell(&Message::SetInflightFd(inflight), &[file.as_fd()])
    }

    pub(crate) fn reset_device(&self) -> Result<()> {
        self.tell_within(&Message::ResetDevice, &[], self.timeouts.drain)
    }

    pub(crate) fn set_status(&self, status: u8) -> Result<()> {
        let message = Message::SetStatus(status.into());
        self.tell_within(&message, &[], self.timeouts.drain)
    }

    pub(crate) fn status(&self) -> Result<u64> {
        self.ask_number(&Message::GetStatus)
    }

    pub(crate) fn transfer_state(
        &self,
        transfer: DeviceStateTransfer,
        file: &File,
    ) -> Result<Option<File>> {
        const NO_FILE: u64 = 1 << 8;
        let message = Message::SetDeviceStateFd(transfer);
        match self.ask(&message, &[file.as_fd()])? {
            (Reply::U64(answer), file) if answer & 0xff == 0 => {
                Ok(file.filter(|_| answer & NO_FILE == 0))
            }
            (Reply::U64(_), _) => Err(Error::Refused(message.request())),
            _ => Err(bad(&message, "something else")),
        }
    }

    pub(crate) fn check_state(&self) -> Result<()> {
        match self.ask_number(&Message::CheckDeviceState)? {
            0 => Ok(()),
            _ => Err(Error::Refused(Request::CheckDeviceState)),
        }
    }

    fn tell(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.tell_within(message, fds, self.timeouts.reply)
    }

    /// Sends a request that has no reply of its own; asks for an acknowledgement where the backend gives them.
    fn tell_within(&self, message: &Message, fds: &[BorrowedFd<'_>], wait: Duration) -> Result<()> {
        let acknowledged = self.has(protocol::REPLY_ACK);
        let deadline = Deadline::after(wait);
        self.channel
            .send(&message.encode(acknowledged), fds, deadline)?;
        if !acknowledged {
            return Ok(());
        }
        match self.reply(message, deadline)? {
            (Reply::U64(0), None) => Ok(()),
            (Reply::U64(_), None) => Err(Error::Refused(message.request())),
            _ => Err(bad(message, "something that is no acknowledgement")),
        }
    }

    fn ask_number(&self, message: &Message) -> Result<u64> {
        match self.ask(message, &[])? {
            (Reply::U64(number), None) => Ok(number),
            _ => Err(bad(message, "something that is no number")),
        }
    }

    fn ask(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Option<File>)> {
        let deadline = Deadline::after(match message {
            Message::GetVringBase(_) => self.timeouts.drain,
            _ => self.timeouts.reply,
        });
        self.channel.send(&message.encode(false), fds, deadline)?;
        self.reply(message, deadline)
    }

    fn reply(&self, message: &Message, deadline: Deadline) -> Result<(Reply, Option<File>)> {
        let received = self.channel.receive(Some(deadline))?;
        if !received.header.flags.is_reply() {
            return Err(bad(message, "a message that is no reply"));
        }
        if received.header.request != message.request().0 {
            return Err(bad(message, "the reply to another request"));
        }
        let wants_file = matches!(
            message,
            Message::GetInflightFd(..) | Message::SetDeviceStateFd(_)
        );
        if received.file.is_some() && !wants_file {
            return Err(bad(message, "a descriptor that nobody asked for"));
        }
        let reply = Reply::decode(message.request(), &received.payload)?;
        Ok((reply, received.file))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn state(index: u16, num: u32) -> VringState {
    VringState {
        index: index.into(),
        num,
    }
}

fn bad(message: &Message, what: &'static str) -> Error {
    Error::BadReply {
        request: message.request(),
        what,
    }
}

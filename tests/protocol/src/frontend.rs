//! A scripted front-end. One rule: it sends exactly what it is told, right or wrong.

use crate::DEADLINE;
use crate::Guest;
use crate::GuestQueue;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use host_os::socket;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use vhost_user_protocol::FrontendMessage;
use vhost_user_protocol::HEADER_SIZE;
use vhost_user_protocol::Header;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::VringAddress;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;
use vhost_user_protocol::feature;
use vhost_user_protocol::feature::protocol;

/// One end of a connection to the server.
pub struct Frontend {
    /// The socket.
    pub stream: UnixStream,
}

impl Frontend {
    /// On an existing socket.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { stream })
    }

    /// Sends raw bytes.
    pub fn raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        if fds.is_empty() {
            return Ok(self.stream.write_all(bytes)?);
        }
        let sent = socket::send(self.stream.as_fd(), bytes, fds)?;
        ensure!(sent == bytes.len(), "short send");
        Ok(())
    }

    /// Sends a message and does not wait.
    pub fn send(&mut self, message: &FrontendMessage, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.raw(&message.encode(false), fds)
    }

    /// Sends a message with `need_reply`; zero is success.
    pub fn ask(&mut self, message: &FrontendMessage, fds: &[BorrowedFd<'_>]) -> Result<u64> {
        self.raw(&message.encode(true), fds)?;
        let (reply, _) = self.reply(message.request())?;
        match reply {
            Reply::U64(value) => Ok(value),
            other => bail!("{other:?} is no acknowledgement"),
        }
    }

    /// Like [`Self::ask`], and fails unless the server said yes.
    pub fn must(&mut self, message: &FrontendMessage, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let value = self.ask(message, fds)?;
        ensure!(value == 0, "{:?} was refused", message.request());
        Ok(())
    }

    /// Sends a message that always has a reply.
    pub fn get(&mut self, message: &FrontendMessage) -> Result<Reply> {
        self.send(message, &[])?;
        Ok(self.reply(message.request())?.0)
    }

    /// The number that answers `message`.
    pub fn number(&mut self, message: &FrontendMessage) -> Result<u64> {
        self.get(message)?.number().context("no number")
    }

    /// Receives the reply to `request`, with its descriptors.
    pub fn reply(&mut self, request: Request) -> Result<(Reply, Vec<OwnedFd>)> {
        let mut fds = Vec::new();
        let mut header = [0; HEADER_SIZE];
        let mut got = 0;
        while got < HEADER_SIZE {
            let target = header.get_mut(got..).context("header")?;
            self.wait()?;
            let n = socket::receive(self.stream.as_fd(), target, &mut fds)?.bytes;
            ensure!(n != 0, "the server closed the connection");
            got += n;
        }
        let header = Header::decode(&header)?;
        ensure!(
            header.request == request.0,
            "reply to {} instead of {request:?}",
            header.request
        );
        ensure!(header.flags.is_reply(), "no reply flag");
        let mut payload = vec![0; header.size as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((Reply::decode(request, &payload)?, fds))
    }

    fn wait(&self) -> Result<()> {
        use nix::poll::PollFd;
        use nix::poll::PollFlags;
        use nix::poll::PollTimeout;
        let timeout = PollTimeout::try_from(DEADLINE).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        ensure!(
            nix::poll::poll(&mut fds, timeout)? == 1,
            "no answer in time"
        );
        Ok(())
    }

    /// Whether the server closes the connection, reading away what it still says.
    pub fn is_closed_by_server(&mut self) -> bool {
        let mut sink = [0; 4096];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// The usual start: features and all protocol features on offer.
    pub fn negotiate(&mut self, features: u64) -> Result<u64> {
        self.send(&FrontendMessage::SetOwner, &[])?;
        let offered = self.number(&FrontendMessage::GetFeatures)?;
        ensure!(
            offered & features == features,
            "features {features:#x} are not on offer"
        );
        let protocol = self.number(&FrontendMessage::GetProtocolFeatures)?;
        ensure!(protocol & protocol::REPLY_ACK != 0, "no REPLY_ACK");
        self.send(&FrontendMessage::SetProtocolFeatures(protocol), &[])?;
        self.must(
            &FrontendMessage::SetFeatures(features | feature::PROTOCOL_FEATURES),
            &[],
        )?;
        Ok(protocol)
    }

    /// Hands over the guest's one region.
    pub fn set_memory(&mut self, guest: &Guest) -> Result<()> {
        self.must(
            &FrontendMessage::SetMemTable(vec![guest.region()]),
            &[guest.file.as_fd()],
        )
    }

    /// The ring address message of `queue`.
    pub fn addresses(queue: &GuestQueue) -> VringAddress {
        let [descriptor, available, used] = queue.user_areas;
        let index = queue.index.into();
        VringAddress {
            index,
            flags: 0,
            descriptor,
            used,
            available,
            log: 0,
        }
    }

    /// Sets up and starts `queue` at `base`.
    pub fn start_queue(&mut self, queue: &GuestQueue, base: u32) -> Result<()> {
        self.describe_queue(queue, base)?;
        self.enable(queue, true)
    }

    /// Sets `queue` up without enabling it.
    pub fn describe_queue(&mut self, queue: &GuestQueue, base: u32) -> Result<()> {
        self.describe_queue_at(queue, base, Self::addresses(queue))
    }

    /// As [`Self::describe_queue`], with these addresses.
    pub fn describe_queue_at(
        &mut self,
        queue: &GuestQueue,
        base: u32,
        addresses: VringAddress,
    ) -> Result<()> {
        use FrontendMessage as M;
        let index = u32::from(queue.index);
        self.must(
            &M::SetVringNum(VringState {
                index,
                num: queue.shape.size.into(),
            }),
            &[],
        )?;
        self.must(&M::SetVringBase(VringState { index, num: base }), &[])?;
        self.must(&M::SetVringAddr(addresses), &[])?;
        let with_fd = VringFd::new(queue.index as u8, true);
        self.must(&M::SetVringErr(with_fd), &[queue.err.as_fd()])?;
        self.must(&M::SetVringCall(with_fd), &[queue.call.as_fd()])?;
        self.must(&M::SetVringKick(with_fd), &[queue.kick.as_fd()])
    }

    /// Enables or disables `queue`.
    pub fn enable(&mut self, queue: &GuestQueue, on: bool) -> Result<()> {
        let state = VringState {
            index: queue.index.into(),
            num: on.into(),
        };
        self.must(&FrontendMessage::SetVringEnable(state), &[])
    }

    /// Stops `queue`; returns its base.
    pub fn stop_queue(&mut self, queue: &GuestQueue) -> Result<u32> {
        let state = VringState {
            index: queue.index.into(),
            num: 0,
        };
        match self.get(&FrontendMessage::GetVringBase(state))? {
            Reply::Vring(state) => Ok(state.num),
            other => bail!("{other:?} is no vring base"),
        }
    }
}

//! The channel on which the backend sends requests to us. Rule: the thread that reads it answers at once and takes
//! no lock, because a backend may wait for the answer while we wait for the backend.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vhost_user_protocol::BackendMessage;
use vhost_user_protocol::BackendRequest;
use vhost_user_protocol::Header;

use super::channel::Channel;
use super::channel::Deadline;
use crate::Error;
use crate::Result;

/// How long the backend may take to read an acknowledgement.
const ACKNOWLEDGE_WAIT: Duration = Duration::from_secs(5);

/// The running reader; dropping it ends it.
#[derive(Debug)]
pub(crate) struct BackendChannel {
    channel: Arc<Channel>,
    thread: Option<thread::JoinHandle<()>>,
}

impl BackendChannel {
    /// Starts the reader and returns the end to give to the backend. `config_changed` is called from its thread.
    pub(crate) fn start(
        name: &str,
        config_changed: impl Fn() + Send + 'static,
    ) -> Result<(Self, OwnedFd)> {
        let resource = |source| Error::Resource {
            what: "the backend request channel",
            source,
        };
        let (channel, other) = Channel::pair().map_err(resource)?;
        let channel = Arc::new(channel);
        let reader = Arc::clone(&channel);
        let thread = thread::Builder::new()
            .name(format!("{name}-requests"))
            .spawn(move || {
                if let Err(error) = serve(&reader, &config_changed)
                    && !matches!(error, Error::Disconnected)
                {
                    tracing::warn!(%error, "closing the backend's request channel");
                }
                // So that the backend learns that nobody listens any more.
                reader.shut_down();
            })
            .map_err(resource)?;
        let this = Self {
            channel,
            thread: Some(thread),
        };
        Ok((this, other.into()))
    }
}

impl Drop for BackendChannel {
    fn drop(&mut self) {
        self.channel.shut_down();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the hook; nothing depends on it here.
            let _ = thread.join();
        }
    }
}

fn serve(channel: &Channel, config_changed: &impl Fn()) -> Result<()> {
    loop {
        let received = channel.receive(None)?;
        let request = BackendRequest(received.header.request);
        let message = BackendMessage::decode(request, &received.payload);
        let known = match message {
            Ok(BackendMessage::ConfigChange) if received.file.is_none() => {
                config_changed();
                true
            }
            _ => {
                tracing::debug!(?request, "refusing a request of the backend");
                false
            }
        };
        if received.header.flags.need_reply() {
            acknowledge(channel, request, known)?;
        }
    }
}

fn acknowledge(channel: &Channel, request: BackendRequest, known: bool) -> Result<()> {
    let code = u64::from(!known).to_ne_bytes();
    let mut reply = Header::reply(request.0, code.len()).encode().to_vec();
    reply.extend_from_slice(&code);
    channel.send(&reply, &[], Deadline::after(ACKNOWLEDGE_WAIT))
}

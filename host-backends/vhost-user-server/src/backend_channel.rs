//! The channel for messages from the back-end. One rule: sending never blocks; a CONFIG_CHANGE that finds the socket
//! full is dropped, because the unread ones before it make the front-end read the same configuration.

use host_os::socket;
use host_os::sync::lock;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use vhost_user_protocol::BackendMessage;

/// Where CONFIG_CHANGE goes, if anywhere; shared with the device's notifier.
#[derive(Debug, Default)]
pub(crate) struct BackendChannel {
    stream: Mutex<Option<UnixStream>>,
}

impl BackendChannel {
    /// Replaces the socket; the old one is closed.
    pub(crate) fn set(&self, stream: Option<UnixStream>) {
        *lock(&self.stream) = stream;
    }

    /// Tells the front-end to read the configuration again.
    pub(crate) fn config_changed(&self) {
        let stream = lock(&self.stream);
        if let Some(stream) = &*stream {
            let bytes = BackendMessage::ConfigChange.encode(false);
            if let Err(error) = socket::send(stream.as_fd(), &bytes, &[]) {
                tracing::debug!(%error, "CONFIG_CHANGE was not sent");
            }
        }
    }
}

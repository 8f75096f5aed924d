//! Two disks on one image, each with its front-end, as the two ends of a live migration. One rule: at most one of them
//! starts, and the other can be asked all the while.

use anyhow::Result;
use anyhow::ensure;
use block_backend::BlockDevice;
use block_backend::BlockSpec;

use protocol::Frontend;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::Serving;
use protocol::eventually;
use std::path::Path;
use vhost_user_protocol::ConfigSpace;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Reply;
use vhost_user_protocol::VringFd;
use vhost_user_protocol::VringState;

/// A disk with its front-end and the guest behind it.
struct Side {
    frontend: Frontend,
    guest: Guest,
    queue: GuestQueue,
    _serving: Serving,
}

impl Side {
    fn new(image: &Path) -> Result<Self> {
        let spec = BlockSpec {
            lock_wait_ms: 50,
            ..BlockSpec::image(image)
        };
        let serving = Serving::new(BlockDevice::open(spec)?)?;
        let mut frontend = serving.connect()?;
        let guest = Guest::new()?;
        let queue = guest.queue(0, QueueShape::SPLIT)?;
        frontend.negotiate(QueueShape::SPLIT.features)?;
        frontend.set_memory(&guest)?;
        frontend.describe_queue(&queue, 0)?;
        Ok(Self {
            frontend,
            guest,
            queue,
            _serving: serving,
        })
    }

    fn starts(&mut self) -> Result<bool> {
        let state = VringState { index: 0, num: 1 };
        Ok(self.frontend.ask(&M::SetVringEnable(state), &[])? == 0)
    }

    /// As after a stop, with the ring still enabled.
    fn starts_again(&mut self) -> Result<bool> {
        use std::os::fd::AsFd;
        let kick = M::SetVringKick(VringFd::new(0, true));
        Ok(self.frontend.ask(&kick, &[self.queue.kick.as_fd()])? == 0)
    }

    fn capacity(&mut self) -> Result<u64> {
        let question = ConfigSpace {
            offset: 0,
            size: 8,
            flags: 0,
            data: vec![0; 8],
        };
        match self.frontend.get(&M::GetConfig(question))? {
            Reply::Config(config) => {
                let bytes = config.data.try_into();
                Ok(u64::from_le_bytes(
                    bytes.map_err(|_| anyhow::anyhow!("short"))?,
                ))
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
}

#[test]
fn an_image_is_handed_over_while_both_ends_are_connected() -> Result<()> {
    let image = tempfile::NamedTempFile::new()?;
    image.as_file().set_len(1 << 20)?;
    let (mut source, mut destination) = (Side::new(image.path())?, Side::new(image.path())?);
    ensure!(source.starts()?);
    ensure!(
        destination.capacity()? == 2048,
        "it answers before its turn"
    );
    ensure!(!destination.starts()?, "the source's guest may still write");
    ensure!(destination.queue.err.drain(), "the front-end is told");
    // Pauses that are no end: a ring that is disabled for a while, memory that comes anew.
    source.frontend.enable(&source.queue, false)?;
    ensure!(!destination.starts()?);
    source.frontend.enable(&source.queue, true)?;
    source.frontend.set_memory(&source.guest)?;
    ensure!(!destination.starts()?);
    source.frontend.stop_queue(&source.queue)?;
    ensure!(destination.starts()?, "the source has stopped");
    ensure!(!source.starts_again()?, "it must not write any more");
    // The destination goes away: the source may take up again.
    drop(destination);
    ensure!(eventually(|| source.starts_again().unwrap_or(false)));

    Ok(())
}

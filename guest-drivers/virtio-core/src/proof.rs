//! Proof that a device does not touch memory.
//!
//! Rule: made only by a reset that is done or by cutting the device off; good for one device and for what was enabled up to then; never
//! copied. [`crate::Device::restart`] uses a [`Quiesced`] up, and there is no way from a [`CutOff`] to a restart.
use core::ops::Deref;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

/// Tells started devices apart, for as long as the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceId(u64);

static NEXT: AtomicU64 = AtomicU64::new(0);

impl DeviceId {
    /// One that no other device has.
    pub(crate) fn fresh() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// One time that a queue runs: from its enabling to its reset or that of its device. Counted by the device, at each enabling.
pub(crate) type Epoch = u64;

/// What a queue or a proof belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) device: DeviceId,
    pub(crate) epoch: Epoch,
}

/// The device does not touch the memory of one or all of its queues, as they were enabled up to then. Lent by [`Quiesced`] and [`CutOff`].
#[derive(Debug)]
pub struct Stopped {
    life: Life,
    /// Which queue; `None` for all.
    queue: Option<u16>,
}

impl Stopped {
    /// Whether it holds for a queue that was enabled at `life`.
    pub(crate) fn covers(&self, life: Life, queue: u16) -> bool {
        self.life.device == life.device
            && life.epoch <= self.life.epoch
            && self.queue.is_none_or(|own| own == queue)
    }

    /// Whether it is of all queues and nothing was enabled since.
    pub(crate) fn is_whole(&self, now: Life) -> bool {
        self.life == now && self.queue.is_none()
    }
}

/// The device, or one queue of it, was reset.
///
/// It is taken back with the restart, after which the device owns buffers again:
///
/// ```compile_fail
/// # use driver_platform::{Clock, Log, PciFunction};
/// # use virtio_core::{Device, Quiesced, SlotQueue};
/// # fn shell<F: PciFunction, P: Clock + Log, T>(
/// #     device: &mut Device<F>, platform: &P, queue: &mut SlotQueue<T, F::Bar>, proof: Quiesced,
/// # ) -> Result<(), virtio_core::Error> {
/// device.restart(platform, proof, |_| Ok(0), |enabling| enabling.enable(queue))?;
/// queue.abandon(&proof)?; // use of a moved value
/// # Ok(())
/// # }
/// ```
///
/// The other way round it compiles:
///
/// ```
/// # use driver_platform::{Clock, Log, PciFunction};
/// # use virtio_core::{Device, Quiesced, SlotQueue};
/// # fn shell<F: PciFunction, P: Clock + Log, T>(
/// #     device: &mut Device<F>, platform: &P, queue: &mut SlotQueue<T, F::Bar>, proof: Quiesced,
/// # ) -> Result<(), virtio_core::Error> {
/// queue.abandon(&proof)?;
/// device.restart(platform, proof, |_| Ok(0), |enabling| enabling.enable(queue))?;
/// # Ok(())
/// # }
/// ```
///
/// Nobody can keep a second one,
///
/// ```compile_fail
/// # use virtio_core::Quiesced;
/// fn keep(proof: &Quiesced) -> Quiesced {
///     proof.clone()
/// }
/// ```
///
/// or make one:
///
/// ```compile_fail
/// # use virtio_core::{Quiesced, Stopped};
/// fn forge(stopped: Stopped) -> Quiesced {
///     Quiesced(stopped)
/// }
/// ```
#[derive(Debug)]
pub struct Quiesced(Stopped);

/// The device did not finish its reset and was cut off from memory: it is lost, but what was outstanding can be taken back.
///
/// It does not come back to life:
///
/// ```compile_fail
/// # use driver_platform::{Clock, Log, PciFunction};
/// # use virtio_core::{CutOff, Device, SlotQueue};
/// # fn shell<F: PciFunction, P: Clock + Log, T>(
/// #     device: &mut Device<F>, platform: &P, queue: &mut SlotQueue<T, F::Bar>, proof: CutOff,
/// # ) -> Result<(), virtio_core::Error> {
/// queue.abandon(&proof)?;
/// device.restart(platform, proof, |_| Ok(0), |enabling| enabling.enable(queue))?; // expects a `Quiesced`
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CutOff(Stopped);

impl Quiesced {
    pub(crate) fn of(life: Life, queue: Option<u16>) -> Self {
        Self(Stopped { life, queue })
    }

    /// From here on the device may own memory again, whatever comes of the restart.
    pub(crate) fn use_up(self) {}
}

impl CutOff {
    pub(crate) fn of(life: Life) -> Self {
        Self(Stopped { life, queue: None })
    }
}

impl Deref for Quiesced {
    type Target = Stopped;

    fn deref(&self) -> &Stopped {
        &self.0
    }
}

impl Deref for CutOff {
    type Target = Stopped;

    fn deref(&self) -> &Stopped {
        &self.0
    }
}

/// How far a reset has got.
#[derive(Debug)]
pub enum ResetProgress {
    /// Ask again later.
    Pending,
    /// Done; the queues can be emptied and started again.
    Done(Quiesced),
    /// The device did not finish in time and was cut off from memory: the queues can be emptied, but the device is lost.
    GaveUp(CutOff),
}

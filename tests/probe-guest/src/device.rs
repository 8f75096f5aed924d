//! What a shell does for every virtio device: finds it, brings its messages up, tells why it failed, and stops it.
//!
//! Rule: the drivers hold the logic; what stands here translates.
use virtio_core::Error;
use virtio_core::Quiesced;
use virtio_core::ResetProgress;
use virtio_spec::feature;
use virtio_spec::pci::DEVICE_ID_BASE;
use virtio_spec::pci::VENDOR_ID;

use crate::command::Task;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::pci::Function;
use crate::pci::Messages;
use crate::pci::Place;

/// A feature that a task switches by name, and whether it is on otherwise.
pub(crate) type Switch = (&'static str, u64, bool);

/// What every device has to switch.
const RING_SWITCHES: [Switch; 5] = [
    ("packed", feature::RING_PACKED, false),
    ("event_idx", feature::RING_EVENT_IDX, true),
    ("indirect", feature::RING_INDIRECT_DESC, true),
    ("in_order", feature::IN_ORDER, false),
    ("notification_data", feature::NOTIFICATION_DATA, true),
];

/// Whether a function is a modern virtio device of a type.
pub(crate) fn is_virtio(place: Place, device_type: u32) -> bool {
    place.read_u16(0) == VENDOR_ID
        && u32::from(place.read_u16(2)) == u32::from(DEVICE_ID_BASE) + device_type
}

/// A parameter that is a number.
pub(crate) fn number(task: &Task<'_>, name: &str, default: u64) -> Result<u64, Failure> {
    task.number(name, default)
        .map_err(|_| Failure::new("A parameter is not a number", 0))
}

/// `wanted` without what the task switches off.
pub(crate) fn features(task: &Task<'_>, wanted: u64, switches: &[Switch]) -> u64 {
    let all = RING_SWITCHES.iter().chain(switches);
    let off = all.filter(|(name, _, default)| !task.flag(name, *default));
    off.fold(wanted, |features, (_, bits, _)| features & !bits)
}

/// Opens the function of the device of a type with this number.
pub(crate) fn open(
    machine: &Machine,
    device_type: u32,
    index: u64,
) -> Result<(Function, Messages), Failure> {
    let places = machine.functions.iter().copied();
    let mut places = places.filter(|&place| is_virtio(place, device_type));
    let place = places.nth(index as usize);
    let place = place.ok_or(Failure::new("There is no such device", index))?;
    let function = Function::open(place);
    let messages = function.enable_messages();
    Ok((function, messages))
}

/// Waits for the reset that was begun, which the driver bounds.
pub(crate) fn stopped(mut poll: impl FnMut() -> ResetProgress) -> Result<Quiesced, Failure> {
    loop {
        match poll() {
            ResetProgress::Pending => core::hint::spin_loop(),
            ResetProgress::Done(proof) => return Ok(proof),
            ResetProgress::GaveUp(_) => {
                return Err(Failure::new("The device does not finish its reset", 0));
            }
        }
    }
}

/// A driver's error as a failure of the job.
pub(crate) fn failed(error: Error, value: u64) -> Failure {
    let what = match error {
        Error::Transport(virtio_pci::Error::BadCapability) => "The device has bad capabilities",
        Error::Transport(virtio_pci::Error::FeaturesRefused) => "The device refused the features",
        Error::Transport(virtio_pci::Error::NoVector) => "The device has no vector",
        Error::Transport(_) => "The device's transport failed",
        Error::BadConfig => "The device has a bad configuration",
        Error::Memory(_) | Error::OutOfMemory => "No memory for the device's queues",
        _ => "The device did not start",
    };
    Failure::new(what, value)
}

//! The balloon's configuration space (virtio 1.4 sec. 5.5.4).
//!
//! Rule: a field counts only if its feature was negotiated; no value of it can harm, so none is refused.
use driver_platform::PciFunction;
use virtio_pci::Error;
use virtio_pci::Transport;
use virtio_spec::balloon;
use virtio_spec::balloon::feature;
use virtio_spec::balloon::hint_command;

/// What the device wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Pages in the balloon.
    pub(crate) num_pages: u32,
    /// Free page hints.
    pub(crate) hint_command: u32,
}

impl Wishes {
    pub(crate) fn read<F: PciFunction>(transport: &Transport<F>) -> Result<Self, Error> {
        transport.read_consistent(|t| {
            let num_pages = t.read_field(balloon::CONFIG_NUM_PAGES_OFFSET)?;
            let hint_command = match t.has(feature::FREE_PAGE_HINT) {
                true => u32::from_le_bytes(t.read_field(balloon::CONFIG_HINT_COMMAND_OFFSET)?),
                false => hint_command::STOP,
            };
            Ok(Self {
                num_pages: u32::from_le_bytes(num_pages),
                hint_command,
            })
        })
    }
}

/// Tells the device how many pages are in the balloon.
pub(crate) fn write_actual<F: PciFunction>(
    transport: &Transport<F>,
    actual: u32,
) -> Result<(), Error> {
    transport.write_config_u32(balloon::CONFIG_ACTUAL_OFFSET, actual)
}

/// Tells the device the guest's poison, before DRIVER_OK (sec. 5.5.6.5.1).
pub(crate) fn write_poison<F: PciFunction>(
    transport: &Transport<F>,
    poison: u32,
) -> Result<(), Error> {
    transport.write_config_u32(balloon::CONFIG_POISON_OFFSET, poison)
}

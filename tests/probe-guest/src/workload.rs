//! A disk that a job has opened.
//!
//! Rule: closed by a reset before the job's memory is used for anything else.
use alloc::vec::Vec;

use block_driver::BlockDriver;
use block_driver::BlockQueue;
use block_driver::Options;
use block_driver::WANTED_FEATURES;
use driver_platform::Interrupts;
use virtio_pci::ResetState;
use virtio_spec::device_id;
use virtio_spec::feature;
use virtio_spec::pci::DEVICE_ID_BASE;
use virtio_spec::pci::VENDOR_ID;

use crate::command::Task;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::pci::Bar;
use crate::pci::Function;
use crate::pci::Place;
use crate::platform::Platform;

pub(crate) type Queue = BlockQueue<Platform, Bar>;

/// A started disk.
pub(crate) struct Disk {
    pub(crate) driver: BlockDriver<Function>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) messages: u16,
}

/// Whether a function is a modern virtio disk.
pub(crate) fn is_disk(place: Place) -> bool {
    place.read_u16(0) == VENDOR_ID
        && u32::from(place.read_u16(2)) == u32::from(DEVICE_ID_BASE) + device_id::BLOCK
}

/// A parameter that is no number.
pub(crate) fn number(task: &Task<'_>, name: &str, default: u64) -> Result<u64, Failure> {
    task.number(name, default)
        .map_err(|_| Failure::new("A parameter is not a number", 0))
}

impl Disk {
    /// Opens the disk that the task names.
    pub(crate) fn open(machine: &Machine, task: &Task<'_>) -> Result<Self, Failure> {
        let index = number(task, "disk", 0)?;
        let place = machine
            .functions
            .iter()
            .copied()
            .filter(|&place| is_disk(place))
            .nth(index as usize)
            .ok_or(Failure::new("There is no such disk", index))?;
        let unwanted = [
            ("packed", feature::RING_PACKED, false),
            ("event_idx", feature::RING_EVENT_IDX, true),
            ("indirect", feature::RING_INDIRECT_DESC, true),
            ("in_order", feature::IN_ORDER, false),
            ("notification_data", feature::NOTIFICATION_DATA, true),
        ];
        let mut features = WANTED_FEATURES;
        for (name, bit, default) in unwanted {
            if !task.flag(name, default) {
                features &= !bit;
            }
        }
        let options = Options {
            queues: number(task, "queues", 1)?.clamp(1, 64) as u16,
            queue_size: number(task, "queue_size", 256)?.clamp(4, 32768) as u16,
            max_segments: number(task, "max_segments", 64)?.clamp(1, 1024) as u16,
            features,
        };
        let function = Function::open(place);
        let messages = function.enable_messages();
        let (driver, queues) = BlockDriver::start(&machine.platform, function, &messages, options)
            .map_err(|failure| Failure::new(reason(failure.error), index))?;
        Ok(Self {
            driver,
            queues,
            messages: messages.messages(),
        })
    }

    /// Resets the device.
    pub(crate) fn close(mut self, machine: &Machine) -> Result<(), Failure> {
        self.driver.begin_stop(&machine.platform);
        let end = crate::cpu::tsc() + machine.platform.ticks(5000);
        while self.driver.transport().poll_reset() == ResetState::Pending {
            if crate::cpu::tsc() > end {
                return Err(Failure::new("The disk does not finish its reset", 0));
            }
        }
        Ok(())
    }
}

fn reason(error: block_driver::Error) -> &'static str {
    match error {
        block_driver::Error::Transport(virtio_pci::Error::BadCapability) => {
            "The disk has bad capabilities"
        }
        block_driver::Error::Transport(virtio_pci::Error::FeaturesRefused) => {
            "The disk refused the features"
        }
        block_driver::Error::Transport(virtio_pci::Error::NoVector) => "The disk has no vector",
        block_driver::Error::Transport(_) => "The disk's transport failed",
        block_driver::Error::BadConfig => "The disk has a bad configuration",
        block_driver::Error::Memory(_) => "No memory for the disk's queues",
        _ => "The disk did not start",
    }
}

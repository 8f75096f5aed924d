//! A disk that a job has opened.
//!
//! Rule: closed by a reset before the job's memory is used for anything else.
use alloc::vec::Vec;

use block_driver::BlockDriver;
use block_driver::BlockQueue;
use block_driver::Options;
use block_driver::WANTED_FEATURES;
use driver_platform::Interrupts;
use virtio_spec::device_id;

use crate::command::Task;
use crate::device;
use crate::device::number;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::pci::Bar;
use crate::pci::Function;
use crate::platform::Platform;

pub(crate) type Queue = BlockQueue<Platform, Bar>;

/// A started disk.
pub(crate) struct Disk {
    pub(crate) driver: BlockDriver<Function>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) messages: u16,
}

impl Disk {
    /// Opens the disk that the task names.
    pub(crate) fn open(machine: &Machine, task: &Task<'_>) -> Result<Self, Failure> {
        let index = number(task, "disk", 0)?;
        let options = Options {
            queues: number(task, "queues", 1)?.clamp(1, 64) as u16,
            queue_size: number(task, "queue_size", 256)?.clamp(4, 32768) as u16,
            max_segments: number(task, "max_segments", 64)?.clamp(1, 1024) as u16,
            features: device::features(task, WANTED_FEATURES, &[]),
        };
        let (function, messages) = device::open(machine, device_id::BLOCK, index)?;
        let (driver, queues) = BlockDriver::start(&machine.platform, function, &messages, options)
            .map_err(|failure| device::failed(failure.error, index))?;
        Ok(Self {
            driver,
            queues,
            messages: messages.messages(),
        })
    }

    /// Resets the device.
    pub(crate) fn close(mut self, machine: &Machine) -> Result<(), Failure> {
        self.driver.begin_stop(&machine.platform);
        device::stopped(|| self.driver.poll_reset(&machine.platform))?;
        Ok(())
    }
}

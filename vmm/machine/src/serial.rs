//! The serial port (16550A) on COM1: output to a writer, input from whoever calls [`SerialPort::input`].
//!
//! One rule: nothing is buffered beyond the chip's own FIFO, so neither side can make the VMM's memory grow.

use std::io::Write;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;

use host_os::EventFd;
use host_os::sync::lock;
use vm_superio::Serial;
use vm_superio::Trigger;
use vm_superio::serial::NoEvents;

use crate::bus::PortDevice;

/// Raises the port's interrupt line.
pub(crate) struct Irq(pub(crate) EventFd);

impl Trigger for Irq {
    type E = core::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.notify();
        Ok(())
    }
}

type Chip = Serial<Irq, NoEvents, Box<dyn Write + Send>>;

/// The port.
pub(crate) struct SerialPort {
    chip: Mutex<Chip>,
    drained: Condvar,
}

impl SerialPort {
    pub(crate) fn new(irq: Irq, out: Box<dyn Write + Send>) -> Self {
        Self {
            chip: Mutex::new(Serial::new(irq, out)),
            drained: Condvar::new(),
        }
    }

    /// Feeds input to the guest, waiting while its FIFO is full; what does not get in within `patience` is dropped.
    pub(crate) fn input(&self, bytes: &[u8], patience: Duration) {
        let mut rest = bytes;
        let mut chip = lock(&self.chip);
        while !rest.is_empty() {
            let room = chip.fifo_capacity().min(rest.len());
            let (now, later) = rest.split_at(room);
            if room > 0 && chip.enqueue_raw_bytes(now).is_ok() {
                rest = later;
                continue;
            }
            let Ok((guard, waited)) = self.drained.wait_timeout(chip, patience) else {
                return;
            };
            if waited.timed_out() {
                return;
            }
            chip = guard;
        }
    }
}

impl PortDevice for SerialPort {
    fn read(&self, offset: u16, data: &mut [u8]) {
        if let [value] = data {
            *value = lock(&self.chip).read((offset & 7) as u8);
            if offset == 0 {
                self.drained.notify_all();
            }
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        if let [value] = data {
            // A writer that fails (closed pipe) loses the output; the guest must not notice.
            let _ = lock(&self.chip).write((offset & 7) as u8, *value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_pass_both_ways() {
        let out = Shared::default();
        let port = SerialPort::new(Irq(EventFd::new().unwrap()), Box::new(out.clone()));
        port.write(0, b"x");
        assert_eq!(*lock(&out.0), b"x");
        port.input(b"y", Duration::ZERO);
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!(data, *b"y");
    }

    #[test]
    fn input_beyond_the_fifo_is_bounded() {
        let port = SerialPort::new(Irq(EventFd::new().unwrap()), Box::new(Shared::default()));
        port.input(&[7; 10_000], Duration::from_millis(1));
        assert_eq!(lock(&port.chip).fifo_capacity(), 0);
    }

    #[test]
    fn accesses_of_any_size_anywhere_are_harmless() {
        let port = SerialPort::new(Irq(EventFd::new().unwrap()), Box::new(Shared::default()));
        for offset in 0..8 {
            for len in 0..9 {
                port.read(offset, &mut vec![0; len]);
                port.write(offset, &vec![0xff; len]);
            }
        }
    }
}

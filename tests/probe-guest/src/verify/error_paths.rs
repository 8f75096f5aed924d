//! Requests that the driver would not send: the device has to refuse each, and to go on.
//!
//! Rule: a refused request comes back with its buffer.

use block_driver::Operation;
use block_driver::Request;
use block_driver::RequestError;
use block_driver::Serial;
use block_driver::Success;

use super::STALL_MS;
use super::Verify;
use crate::cpu;
use crate::json::Line;
use crate::machine::Failure;
use crate::platform::Buffer;

impl Verify<'_> {
    /// Sends one request past the driver's checks and returns how the device took it.
    fn alone(
        &mut self,
        request: Request<Buffer>,
    ) -> Result<(Result<Success, RequestError>, Option<Buffer>), Failure> {
        self.submit(0, request)?;
        let start = cpu::tsc();
        loop {
            if let Some(done) = self.poll(0)? {
                return Ok((done.result, done.buffer));
            }
            if cpu::tsc() - start > self.machine.platform.ticks(STALL_MS) {
                return Err(Failure::new("A bad request never came back", 0));
            }
        }
    }

    /// Requests that the device has to refuse, one at a time; afterwards it works as before.
    pub(super) fn error_paths(&mut self) -> Result<(), Failure> {
        let info = self.disk.driver.info();
        let len = info.block_size;
        let mut buffer = self.machine.platform.buffer(len, len);
        let mut cases = alloc::vec![
            (0, info.capacity_sectors, "read beyond the end"),
            (0, u64::MAX / 512, "read far beyond the end"),
            (0x7ffe, 0, "request of an unknown type"),
        ];
        match info.read_only {
            true => cases.push((1, 0, "write to a read-only disk")),
            false => cases.push((1, info.capacity_sectors, "write beyond the end")),
        }
        for (request_type, sector, what) in cases {
            let operation = Operation::Raw {
                request_type,
                sector,
            };
            let (result, back) = self.alone(Request {
                operation,
                buffer: buffer.take(),
                cookie: 0,
            })?;
            buffer = back;
            let expected = match request_type {
                0x7ffe => RequestError::Unsupported,
                _ => RequestError::Io,
            };
            let good = result == Err(expected);
            Line::new("refused")
                .text("what", what)
                .truth("good", good)
                .print();
            if !good {
                return Err(Failure::new(what, sector));
            }
        }
        let (result, _) = self.alone(Request {
            operation: Operation::GetSerial,
            buffer: None,
            cookie: 0,
        })?;
        if let Ok(Success::Serial(serial)) = result {
            let text = core::str::from_utf8(Serial::as_bytes(&serial)).unwrap_or("(not text)");
            Line::new("serial").text("serial", text).print();
        }
        // The disk still works.
        let slot = self.free_slot()?;
        self.start(slot, Operation::Read { sector: 0 }, self.block)?;
        self.drain()
    }
}

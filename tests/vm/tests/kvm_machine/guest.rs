//! A machine with a guest made of bytes, and a limit on its life.
//!
//! One rule: the guest starts at [`CODE`] in 32-bit protected mode with EBX = [`START_INFO`].

use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::Context;
use machine::Entry;
use machine::Machine;
use machine::MachineSpec;
use machine::Stop;

pub use vm::kernel::ELF_CODE as CODE;
pub const START_INFO: u32 = 0x6000;
/// A free page of RAM for guest and test.
pub const FLAG: u64 = 0x20_0000;
const LIMIT: Duration = Duration::from_secs(10);

/// What the serial port wrote.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    pub fn text(&self) -> String {
        let bytes = self.0.lock().map(|bytes| bytes.clone());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut bytes) = self.0.lock() {
            bytes.extend_from_slice(data);
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub fn build(cpus: u32) -> anyhow::Result<(Machine, Output)> {
    let output = Output::default();
    let machine = Machine::new(MachineSpec {
        memory: 16 << 20,
        cpus,
        serial: Some(Box::new(output.clone())),
        debug_exit: true,
    })?;
    Ok((machine, output))
}

/// Resets the machine, puts `code` in place and runs it; a guest that takes too long is an error.
pub fn run(machine: &mut Machine, code: &[u8]) -> anyhow::Result<Stop> {
    machine.reset()?;
    machine.ram().write(u64::from(CODE), code)?;
    let controls = machine.controls();
    let (done, wait) = channel::<()>();
    let limit = std::thread::spawn(move || {
        if wait.recv_timeout(LIMIT).is_err() {
            controls.stop();
        }
    });
    let stop = machine.run(Entry {
        address: CODE,
        start_info: START_INFO,
    })?;
    let _ = done.send(());
    limit.join().ok().context("The limit's thread panicked")?;
    match stop {
        Stop::Failed(text) => anyhow::bail!("{text}"),
        other => Ok(other),
    }
}

//! How the guest switches itself off or resets itself: ACPI fixed hardware, the reset ports, the debug exit port.
//!
//! One rule: the devices here only report; the machine's owner decides what follows.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::time::Instant;

use host_os::sync::lock;
use kvm::Vm;

use crate::bus::PortDevice;
use crate::layout;

/// Why the machine stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset, or met a triple fault; the text says which.
    Reset(&'static str),
    /// The guest wrote this byte to the debug exit port.
    DebugExit(u8),
    /// [`crate::Controls::stop`] was called.
    Requested,
    /// KVM cannot go on; the text is for a person.
    Failed(String),
}

const PM_EVENT: u16 = 0;
const PM_ENABLE: u16 = 2;
const PM_CONTROL: u16 = 4;
const PM_TIMER: u16 = 8;
const POWER_BUTTON: u16 = 1 << 8;
const SCI_ENABLED: u16 = 1;
const SLEEP: u16 = 1 << 13;
/// Hertz of the PM timer.
const TIMER_RATE: u128 = 3_579_545;

/// The ACPI fixed hardware: PM1 events, PM1 control, PM timer.
pub(crate) struct FixedHardware {
    events: Sender<Stop>,
    vm: Option<Arc<Vm>>,
    started: Instant,
    registers: Mutex<Registers>,
}

#[derive(Default)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
}

impl FixedHardware {
    /// Without a VM (in tests) the SCI goes nowhere.
    pub(crate) fn new(events: Sender<Stop>, vm: Option<Arc<Vm>>) -> Self {
        Self {
            events,
            vm,
            started: Instant::now(),
            registers: Mutex::new(Registers::default()),
        }
    }

    /// Presses the power button. False if the guest does not listen to it.
    pub(crate) fn press_power_button(&self) -> bool {
        let mut registers = lock(&self.registers);
        registers.status |= POWER_BUTTON;
        self.update_line(&registers);
        registers.enable & POWER_BUTTON != 0
    }

    pub(crate) fn reset(&self) {
        let mut registers = lock(&self.registers);
        *registers = Registers::default();
        self.update_line(&registers);
    }

    fn update_line(&self, registers: &Registers) {
        let high = registers.status & registers.enable != 0;
        if let Some(vm) = &self.vm
            && let Err(error) = vm.set_line(u32::from(layout::SCI), high)
        {
            tracing::warn!(%error, "SCI could not be set");
        }
    }

    fn image(&self) -> [u8; 12] {
        let registers = lock(&self.registers);
        let ticks = self.started.elapsed().as_nanos() * TIMER_RATE / 1_000_000_000;
        let mut image = [0; 12];
        let mut put = |offset: u16, value: &[u8]| {
            let slots = image.iter_mut().skip(usize::from(offset));
            slots.zip(value).for_each(|(slot, byte)| *slot = *byte);
        };
        put(PM_EVENT, &registers.status.to_le_bytes());
        put(PM_ENABLE, &registers.enable.to_le_bytes());
        put(PM_CONTROL, &(registers.control | SCI_ENABLED).to_le_bytes());
        put(PM_TIMER, &(ticks as u32).to_le_bytes());
        image
    }

    fn write_word(&self, offset: u16, value: u16) {
        let mut registers = lock(&self.registers);
        match offset {
            PM_EVENT => registers.status &= !value,
            PM_ENABLE => registers.enable = value,
            PM_CONTROL => {
                registers.control = value & !SLEEP;
                let kind = (value >> 10) & 7;
                if value & SLEEP != 0 && kind == u16::from(layout::POWER_OFF_TYPE) {
                    let _ = self.events.send(Stop::PowerOff);
                }
            }
            _ => {}
        }
        self.update_line(&registers);
    }
}

impl PortDevice for FixedHardware {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let image = self.image();
        let from = image.iter().skip(usize::from(offset));
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }

    /// Registers are words; a byte write to the upper half of the control register is what some systems do to sleep.
    fn write(&self, offset: u16, data: &[u8]) {
        match data {
            [value] => {
                let shift = 8 * (offset & 1);
                let word = offset & !1;
                let kept = if word == PM_EVENT {
                    0
                } else {
                    self.word(word) & !(0xff << shift)
                };
                self.write_word(word, kept | (u16::from(*value) << shift));
            }
            [low, high] => self.write_word(offset, u16::from_le_bytes([*low, *high])),
            [a, b, c, d] => {
                self.write_word(offset, u16::from_le_bytes([*a, *b]));
                self.write_word(offset.saturating_add(2), u16::from_le_bytes([*c, *d]));
            }
            _ => {}
        }
    }
}

impl FixedHardware {
    fn word(&self, offset: u16) -> u16 {
        let mut raw = [0; 2];
        self.read(offset, &mut raw);
        u16::from_le_bytes(raw)
    }
}

/// The keyboard controller, as far as it resets the machine: command 0xfe to port 0x64.
pub(crate) struct KeyboardController(pub(crate) Sender<Stop>);

impl PortDevice for KeyboardController {
    fn read(&self, _: u16, data: &mut [u8]) {
        // Status: both buffers empty, so that nobody waits for it.
        data.fill(0);
    }

    fn write(&self, offset: u16, data: &[u8]) {
        if (offset, data.first()) == (4, Some(&0xfe)) {
            let _ = self.0.send(Stop::Reset("keyboard controller"));
        }
    }
}

/// The debug exit port: a byte ends the VM.
pub(crate) struct DebugExit(pub(crate) Sender<Stop>);

impl PortDevice for DebugExit {
    fn read(&self, _: u16, _: &mut [u8]) {}

    fn write(&self, _: u16, data: &[u8]) {
        if let Some(code) = data.first() {
            let _ = self.0.send(Stop::DebugExit(*code));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;
    use std::sync::mpsc::channel;

    use super::*;

    fn hardware() -> (FixedHardware, Receiver<Stop>) {
        let (send, receive) = channel();
        (FixedHardware::new(send, None), receive)
    }

    #[test]
    fn the_sleep_type_of_soft_off_switches_off() {
        let (hardware, events) = hardware();
        hardware.write(PM_CONTROL, &(SLEEP | (1 << 10)).to_le_bytes());
        assert!(
            events.try_recv().is_err(),
            "another sleep type does nothing"
        );
        let value = SLEEP | (u16::from(layout::POWER_OFF_TYPE) << 10);
        hardware.write(PM_CONTROL, &value.to_le_bytes());
        assert_eq!(events.try_recv(), Ok(Stop::PowerOff));
        let [low, high] = value.to_le_bytes();
        hardware.write(PM_CONTROL, &[low]);
        hardware.write(PM_CONTROL + 1, &[high]);
        assert_eq!(events.try_recv(), Ok(Stop::PowerOff), "in two bytes too");
    }

    #[test]
    fn the_power_button_is_seen_until_it_is_cleared() {
        let (hardware, _events) = hardware();
        assert!(!hardware.press_power_button(), "nobody listens yet");
        hardware.write(PM_ENABLE, &POWER_BUTTON.to_le_bytes());
        assert!(hardware.press_power_button());
        assert_eq!(hardware.word(PM_EVENT), POWER_BUTTON);
        hardware.write(PM_EVENT, &[0xff]);
        assert_eq!(hardware.word(PM_EVENT), POWER_BUTTON);
        hardware.write(PM_EVENT, &POWER_BUTTON.to_le_bytes());
        assert_eq!(hardware.word(PM_EVENT), 0);
    }

    #[test]
    fn acpi_mode_is_always_on() {
        let (hardware, _events) = hardware();
        hardware.write(PM_CONTROL, &[0, 0]);
        assert_eq!(hardware.word(PM_CONTROL), SCI_ENABLED);
    }

    #[test]
    fn accesses_of_any_size_anywhere_are_harmless() {
        let (hardware, _events) = hardware();
        for offset in 0..16 {
            for len in 0..9 {
                hardware.read(offset, &mut vec![0; len]);
                hardware.write(offset, &vec![0; len]);
            }
        }
    }
}

//! One JSON object a line on the serial port.
//!
//! Rule: a line leaves with one string instruction, because a byte a time would cost an exit each.
use alloc::string::String;
use core::fmt::Display;
use core::fmt::Write;

use crate::cpu;

const SERIAL: u16 = 0x3f8;

/// A line that is being put together.
pub(crate) struct Line {
    text: String,
}

impl Line {
    /// Begins a line of a kind.
    pub(crate) fn new(kind: &str) -> Self {
        let mut text = String::with_capacity(512);
        let _ = write!(text, "{{\"kind\":\"{kind}\"");
        Self { text }
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, name: &str, value: u64) -> &mut Self {
        let _ = write!(self.text, ",\"{name}\":{value}");
        self
    }

    /// Adds a number with three decimals, given in thousandths.
    pub(crate) fn thousandths(&mut self, name: &str, value: u64) -> &mut Self {
        let _ = write!(
            self.text,
            ",\"{name}\":{}.{:03}",
            value / 1000,
            value % 1000
        );
        self
    }

    /// Adds a number as a hexadecimal string.
    pub(crate) fn hex(&mut self, name: &str, value: u64) -> &mut Self {
        let _ = write!(self.text, ",\"{name}\":\"{value:#x}\"");
        self
    }

    /// Adds a truth value.
    pub(crate) fn truth(&mut self, name: &str, value: bool) -> &mut Self {
        let _ = write!(self.text, ",\"{name}\":{value}");
        self
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.display(name, &value)
    }

    /// Adds anything that can be shown, as a string.
    pub(crate) fn display(&mut self, name: &str, value: &impl Display) -> &mut Self {
        let _ = write!(self.text, ",\"{name}\":\"");
        let _ = write!(Escaped(&mut self.text), "{value}");
        self.text.push('"');
        self
    }

    /// Sends the line.
    pub(crate) fn print(&mut self) {
        self.text.push_str("}\n");
        cpu::out_bytes(SERIAL, self.text.as_bytes());
    }
}

struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for character in text.chars() {
            match character {
                '"' | '\\' => {
                    self.0.push('\\');
                    self.0.push(character);
                }
                control if control < ' ' => self.0.push('?'),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

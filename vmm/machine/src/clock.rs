//! The CMOS clock (MC146818) at ports 0x70 and 0x71: the date, and nothing else.
//!
//! One rule: read-only; the time is the host's UTC at the moment of the read. No alarms, no memory.

use std::sync::Mutex;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use host_os::sync::lock;

use crate::bus::PortDevice;

/// Status B: 24-hour mode, BCD.
const STATUS_B: u8 = 0x02;
/// Status D: the battery is good.
const STATUS_D: u8 = 0x80;

/// The clock.
#[derive(Default)]
pub(crate) struct Clock {
    index: Mutex<u8>,
}

impl PortDevice for Clock {
    fn read(&self, offset: u16, data: &mut [u8]) {
        if let (1, [value, ..]) = (offset, data) {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs());
            *value = register(*lock(&self.index), now);
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        if let (0, [value, ..]) = (offset, data) {
            // Bit 7 is the NMI mask of old machines.
            *lock(&self.index) = value & 0x7f;
        }
    }
}

/// The value of a register at `seconds` since 1970.
fn register(index: u8, seconds: u64) -> u8 {
    let day = seconds / 86_400;
    let (year, month, date) = civil(day);
    let bcd = |value: u64| (((value / 10 % 10) << 4) | (value % 10)) as u8;
    match index {
        0x00 => bcd(seconds % 60),
        0x02 => bcd(seconds / 60 % 60),
        0x04 => bcd(seconds / 3600 % 24),
        // 1 is Sunday; 1970 began on a Thursday.
        0x06 => bcd((day + 4) % 7 + 1),
        0x07 => bcd(date),
        0x08 => bcd(month),
        0x09 => bcd(year % 100),
        0x32 => bcd(year / 100),
        // Status A: a 32.768 kHz time base, no update in progress.
        0x0a => 0x26,
        0x0b => STATUS_B,
        0x0d => STATUS_D,
        _ => 0,
    }
}

/// Year, month and day of the month of a day since 1970-01-01 in the Gregorian calendar.
fn civil(day: u64) -> (u64, u64, u64) {
    // Counted in 400-year eras from 1 March of year 0, so that leap days come last.
    let days = day + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registers_show_the_date_in_bcd() {
        // 2026-11-21 21:45:02 UTC, a Saturday.
        let at = 1_795_297_502;
        let shown: Vec<u8> = [0, 2, 4, 6, 7, 8, 9, 0x32]
            .iter()
            .map(|index| register(*index, at))
            .collect();
        assert_eq!(shown, [0x02, 0x45, 0x21, 7, 0x21, 0x11, 0x26, 0x20]);
    }

    #[test]
    fn leap_days_exist_every_four_years_but_not_in_2100() {
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1));
    }

    #[test]
    fn odd_accesses_read_as_nothing() {
        let clock = Clock::default();
        let mut data = [0xff; 4];
        clock.read(0, &mut data);
        assert_eq!(data, [0xff; 4]);
        clock.write(1, &[1, 2, 3, 4]);
        clock.write(0, &[]);
        clock.read(1, &mut []);
    }
}

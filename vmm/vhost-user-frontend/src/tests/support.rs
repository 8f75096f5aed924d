//! Guest memory, a ring driver and waiting. Rule: memory is reached through its file, as any process would.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use host_os::EventFd;

use crate::session::Memory;
use crate::session::QueueSetup;
use crate::session::Region;

pub const GUEST_BASE: u64 = 0x4000_0000;
pub const RAM_SIZE: u64 = 1 << 20;

/// Waits until `condition` holds; fails after some seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A memfd of guest memory.
#[derive(Clone)]
pub struct Guest {
    pub file: Arc<File>,
}

impl Guest {
    pub fn new() -> Self {
        let file = File::from(host_os::memfd::create("guest", RAM_SIZE).unwrap());
        let file = Arc::new(file);
        Self { file }
    }

    pub fn region(&self) -> Region {
        Region {
            guest_addr: GUEST_BASE,
            size: RAM_SIZE,
            user_addr: 0x7f00_0000_0000,
            file: Arc::clone(&self.file),
            offset: 0,
        }
    }

    pub fn memory(&self) -> Memory {
        Memory::new(vec![self.region()]).unwrap()
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, address - GUEST_BASE).unwrap();
    }

    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let at = address - GUEST_BASE;
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub fn read_u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address))
    }
}

/// Guest addresses of queue `index`.
pub fn areas(index: u16) -> (u64, u64, u64) {
    let start = GUEST_BASE + 0x1_0000 * (u64::from(index) + 1);
    (start, start + 0x4000, start + 0x8000)
}

pub fn queue(index: u16, size: u16) -> QueueSetup {
    let (descriptors, driver, device) = areas(index);
    QueueSetup {
        index,
        size,
        descriptors,
        driver,
        device,
        kick: Arc::new(EventFd::new().unwrap()),
        call: Arc::new(EventFd::new().unwrap()),
        base: None,
    }
}

/// The simplest possible driver of a split ring: request `n` is a readable and a writable buffer.
pub struct SplitDriver {
    guest: Guest,
    index: u16,
    size: u16,
    next: u16,
}

impl SplitDriver {
    pub fn new(guest: &Guest, index: u16, size: u16) -> Self {
        Self {
            guest: guest.clone(),
            index,
            size,
            next: 0,
        }
    }

    fn slot(&self, request: u16) -> u64 {
        u64::from(request % (self.size / 2))
    }

    fn data(&self, request: u16) -> u64 {
        areas(self.index).0 + 0xc000 + self.slot(request) * 16
    }

    /// Makes the next request available.
    pub fn submit(&mut self, value: u64) {
        let (descriptors, driver, _) = areas(self.index);
        let data = self.data(self.next);
        self.guest.write(data, &value.to_le_bytes());
        self.guest.write(data + 8, &[0; 8]);
        let head = self.slot(self.next) * 2;
        let mut pair = Vec::new();
        for (address, flags, next) in [(data, 1u16, head + 1), (data + 8, 2, 0)] {
            pair.extend_from_slice(&address.to_le_bytes());
            pair.extend_from_slice(&8u32.to_le_bytes());
            pair.extend_from_slice(&flags.to_le_bytes());
            pair.extend_from_slice(&u16::try_from(next).unwrap().to_le_bytes());
        }
        self.guest.write(descriptors + head * 16, &pair);
        let at = driver + 4 + 2 * u64::from(self.next % self.size);
        let head = u16::try_from(head).unwrap();
        self.guest.write(at, &head.to_le_bytes());
        self.next = self.next.wrapping_add(1);
        self.guest.write(driver + 2, &self.next.to_le_bytes());
    }

    /// Requests completed so far.
    pub fn used(&self) -> u16 {
        self.guest.read_u16(areas(self.index).2 + 2)
    }

    /// What the device answered to request `request`.
    pub fn answer(&self, request: u16) -> u64 {
        u64::from_le_bytes(self.guest.read(self.data(request) + 8))
    }
}

//! Tests of the PCI host. One rule: the guest reaches it through the same entry points as on a vCPU.

use std::sync::mpsc::Receiver;
use std::sync::mpsc::channel;

use super::super::BarKind;
use super::*;

const HIGH: Range<u64> = 0x4_0000_0000..0x8_0000_0000;
const BAR_SIZE: u64 = 0x4000;

/// What a test function saw.
#[derive(Default)]
struct Seen {
    decoded: Vec<BarRegion>,
    written: Vec<(u8, u64, Vec<u8>)>,
    resets: usize,
}

struct Probe {
    config: ConfigSpace,
    seen: Arc<Mutex<Seen>>,
}

impl PciFunction for Probe {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bars_decoded(&mut self, regions: &[BarRegion]) {
        lock(&self.seen).decoded = regions.to_vec();
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        assert!(bar == 0 && offset + data.len() as u64 <= BAR_SIZE);
        data.fill(0x5a);
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        assert!(bar == 0 && offset + data.len() as u64 <= BAR_SIZE);
        lock(&self.seen).written.push((bar, offset, data.to_vec()));
    }

    fn reset(&mut self) {
        lock(&self.seen).resets += 1;
    }
}

struct Bus {
    host: Arc<PciHost>,
    ports: ConfigPorts,
    events: Receiver<Stop>,
    seen: Vec<Arc<Mutex<Seen>>>,
}

impl Bus {
    fn new(functions: usize) -> Self {
        let host = Arc::new(PciHost::new(HIGH));
        let mut seen = Vec::new();
        for _ in 0..functions {
            let mut config = ConfigSpace::new(Identity {
                vendor: 0x1af4,
                device: 0x1042,
                ..Identity::default()
            });
            config.add_bar(0, BarKind::Memory64, BAR_SIZE).unwrap();
            let shared = Arc::new(Mutex::new(Seen::default()));
            seen.push(Arc::clone(&shared));
            host.add(Box::new(Probe {
                config,
                seen: shared,
            }))
            .unwrap();
        }
        host.reset().unwrap();
        let (send, events) = channel();
        let ports = ConfigPorts {
            host: Arc::clone(&host),
            events: send,
        };
        Self {
            host,
            ports,
            events,
            seen,
        }
    }

    /// Writes a register of `slot` through the memory-mapped configuration space.
    fn write(&self, slot: u64, register: u64, data: &[u8]) {
        assert!(
            self.host
                .memory_write(layout::ECAM.start + (slot << 15) + register, data)
        );
    }

    fn read(&self, slot: u64, register: u64) -> u32 {
        let mut data = [0; 4];
        assert!(
            self.host
                .memory_read(layout::ECAM.start + (slot << 15) + register, &mut data)
        );
        u32::from_le_bytes(data)
    }

    fn move_bar(&self, slot: u64, address: u64) {
        self.write(slot, 0x10, &address.to_le_bytes());
    }

    fn enable(&self, slot: u64) {
        self.write(slot, 0x04, &[2, 0]);
    }

    fn decoded(&self, index: usize) -> Vec<u64> {
        lock(&self.seen[index])
            .decoded
            .iter()
            .map(|region| region.address)
            .collect()
    }
}

#[test]
fn bars_are_placed_apart_and_decode_once_enabled() {
    let bus = Bus::new(3);
    let placed: Vec<u32> = (1..4).map(|slot| bus.read(slot, 0x10) & !0xf).collect();
    assert_eq!(placed, [0xc000_0000, 0xc000_4000, 0xc000_8000]);
    let mut data = [0; 4];
    assert!(
        !bus.host.memory_read(0xc000_4000, &mut data),
        "not enabled yet"
    );
    bus.enable(2);
    assert!(bus.host.memory_read(0xc000_4000, &mut data));
    assert_eq!(data, [0x5a; 4]);
    assert_eq!(bus.decoded(1), [0xc000_4000]);
    bus.write(2, 0x04, &[0, 0]);
    assert!(bus.decoded(1).is_empty());
    assert!(!bus.host.memory_read(0xc000_4000, &mut data));
}

#[test]
fn a_guest_may_move_a_bar_within_the_windows() {
    let bus = Bus::new(1);
    bus.enable(1);
    bus.move_bar(1, HIGH.start + 0x10_0000);
    assert_eq!(bus.decoded(0), [HIGH.start + 0x10_0000]);
    assert!(bus.host.memory_write(HIGH.start + 0x10_0008, &[1, 2]));
    assert_eq!(lock(&bus.seen[0]).written, [(0, 8, vec![1, 2])]);
}

#[test]
fn a_bar_over_ram_or_chips_decodes_nothing_and_can_come_back() {
    let bus = Bus::new(1);
    bus.enable(1);
    for address in [
        0,
        0x10_0000,
        layout::ECAM.start,
        layout::IOAPIC,
        layout::LOCAL_APIC,
        layout::PCI_MMIO.end,
        HIGH.start - BAR_SIZE,
        HIGH.end,
        u64::MAX - 0x7fff,
    ] {
        bus.move_bar(1, address);
        assert!(bus.decoded(0).is_empty(), "{address:#x}");
    }
    bus.move_bar(1, 0xd000_0000);
    assert_eq!(bus.decoded(0), [0xd000_0000]);
}

#[test]
fn a_bar_on_another_bar_decodes_nothing() {
    let bus = Bus::new(2);
    bus.enable(1);
    bus.enable(2);
    let first = bus.decoded(0);
    bus.move_bar(2, first[0]);
    assert_eq!(bus.decoded(0), first);
    assert!(bus.decoded(1).is_empty());
}

#[test]
fn accesses_across_the_end_of_a_bar_reach_nobody() {
    let bus = Bus::new(1);
    bus.enable(1);
    let end = 0xc000_0000 + BAR_SIZE;
    assert!(!bus.host.memory_read(end - 4, &mut [0; 8]));
    assert!(!bus.host.memory_write(end - 1, &[0; 2]));
    assert!(bus.host.memory_write(end - 4, &[0; 4]));
}

#[test]
fn both_ways_to_configuration_space_agree() {
    let bus = Bus::new(1);
    bus.ports
        .write(0, &(0x8000_0000u32 | (1 << 11)).to_le_bytes());
    let mut data = [0; 4];
    bus.ports.read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), bus.read(1, 0));
    let mut half = [0; 2];
    bus.ports.read(6, &mut half);
    assert_eq!(half, 0x1042u16.to_le_bytes());
    bus.ports
        .write(0, &(0x8000_0000u32 | (1 << 11) | 4).to_le_bytes());
    bus.ports.write(4, &[2, 0]);
    assert_eq!(bus.decoded(0).len(), 1);
}

#[test]
fn functions_and_slots_that_do_not_exist_read_as_ones() {
    let bus = Bus::new(1);
    assert_eq!(bus.read(2, 0), u32::MAX);
    assert_eq!(bus.read(31, 0xffc), u32::MAX);
    let mut data = [0; 4];
    // Function 1 of slot 1, and bus 1.
    assert!(
        bus.host
            .memory_read(layout::ECAM.start + (1 << 15) + (1 << 12), &mut data)
    );
    assert_eq!(data, [0xff; 4]);
    bus.ports.write(0, &0x8001_0800u32.to_le_bytes());
    bus.ports.read(4, &mut data);
    assert_eq!(data, [0xff; 4]);
    bus.ports.write(0, &0x0000_0800u32.to_le_bytes());
    data = [0; 4];
    bus.ports.read(4, &mut data);
    assert_eq!(data, [0xff; 4], "the address register's enable bit is off");
}

/// REGRESSIONS rows 17 and 18 at the level of the bus: any register of any function, any size, any value.
#[test]
fn accesses_of_any_size_anywhere_are_harmless() {
    let bus = Bus::new(2);
    for address in [0u32, 0x8000_0000, 0x8000_0800, 0x8000_08fc, u32::MAX] {
        bus.ports.write(0, &address.to_le_bytes());
        for offset in 0..8 {
            for len in 0..=8 {
                bus.ports.write(offset, &vec![0xff; len]);
                bus.ports.read(offset, &mut vec![0; len]);
            }
        }
    }
    for at in (0..0x3_0000).step_by(251).chain([0xf_fff8, 0xf_ffff]) {
        for len in 0..=8 {
            bus.host
                .memory_write(layout::ECAM.start + at, &vec![0xff; len]);
            bus.host
                .memory_read(layout::ECAM.start + at, &mut vec![0; len]);
        }
    }
    for address in [0, 0xc000_0000, u64::MAX - 3, u64::MAX] {
        bus.host.memory_write(address, &[0; 8]);
        bus.host.memory_read(address, &mut [0; 8]);
    }
}

#[test]
fn the_reset_control_port_asks_for_a_reset() {
    let bus = Bus::new(0);
    bus.ports.write(1, &[2]);
    assert!(bus.events.try_recv().is_err());
    bus.ports.write(1, &[6]);
    assert!(matches!(bus.events.try_recv(), Ok(Stop::Reset(_))));
}

#[test]
fn a_reset_takes_everything_back() {
    let bus = Bus::new(1);
    bus.enable(1);
    bus.move_bar(1, 0xd000_0000);
    bus.host.reset().unwrap();
    assert!(bus.decoded(0).is_empty());
    assert_eq!(lock(&bus.seen[0]).resets, 2);
    assert_eq!(bus.read(1, 0x10) & !0xf, 0xc000_0000);
    bus.enable(1);
    assert_eq!(bus.decoded(0), [0xc000_0000]);
}

#[test]
fn the_bus_holds_31_functions_besides_the_bridge() {
    let bus = Bus::new(31);
    let config = ConfigSpace::new(Identity::default());
    let seen = Arc::default();
    assert!(bus.host.add(Box::new(Probe { config, seen })).is_err());
}

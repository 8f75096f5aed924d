//! A guest that writes anything anywhere, by seed, at a function with MSI-X and a doorbell.
//!
//! One rule: after any history the function can still be found, enabled and interrupted.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;

use host_os::sync::lock;

use super::BarKind;
use super::BarRegion;
use super::ConfigSpace;
use super::Identity;
use super::Msix;
use super::MsixLayout;
use super::PciFunction;
use super::host::PciHost;
use super::msix::tests::FakeInterrupts;
use crate::Interrupts;
use crate::layout;

const BAR: u64 = 0x4000;
const TABLE: u64 = 0x1000;
const PENDING: u64 = 0x2000;

struct Card {
    config: ConfigSpace,
    msix: Msix,
    /// Where a doorbell is registered: never twice, never outside the windows.
    doorbells: Arc<Mutex<HashSet<u64>>>,
    mine: Option<u64>,
}

impl Card {
    fn new(doorbells: &Arc<Mutex<HashSet<u64>>>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            ..Identity::default()
        });
        config.add_bar(0, BarKind::Memory64, BAR).unwrap();
        let interrupts: Arc<dyn Interrupts> = Arc::new(FakeInterrupts::default());
        let layout = MsixLayout {
            table_bar: 0,
            table_offset: TABLE as u32,
            pba_bar: 0,
            pba_offset: PENDING as u32,
        };
        let msix = Msix::new(&interrupts, 5, layout, &mut config).unwrap();
        Self {
            config,
            msix,
            doorbells: Arc::clone(doorbells),
            mine: None,
        }
    }
}

impl PciFunction for Card {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        self.msix.config_written(&self.config);
    }

    fn bars_decoded(&mut self, regions: &[BarRegion]) {
        let mut doorbells = lock(&self.doorbells);
        if let Some(old) = self.mine.take() {
            assert!(doorbells.remove(&old));
        }
        if let Some(region) = regions.first() {
            assert!(
                doorbells.insert(region.address),
                "two functions at one address"
            );
            self.mine = Some(region.address);
        }
    }

    fn bar_read(&mut self, _: u8, offset: u64, data: &mut [u8]) {
        match offset {
            PENDING.. => self.msix.pba_read(offset - PENDING, data),
            TABLE.. => self.msix.table_read(offset - TABLE, data),
            _ => data.fill(0),
        }
    }

    fn bar_write(&mut self, _: u8, offset: u64, data: &[u8]) {
        match offset {
            PENDING.. => {}
            TABLE.. => self.msix.table_write(offset - TABLE, data),
            _ => self.msix.trigger(u16::from_le_bytes([data[0], 0])),
        }
    }

    fn reset(&mut self) {
        self.msix.reset();
    }
}

/// Xorshift: the same history for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn address(&mut self) -> u64 {
        match self.below(4) {
            // Mostly the registers that move things: command, BARs, capabilities of the first slots.
            0 | 1 => layout::ECAM.start + (self.below(4) << 15) + self.below(0x60),
            2 => layout::PCI_MMIO.start + self.below(4 * BAR),
            _ => self.next() >> self.below(40),
        }
    }
}

#[test]
fn no_history_of_accesses_breaks_the_bus() {
    for seed in 1..=8 {
        let mut random = Random(seed * 0x9e37_79b9);
        let host = PciHost::new(layout::pci_mmio64(1 << 32));
        let doorbells = Arc::new(Mutex::new(HashSet::new()));
        for _ in 0..3 {
            host.add(Box::new(Card::new(&doorbells))).unwrap();
        }
        host.reset().unwrap();
        for _ in 0..20_000 {
            let address = random.address();
            let len = 1 + random.below(8) as usize;
            let value = random.next().to_le_bytes();
            if random.below(4) == 0 {
                host.memory_read(address, &mut [0; 8][..len]);
            } else {
                host.memory_write(address, &value[..len]);
            }
        }
        host.reset().unwrap();
        assert!(lock(&doorbells).is_empty(), "seed {seed}");
        for slot in 1..=3u64 {
            let base = layout::ECAM.start + (slot << 15);
            let mut id = [0; 4];
            host.memory_read(base, &mut id);
            assert_eq!(id, [0xf4, 0x1a, 0x42, 0x10], "seed {seed}");
            host.memory_write(base + 4, &[6, 0]);
        }
        assert_eq!(lock(&doorbells).len(), 3, "seed {seed}");
    }
}

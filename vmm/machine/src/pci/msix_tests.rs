//! Tests of MSI-X. One rule: lines are fakes that record what the table does to them.

use std::sync::Mutex;

use host_os::sync::lock;

use super::super::Identity;
use super::*;
use crate::Error;

/// What happened to each line, in the order of allocation.
#[derive(Default)]
pub(crate) struct FakeInterrupts(Arc<Mutex<Vec<Option<MsiMessage>>>>);

struct FakeLine {
    lines: Arc<Mutex<Vec<Option<MsiMessage>>>>,
    index: usize,
    event: EventFd,
}

impl Interrupts for FakeInterrupts {
    fn allocate(&self) -> Result<Box<dyn InterruptLine>> {
        let mut lines = lock(&self.0);
        lines.push(None);
        Ok(Box::new(FakeLine {
            lines: Arc::clone(&self.0),
            index: lines.len() - 1,
            event: EventFd::new().map_err(Error::EventFd)?,
        }))
    }
}

impl InterruptLine for FakeLine {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn unmask(&self, message: MsiMessage) -> Result<()> {
        lock(&self.lines)[self.index] = Some(message);
        Ok(())
    }

    fn mask(&self) -> Result<()> {
        lock(&self.lines)[self.index] = None;
        Ok(())
    }
}

struct Function {
    config: ConfigSpace,
    msix: Msix,
    lines: Arc<Mutex<Vec<Option<MsiMessage>>>>,
}

impl Function {
    fn new(vectors: u16) -> Self {
        let fake = FakeInterrupts::default();
        let lines = Arc::clone(&fake.0);
        let interrupts: Arc<dyn Interrupts> = Arc::new(fake);
        let mut config = ConfigSpace::new(Identity::default());
        let layout = MsixLayout {
            table_bar: 0,
            table_offset: 0x1000,
            pba_bar: 0,
            pba_offset: 0x1800,
        };
        let msix = Msix::new(&interrupts, vectors, layout, &mut config).unwrap();
        Self {
            config,
            msix,
            lines,
        }
    }

    fn control(&mut self, bits: u16) {
        self.config.write(0x42, &bits.to_le_bytes());
        self.msix.config_written(&self.config);
    }

    fn program(&mut self, vector: u64, data: u32, masked: bool) {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&0xfee0_0000u64.to_le_bytes());
        entry[8..12].copy_from_slice(&data.to_le_bytes());
        entry[12] = masked.into();
        self.msix.table_write(vector * 16, &entry);
    }

    fn delivering(&self) -> Vec<u32> {
        lock(&self.lines)
            .iter()
            .flatten()
            .map(|message| message.data)
            .collect()
    }

    fn pending(&self) -> u8 {
        let mut bits = [0];
        self.msix.pba_read(0, &mut bits);
        bits[0]
    }
}

#[test]
fn a_vector_delivers_when_enabled_and_unmasked() {
    let mut function = Function::new(3);
    function.program(1, 0x41, false);
    assert!(function.delivering().is_empty(), "MSI-X is off");
    function.control(CONTROL_ENABLE);
    assert_eq!(function.delivering(), [0x41]);
    function.control(CONTROL_ENABLE | CONTROL_MASK_ALL);
    assert!(function.delivering().is_empty());
    function.control(CONTROL_ENABLE);
    function.program(1, 0x42, false);
    assert_eq!(function.delivering(), [0x42]);
    function.msix.table_write(16 + 12, &[1, 0, 0, 0]);
    assert!(function.delivering().is_empty());
}

#[test]
fn a_masked_vector_keeps_its_event_as_pending_bit() {
    let mut function = Function::new(3);
    function.control(CONTROL_ENABLE);
    function.msix.trigger(2);
    assert_eq!(function.pending(), 0b100);
    function.program(2, 0x50, false);
    assert_eq!(function.pending(), 0, "delivery is the line's now");
    assert!(function.msix.event(2).unwrap().is_pending());
}

#[test]
fn events_from_before_msix_was_enabled_are_forgotten() {
    let mut function = Function::new(1);
    function.msix.trigger(0);
    function.control(CONTROL_ENABLE);
    assert_eq!(function.pending(), 0);
}

/// What KVM does: the event of a line that has a route reaches the guest as that route's message. Returns the
/// data of the messages by vector.
fn deliver(function: &Function) -> Vec<(u16, u32)> {
    let routes = lock(&function.lines).clone();
    let routed = (0u16..).zip(routes);
    routed
        .filter_map(|(vector, route)| {
            let event = function.msix.event(vector)?;
            let message = route?;
            (event.drain_count() > 0).then_some((vector, message.data))
        })
        .collect()
}

/// REGRESSIONS row 12 (CVE-2024-4693): vectors that change under a running device.
#[test]
fn row_12_flipping_vectors_while_they_fire_loses_no_event() {
    const VECTORS: u64 = 4;
    let mut function = Function::new(VECTORS as u16);
    function.control(CONTROL_ENABLE);
    // What the guest wrote last, and whether an event has not reached it yet.
    let mut data = [0; VECTORS as usize];
    let mut masked = [true; VECTORS as usize];
    let mut waiting = [false; VECTORS as usize];
    // The last vector keeps its message; only the whole function's mask holds it back.
    function.program(VECTORS - 1, 0x43, false);
    (data[3], masked[3]) = (0x43, false);
    let mut arrived = 0;
    for round in 0..1000u32 {
        let fires = (round % 4) as u16;
        function.msix.trigger(fires);
        waiting[usize::from(fires)] = true;
        let vector = (round % 3) as usize;
        data[vector] = 0x80 + round;
        masked[vector] = round % 2 == 0;
        function.program(vector as u64, data[vector], masked[vector]);
        let all = round % 5 == 0;
        function.control(CONTROL_ENABLE | if all { CONTROL_MASK_ALL } else { 0 });
        for (vector, said) in deliver(&function) {
            let vector = usize::from(vector);
            assert!(!all && !masked[vector], "round {round}: {vector} is masked");
            assert_eq!(said, data[vector], "round {round}: an old message");
            assert!(std::mem::take(&mut waiting[vector]), "out of nothing");
            arrived += 1;
        }
        let bits = (0..).zip(&waiting).map(|(bit, is)| u8::from(*is) << bit);
        assert_eq!(function.pending(), bits.sum::<u8>(), "round {round}");
    }
    assert!(arrived > 300, "vectors fired: {arrived}");
    // Whatever still waits comes once all are unmasked.
    function.control(CONTROL_ENABLE);
    for vector in 0..VECTORS {
        function.program(vector, 0x40 + vector as u32, false);
    }
    let late = deliver(&function);
    for (vector, waits) in (0u16..).zip(waiting) {
        let message = (vector, 0x40 + u32::from(vector));
        assert_eq!(late.contains(&message), waits, "vector {vector}: {late:?}");
    }
}

#[test]
fn garbage_in_the_table_is_only_garbage_in_the_table() {
    let mut function = Function::new(2);
    function.control(CONTROL_ENABLE);
    for offset in (0..64).chain([u64::MAX - 3, u64::MAX]) {
        for len in 0..=8 {
            function.msix.table_write(offset, &vec![0xff; len]);
            function.msix.table_read(offset, &mut vec![0; len]);
            function.msix.pba_read(offset, &mut vec![0; len]);
        }
    }
    let mut entry = [0; 16];
    function.msix.table_read(0, &mut entry);
    // Address bits 1:0 and the reserved control bits stay zero.
    assert_eq!(entry[0], 0xfc);
    assert_eq!(entry[12..], [1, 0, 0, 0]);
    assert!(function.msix.event(2).is_none());
    assert!(function.msix.event(0xffff).is_none());
    function.msix.trigger(0xffff);
}

#[test]
fn a_write_across_two_entries_changes_both() {
    let mut function = Function::new(2);
    function.control(CONTROL_ENABLE);
    function.program(0, 0x40, true);
    function.program(1, 0x41, false);
    // Unmasks vector 0 and moves vector 1's address.
    function
        .msix
        .table_write(12, &[0, 0, 0, 0, 0, 0, 0xe1, 0xfe]);
    let lines = lock(&function.lines).clone();
    assert_eq!(lines[0].unwrap().data, 0x40);
    assert_eq!(lines[1].unwrap().address, 0xfee1_0000);
}

#[test]
fn reset_masks_and_forgets() {
    let mut function = Function::new(2);
    function.control(CONTROL_ENABLE);
    function.program(0, 0x40, false);
    function.msix.trigger(1);
    function.msix.reset();
    assert!(function.delivering().is_empty());
    assert!(!function.msix.event(1).unwrap().is_pending());
    let mut entry = [0; 16];
    function.msix.table_read(0, &mut entry);
    assert_eq!(entry[12], 1);
}

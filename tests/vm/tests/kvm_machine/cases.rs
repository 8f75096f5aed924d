//! The tests themselves.
//!
//! One rule: a guest reports through the debug exit port, serial output, or RAM.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use host_os::EventFd;
use machine::DoorbellMatch;
use machine::Doorbells;
use machine::Stop;
use machine::pci::BarKind;
use machine::pci::BarRegion;
use machine::pci::ConfigSpace;
use machine::pci::Identity;
use machine::pci::PciFunction;

use crate::guest;
use crate::guest::FLAG;

/// mov al,CODE; out 0xf4,al; jmp $
pub const fn exit(code: u8) -> [u8; 6] {
    [0xb0, code, 0xe6, 0xf4, 0xeb, 0xfe]
}

pub fn entry() -> anyhow::Result<()> {
    let (mut machine, _) = guest::build(2)?;
    machine
        .ram()
        .write(guest::START_INFO.into(), &[0x78, 0xc5, 0x6e, 0x33])?;
    // cmp dword [ebx],0x336ec578; jne fail; exit 7; fail: exit 8
    let mut code = vec![0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33, 0x75, 0x06];
    code.extend(exit(7));
    code.extend(exit(8));
    ensure!(guest::run(&mut machine, &code)? == Stop::DebugExit(7));
    Ok(())
}

pub fn string_output() -> anyhow::Result<()> {
    let (mut machine, output) = guest::build(1)?;
    machine.ram().write(FLAG, b"a string of bytes\n")?;
    // mov esi,FLAG; mov ecx,18; mov edx,0x3f8; cld; rep outsb
    let mut code = vec![0xbe, 0, 0, 0x20, 0, 0xb9, 18, 0, 0, 0, 0xba, 0xf8, 3, 0, 0];
    code.extend([0xfc, 0xf3, 0x6e]);
    code.extend(exit(0));
    ensure!(guest::run(&mut machine, &code)? == Stop::DebugExit(0));
    ensure!(
        output.text() == "a string of bytes\n",
        "{:?}",
        output.text()
    );
    Ok(())
}

/// mov edx,PORT; mov eax,VALUE; out dx,ax (or al); jmp $
fn out(port: u16, value: u16, wide: bool) -> Vec<u8> {
    let [p0, p1] = port.to_le_bytes();
    let [v0, v1] = value.to_le_bytes();
    let mut code = vec![0xba, p0, p1, 0, 0, 0xb8, v0, v1, 0, 0];
    code.extend_from_slice(if wide { &[0x66, 0xef] } else { &[0xee] });
    code.extend([0xeb, 0xfe]);
    code
}

pub fn soft_off() -> anyhow::Result<()> {
    let (mut machine, _) = guest::build(1)?;
    let value = (1 << 13) | (u16::from(machine::layout::POWER_OFF_TYPE) << 10);
    let code = out(machine::layout::PM_BASE + 4, value, true);
    ensure!(guest::run(&mut machine, &code)? == Stop::PowerOff);
    Ok(())
}

pub fn resets() -> anyhow::Result<()> {
    let (mut machine, _) = guest::build(2)?;
    // The last: an undefined instruction without an interrupt table is a triple fault.
    for code in [
        out(0xcf9, 6, false),
        out(0x64, 0xfe, false),
        vec![0x0f, 0x0b],
    ] {
        let stop = guest::run(&mut machine, &code)?;
        ensure!(matches!(stop, Stop::Reset(_)), "{stop:?}");
    }
    Ok(())
}

pub fn restart() -> anyhow::Result<()> {
    let (mut machine, output) = guest::build(2)?;
    // inc byte [FLAG]; mov al,'R'; mov edx,0x3f8; out dx,al; mov al,[FLAG]; out 0xf4,al; jmp $
    let code = [
        0xfe, 0x05, 0, 0, 0x20, 0, 0xb0, b'R', 0xba, 0xf8, 3, 0, 0, 0xee, 0xa0, 0, 0, 0x20, 0,
        0xe6, 0xf4, 0xeb, 0xfe,
    ];
    for round in 1..=20 {
        ensure!(guest::run(&mut machine, &code)? == Stop::DebugExit(round));
    }
    ensure!(output.text() == "R".repeat(20));
    Ok(())
}

pub fn nowhere() -> anyhow::Result<()> {
    let (mut machine, _) = guest::build(1)?;
    // mov eax,[0xd0000000]; mov [0xd0000000],eax; inc eax; jnz fail;
    // mov edx,0x2f8; in eax,dx; out dx,eax; inc eax; jnz fail; exit 7; fail: exit 8
    let mut code = vec![0xa1, 0, 0, 0, 0xd0, 0xa3, 0, 0, 0, 0xd0, 0x40, 0x75, 0x10];
    code.extend([0xba, 0xf8, 2, 0, 0, 0xed, 0xef, 0x40, 0x75, 0x06]);
    code.extend(exit(7));
    code.extend(exit(8));
    ensure!(guest::run(&mut machine, &code)? == Stop::DebugExit(7));
    Ok(())
}

/// A function with one BAR, whose first register is a doorbell.
struct Bell {
    config: ConfigSpace,
    doorbells: Arc<dyn Doorbells>,
    rung: Arc<EventFd>,
    at: Option<u64>,
}

impl PciFunction for Bell {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn bars_decoded(&mut self, regions: &[BarRegion]) {
        if let Some(at) = self.at.take() {
            let _ = self
                .doorbells
                .unregister(at, DoorbellMatch::Any, &self.rung);
        }
        self.at = regions.first().map(|region| region.address);
        if let Some(at) = self.at {
            let _ = self.doorbells.register(at, DoorbellMatch::Any, &self.rung);
        }
    }

    fn bar_read(&mut self, _: u8, _: u64, data: &mut [u8]) {
        data.fill(0x5a);
    }

    fn bar_write(&mut self, _: u8, _: u64, _: &[u8]) {}

    fn reset(&mut self) {}
}

/// Writes `value` to a register of slot 1: mov dword [ECAM+...],value
fn configure(register: u32, value: u32) -> Vec<u8> {
    let at = (machine::layout::ECAM.start as u32) + (1 << 15) + register;
    let mut code = vec![0xc7, 0x05];
    code.extend(at.to_le_bytes());
    code.extend(value.to_le_bytes());
    code
}

pub fn doorbell() -> anyhow::Result<()> {
    let (mut machine, _) = guest::build(1)?;
    let rung = Arc::new(EventFd::new()?);
    let mut config = ConfigSpace::new(Identity::default());
    config.add_bar(0, BarKind::Memory32, 0x1000)?;
    machine.add_function(Box::new(Bell {
        config,
        doorbells: machine.doorbells(),
        rung: Arc::clone(&rung),
        at: None,
    }))?;
    // Enable, ring with one, two and four bytes; move the BAR, ring the old address (nobody) and the new one.
    let mut code = configure(4, 2);
    code.extend([0xc6, 0x05, 0, 0, 0, 0xc0, 1]);
    code.extend([0x66, 0xc7, 0x05, 0, 0, 0, 0xc0, 1, 0]);
    code.extend([0xc7, 0x05, 0, 0, 0, 0xc0, 1, 0, 0, 0]);
    code.extend(configure(0x10, 0xd000_0000));
    code.extend([0x66, 0xc7, 0x05, 0, 0, 0, 0xc0, 1, 0]);
    code.extend([0x66, 0xc7, 0x05, 0, 0, 0, 0xd0, 1, 0]);
    // mov al,[0xd0000001]; out 0xf4,al: the rest of the BAR is the function's.
    code.extend([0xa0, 1, 0, 0, 0xd0, 0xe6, 0xf4, 0xeb, 0xfe]);
    ensure!(guest::run(&mut machine, &code)? == Stop::DebugExit(0x5a));
    let count = rung.drain_count();
    ensure!(count == 4, "rung {count} times");
    Ok(())
}

/// Local APIC on, then wait for vector 0x40, whose handler ends the VM.
fn wait_for_interrupt() -> Vec<u8> {
    // mov dword [0xfee000f0],0x1ff; mov byte [FLAG],1
    let mut code = vec![
        0xc7, 0x05, 0xf0, 0, 0xe0, 0xfe, 0xff, 1, 0, 0, 0xc6, 0x05, 0, 0, 0x20, 0, 1,
    ];
    // lgdt [FLAG+0x20]; lidt [FLAG+0x10]; sti; again: hlt; jmp again
    code.extend([
        0x0f, 0x01, 0x15, 0x20, 0, 0x20, 0, 0x0f, 0x01, 0x1d, 0x10, 0, 0x20, 0,
    ]);
    code.extend([0xfb, 0xf4, 0xeb, 0xfd]);
    code
}

pub fn interrupt() -> anyhow::Result<()> {
    let (mut machine, _) = guest::build(1)?;
    let line = machine.interrupts().allocate()?;
    line.unmask(machine::MsiMessage {
        address: 0xfee0_0000,
        data: 0x40,
    })?;
    let ram = Arc::clone(machine.ram());
    // Tables: GDT with code 0x8 and data 0x10 at FLAG+0x100, IDT at FLAG+0x800, its vector 0x40 -> FLAG+0x40.
    ram.write(FLAG + 0x10, &[0xff, 7, 0, 8, 0x20, 0])?;
    ram.write(FLAG + 0x20, &[0x17, 0, 0, 1, 0x20, 0])?;
    let flat = [
        [0; 8],
        [0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0],
        [0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0],
    ];
    ram.write(FLAG + 0x100, &flat.concat())?;
    ram.write(FLAG + 0x800 + 0x40 * 8, &[0x40, 0, 8, 0, 0, 0x8e, 0x20, 0])?;
    ram.write(FLAG + 0x40, &exit(9))?;
    // mov esp,FLAG+0xf00, or the handler has no stack.
    let mut code = vec![0xbc, 0, 0x0f, 0x20, 0];
    code.extend(wait_for_interrupt());
    let waker = std::thread::spawn(move || {
        let mut flag = [0];
        let start = Instant::now();
        while flag == [0] && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
            if ram.read(FLAG, &mut flag).is_err() {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        line.event().notify();
        line
    });
    let stop = guest::run(&mut machine, &code)?;
    let line = waker.join().ok().context("The waker panicked")?;
    ensure!(stop == Stop::DebugExit(9), "{stop:?}");
    line.mask()?;
    line.event().notify();
    ensure!(line.event().is_pending(), "a masked line keeps its events");
    Ok(())
}

pub fn stop() -> anyhow::Result<()> {
    let (mut machine, _) = guest::build(4)?;
    for _ in 0..10 {
        machine.controls().stop();
        let start = Instant::now();
        // jmp $
        ensure!(guest::run(&mut machine, &[0xeb, 0xfe])? == Stop::Requested);
        // The processors were never to stop by themselves.
        ensure!(start.elapsed() < Duration::from_secs(30));
    }
    Ok(())
}

pub fn too_many() -> anyhow::Result<()> {
    ensure!(guest::build(0).is_err());
    ensure!(guest::build(100_000).is_err());
    Ok(())
}

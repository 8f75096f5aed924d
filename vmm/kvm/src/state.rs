//! Saving a fresh VM's state and putting it back: how a reset works without making the VM anew.
//!
//! One rule: time goes on through a reset, and the vCPUs' TSCs come out of it in step.

use kvm_bindings::KVM_IRQCHIP_IOAPIC;
use kvm_bindings::KVM_IRQCHIP_PIC_MASTER;
use kvm_bindings::KVM_IRQCHIP_PIC_SLAVE;
use kvm_bindings::Msrs;
use kvm_bindings::kvm_debugregs;
use kvm_bindings::kvm_fpu;
use kvm_bindings::kvm_irqchip;
use kvm_bindings::kvm_lapic_state;
use kvm_bindings::kvm_mp_state;
use kvm_bindings::kvm_msr_entry;
use kvm_bindings::kvm_pit_state2;
use kvm_bindings::kvm_regs;
use kvm_bindings::kvm_sregs;
use kvm_bindings::kvm_vcpu_events;
use kvm_bindings::kvm_xcrs;

use crate::Error;
use crate::Result;
use crate::Vcpu;
use crate::Vm;

const MSR_TSC: u32 = 0x10;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;

/// A zero from the host does not stop the clock: KVM takes it as "the same offset as the other vCPUs" and programs
/// that again. Without it a vCPU that met a triple fault on AMD goes on with no offset at all, seconds or days ahead.
const STEP_TSC: kvm_msr_entry = kvm_msr_entry {
    index: MSR_TSC,
    reserved: 0,
    data: 0,
};

/// IA32_MTRR_DEF_TYPE: enabled, default type write-back.
const MTRR_WRITE_BACK: kvm_msr_entry = kvm_msr_entry {
    index: 0x2ff,
    reserved: 0,
    data: 0x806,
};

/// Everything of one vCPU that a reset restores.
pub struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    mp: kvm_mp_state,
    lapic: kvm_lapic_state,
    /// Not every KVM has these.
    xcrs: Option<kvm_xcrs>,
    debug: Option<kvm_debugregs>,
    events: Option<kvm_vcpu_events>,
    msrs: Vec<kvm_msr_entry>,
}

impl Vcpu {
    /// Takes the state of a stopped vCPU; `msrs` as [`crate::Hypervisor::msr_indices`] lists them.
    pub fn save(&self, msrs: &[u32]) -> Result<VcpuState> {
        let fd = self.fd();
        Ok(VcpuState {
            regs: self.regs()?,
            sregs: self.sregs()?,
            fpu: fd.get_fpu().map_err(Error::request("KVM_GET_FPU"))?,
            mp: fd
                .get_mp_state()
                .map_err(Error::request("KVM_GET_MP_STATE"))?,
            lapic: fd.get_lapic().map_err(Error::request("KVM_GET_LAPIC"))?,
            xcrs: fd.get_xcrs().ok(),
            debug: fd.get_debug_regs().ok(),
            events: fd.get_vcpu_events().ok(),
            msrs: self.read_msrs(msrs),
        })
    }

    /// Puts a stopped vCPU back to `state`.
    pub fn restore(&self, state: &VcpuState) -> Result<()> {
        let fd = self.fd();
        // The local APIC's mode is in the system registers, so those come first.
        self.set_sregs(&state.sregs)?;
        self.set_regs(&state.regs)?;
        fd.set_fpu(&state.fpu)
            .map_err(Error::request("KVM_SET_FPU"))?;
        if let Some(xcrs) = &state.xcrs {
            let _ = fd.set_xcrs(xcrs);
        }
        if let Some(debug) = &state.debug {
            let _ = fd.set_debug_regs(debug);
        }
        fd.set_lapic(&state.lapic)
            .map_err(Error::request("KVM_SET_LAPIC"))?;
        self.write_msrs(&state.msrs);
        self.write_msrs(&[STEP_TSC]);
        if let Some(events) = &state.events {
            let _ = fd.set_vcpu_events(events);
        }
        fd.set_mp_state(state.mp)
            .map_err(Error::request("KVM_SET_MP_STATE"))
    }

    /// Sets what firmware sets before an operating system starts: write-back memory wherever page tables do not say
    /// otherwise (without it Linux leaves the page attribute table off), and fast string instructions (without them
    /// Linux copies slowly on Intel). A KVM without one of these registers goes without.
    pub fn set_firmware_defaults(&self) {
        self.write_msrs(&[MTRR_WRITE_BACK]);
        for entry in self.read_msrs(&[MSR_MISC_ENABLE]) {
            self.write_msrs(&[kvm_msr_entry {
                data: entry.data | FAST_STRINGS,
                ..entry
            }]);
        }
    }

    /// Reads registers one call at a time where the kernel stops at one that it lists but does not have.
    fn read_msrs(&self, indices: &[u32]) -> Vec<kvm_msr_entry> {
        let mut wanted: Vec<kvm_msr_entry> = indices
            .iter()
            .filter(|index| **index != MSR_TSC)
            .map(|index| kvm_msr_entry {
                index: *index,
                ..Default::default()
            })
            .collect();
        let mut read = Vec::with_capacity(wanted.len());
        while !wanted.is_empty() {
            let Ok(mut batch) = Msrs::from_entries(&wanted) else {
                break;
            };
            let done = self.fd().get_msrs(&mut batch).unwrap_or(0);
            read.extend(batch.as_slice().iter().take(done).copied());
            // What comes after the last one read is the one that failed: leave it out.
            wanted.drain(..(done + 1).min(wanted.len()));
        }
        read
    }

    fn write_msrs(&self, entries: &[kvm_msr_entry]) {
        let mut rest = entries;
        while !rest.is_empty() {
            let Ok(batch) = Msrs::from_entries(rest) else {
                return;
            };
            let done = self.fd().set_msrs(&batch).unwrap_or(0);
            rest = rest.get(done + 1..).unwrap_or_default();
        }
    }
}

/// The state of the in-kernel interrupt controllers and timer that belong to no vCPU.
pub struct IrqchipState {
    chips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
}

impl Vm {
    /// Takes the state of the in-kernel chips.
    pub fn save_irqchip(&self) -> Result<IrqchipState> {
        let mut chips = Vec::new();
        for chip_id in [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ] {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            self.fd()
                .get_irqchip(&mut chip)
                .map_err(Error::request("KVM_GET_IRQCHIP"))?;
            chips.push(chip);
        }
        let pit = self
            .fd()
            .get_pit2()
            .map_err(Error::request("KVM_GET_PIT2"))?;
        Ok(IrqchipState { chips, pit })
    }

    /// Puts the in-kernel chips back to `state`; no vCPU may run.
    pub fn restore_irqchip(&self, state: &IrqchipState) -> Result<()> {
        for chip in &state.chips {
            self.fd()
                .set_irqchip(chip)
                .map_err(Error::request("KVM_SET_IRQCHIP"))?;
        }
        self.fd()
            .set_pit2(&state.pit)
            .map_err(Error::request("KVM_SET_PIT2"))
    }
}

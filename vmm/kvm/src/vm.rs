//! The hypervisor's front door and one VM: memory slots, interrupt routes, irqfds and ioeventfds.
//!
//! One rule: a memory slot keeps its memory mapped for as long as the VM lives.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION")]

use std::sync::Arc;
use std::sync::Mutex;

use host_os::EventFd;
use host_os::sync::lock;
use kvm_bindings::KVM_IRQ_ROUTING_IRQCHIP;
use kvm_bindings::KVM_IRQ_ROUTING_MSI;
use kvm_bindings::KVM_IRQCHIP_IOAPIC;
use kvm_bindings::KVM_IRQCHIP_PIC_MASTER;
use kvm_bindings::KVM_IRQCHIP_PIC_SLAVE;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_bindings::KVM_PIT_SPEAKER_DUMMY;
use kvm_bindings::KvmIrqRouting;
use kvm_bindings::kvm_irq_routing_entry;
use kvm_bindings::kvm_irq_routing_entry__bindgen_ty_1 as RouteUnion;
use kvm_bindings::kvm_irq_routing_irqchip;
use kvm_bindings::kvm_irq_routing_msi;
use kvm_bindings::kvm_pit_config;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::Cap;
use kvm_ioctls::IoEventAddress;
use kvm_ioctls::Kvm;
use kvm_ioctls::NoDatamatch;
use kvm_ioctls::VmFd;

use crate::Error;
use crate::GuestRam;
use crate::Result;
use crate::Vcpu;
use crate::cpuid::CpuidEntry;
use crate::event;

const DEVICE: &str = "/dev/kvm";

/// An open `/dev/kvm`.
pub struct Hypervisor {
    kvm: Kvm,
}

impl Hypervisor {
    /// Opens `/dev/kvm` and checks that it has what the VMM needs.
    pub fn open() -> Result<Self> {
        let kvm = Kvm::new().map_err(|error| Error::Unavailable {
            path: DEVICE,
            source: error.into(),
        })?;
        let needed = [
            (Cap::Irqchip, "an in-kernel interrupt controller"),
            (Cap::Pit2, "an in-kernel timer (PIT2)"),
            (Cap::Irqfd, "irqfd"),
            (Cap::IrqRouting, "interrupt routing"),
            (Cap::Ioeventfd, "ioeventfd"),
            (Cap::ImmediateExit, "immediate exit"),
        ];
        for (cap, name) in needed {
            if !kvm.check_extension(cap) {
                return Err(Error::Missing(name));
            }
        }
        Ok(Self { kvm })
    }

    /// The most vCPUs a VM may have.
    pub fn max_cpus(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    /// What the host can offer a guest's CPUID.
    pub fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>> {
        let cpuid = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::request("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(cpuid.as_slice().to_vec())
    }

    /// True if the local APIC timer has a TSC deadline mode.
    pub fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// The model-specific registers that a reset must restore.
    pub fn msr_indices(&self) -> Result<Vec<u32>> {
        let list = self
            .kvm
            .get_msr_index_list()
            .map_err(Error::request("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(list.as_slice().to_vec())
    }

    /// Creates a VM without memory, interrupt controllers or vCPUs.
    pub fn create_vm(&self) -> Result<Vm> {
        let fd = self
            .kvm
            .create_vm()
            .map_err(Error::request("KVM_CREATE_VM"))?;
        Ok(Vm {
            fd,
            slots: Slots::default(),
        })
    }
}

/// Where interrupts of one GSI go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To a pin (0 to 15) of the two 8259 interrupt controllers.
    Pic {
        /// The line.
        gsi: u32,
        /// The pin.
        pin: u8,
    },
    /// To a pin of the I/O APIC.
    IoApic {
        /// The line.
        gsi: u32,
        /// The pin.
        pin: u8,
    },
    /// To a local APIC, as a message.
    Msi {
        /// The line.
        gsi: u32,
        /// Message address.
        address: u64,
        /// Message data.
        data: u32,
    },
}

/// The address of a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellAddress {
    /// Guest physical address.
    Mmio(u64),
    /// I/O port.
    Port(u64),
}

/// The writes that ring a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellValue {
    /// Of any length and value.
    Any,
    /// Of two bytes with this value.
    Word(u16),
}

/// The memory behind a VM's slots; the VM and each of its vCPUs keep it mapped.
pub(crate) type Slots = Arc<Mutex<Vec<Arc<GuestRam>>>>;

/// One virtual machine.
pub struct Vm {
    fd: VmFd,
    slots: Slots,
}

impl Vm {
    /// Makes `len` bytes of `memory` from `offset` the guest's RAM at `guest_addr`.
    pub fn add_memory(
        &self,
        guest_addr: u64,
        memory: &Arc<GuestRam>,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= memory.len());
        if !inside {
            return Err(Error::OutOfRange { offset, len });
        }
        let mut slots = lock(&self.slots);
        let region = kvm_userspace_memory_region {
            slot: u32::try_from(slots.len()).map_err(|_| Error::Missing("memory slots"))?,
            flags: 0,
            guest_phys_addr: guest_addr,
            memory_size: len,
            userspace_addr: memory.host_address() + offset,
        };
        // SAFETY: the range lies inside a live mapping (checked above), and the slot list, which this VM and each of
        // its vCPUs hold, keeps that mapping alive as long as anything can run the guest.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(Error::request("KVM_SET_USER_MEMORY_REGION"))?;
        slots.push(Arc::clone(memory));
        Ok(())
    }

    /// Creates the in-kernel 8259s, I/O APIC, local APICs (with each vCPU) and the 8254 timer. `tss` and
    /// `identity_map` are spare guest-physical pages for old Intel processors. Call before creating vCPUs.
    pub fn create_irqchip(&self, tss: u64, identity_map: u64) -> Result<()> {
        self.fd
            .set_identity_map_address(identity_map)
            .map_err(Error::request("KVM_SET_IDENTITY_MAP_ADDR"))?;
        let tss = usize::try_from(tss).map_err(|_| Error::OutOfRange {
            offset: tss,
            len: 0,
        })?;
        self.fd
            .set_tss_address(tss)
            .map_err(Error::request("KVM_SET_TSS_ADDR"))?;
        self.fd
            .create_irq_chip()
            .map_err(Error::request("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        self.fd
            .create_pit2(pit)
            .map_err(Error::request("KVM_CREATE_PIT2"))
    }

    /// Replaces the whole interrupt routing table.
    pub fn set_routes(&self, routes: &[Route]) -> Result<()> {
        let entries: Vec<_> = routes.iter().map(|route| entry(*route)).collect();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| Error::Missing("room for that many interrupt routes"))?;
        self.fd
            .set_gsi_routing(&table)
            .map_err(Error::request("KVM_SET_GSI_ROUTING"))
    }

    /// Signals of `event` raise `gsi` from now on; a signal that already waits raises it at once.
    pub fn add_irqfd(&self, event: &EventFd, gsi: u32) -> Result<()> {
        event::lend(event, |fd| self.fd.register_irqfd(fd, gsi))
            .map_err(Error::request("KVM_IRQFD"))
    }

    /// Undoes [`Vm::add_irqfd`].
    pub fn remove_irqfd(&self, event: &EventFd, gsi: u32) -> Result<()> {
        event::lend(event, |fd| self.fd.unregister_irqfd(fd, gsi))
            .map_err(Error::request("KVM_IRQFD"))
    }

    /// Sets the level of an interrupt line of the in-kernel controllers.
    pub fn set_line(&self, gsi: u32, high: bool) -> Result<()> {
        self.fd
            .set_irq_line(gsi, high)
            .map_err(Error::request("KVM_IRQ_LINE"))
    }

    /// Guest writes to `address` that match `value` signal `event` from now on.
    pub fn add_doorbell(
        &self,
        address: DoorbellAddress,
        value: DoorbellValue,
        event: &EventFd,
    ) -> Result<()> {
        let at = io_address(address);
        event::lend(event, |fd| match value {
            DoorbellValue::Any => self.fd.register_ioevent(fd, &at, NoDatamatch),
            DoorbellValue::Word(word) => self.fd.register_ioevent(fd, &at, word),
        })
        .map_err(Error::request("KVM_IOEVENTFD"))
    }

    /// Undoes [`Vm::add_doorbell`].
    pub fn remove_doorbell(
        &self,
        address: DoorbellAddress,
        value: DoorbellValue,
        event: &EventFd,
    ) -> Result<()> {
        let at = io_address(address);
        event::lend(event, |fd| match value {
            DoorbellValue::Any => self.fd.unregister_ioevent(fd, &at, NoDatamatch),
            DoorbellValue::Word(word) => self.fd.unregister_ioevent(fd, &at, word),
        })
        .map_err(Error::request("KVM_IOEVENTFD"))
    }

    /// Creates vCPU number `id`, which is also its APIC id.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu> {
        self.fd
            .create_vcpu(u64::from(id))
            .map(|fd| Vcpu::new(fd, id, Arc::clone(&self.slots)))
            .map_err(Error::request("KVM_CREATE_VCPU"))
    }

    /// The descriptor, for state.rs.
    pub(crate) fn fd(&self) -> &VmFd {
        &self.fd
    }
}

fn io_address(address: DoorbellAddress) -> IoEventAddress {
    match address {
        DoorbellAddress::Mmio(at) => IoEventAddress::Mmio(at),
        DoorbellAddress::Port(at) => IoEventAddress::Pio(at),
    }
}

fn entry(route: Route) -> kvm_irq_routing_entry {
    let chip = |gsi, irqchip, pin| kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: RouteUnion {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    };
    match route {
        Route::Pic { gsi, pin } if pin < 8 => chip(gsi, KVM_IRQCHIP_PIC_MASTER, u32::from(pin)),
        Route::Pic { gsi, pin } => chip(gsi, KVM_IRQCHIP_PIC_SLAVE, u32::from(pin) - 8),
        Route::IoApic { gsi, pin } => chip(gsi, KVM_IRQCHIP_IOAPIC, u32::from(pin)),
        Route::Msi { gsi, address, data } => kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_MSI,
            u: RouteUnion {
                msi: kvm_irq_routing_msi {
                    address_lo: (address & 0xffff_ffff) as u32,
                    address_hi: (address >> 32) as u32,
                    data,
                    ..Default::default()
                },
            },
            ..Default::default()
        },
    }
}

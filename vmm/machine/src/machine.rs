//! Puts the machine together and runs it.
//!
//! One rule: between [`Machine::run`]s no vCPU thread exists, so whoever owns the machine may touch all of it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use host_os::EventFd;
use kvm::Hypervisor;
use kvm::IrqchipState;
use kvm::Vcpu;
use kvm::VcpuState;
use kvm::Vm;
use kvm::cpuid::Processors;

use crate::Doorbells;
use crate::Error;
use crate::Interrupts;
use crate::Ram;
use crate::Result;
use crate::Stop;
use crate::bus::Ports;
use crate::clock::Clock;
use crate::doorbells::KvmDoorbells;
use crate::interrupts::InterruptTable;
use crate::layout;
use crate::pci::PciFunction;
use crate::pci::host::ConfigPorts;
use crate::pci::host::PciHost;
use crate::power::DebugExit;
use crate::power::FixedHardware;
use crate::power::KeyboardController;
use crate::serial::Irq;
use crate::serial::SerialPort;
use crate::vcpu;
use crate::vcpu::Buses;

/// The MADT names local APICs with 8 bits, of which 255 is "all".
const CPUS_MOST: u32 = 254;
/// How long serial input waits for a guest that does not read.
const INPUT_PATIENCE: Duration = Duration::from_secs(1);

/// What to build.
pub struct MachineSpec {
    /// Bytes of RAM, a multiple of 2 MiB.
    pub memory: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Where the serial port writes; None means no serial port.
    pub serial: Option<Box<dyn Write + Send>>,
    /// True if a write to the debug exit port ends the VM.
    pub debug_exit: bool,
}

/// Where the first vCPU starts, by the PVH protocol: 32-bit protected mode, no paging, flat segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Instruction pointer.
    pub address: u32,
    /// Physical address of the start info, in EBX.
    pub start_info: u32,
}

/// The machine.
pub struct Machine {
    vm: Arc<Vm>,
    ram: Arc<Ram>,
    interrupts: Arc<InterruptTable>,
    buses: Arc<Buses>,
    power: Arc<FixedHardware>,
    serial: Option<Arc<SerialPort>>,
    vcpus: Vec<Vcpu>,
    vcpu_states: Vec<VcpuState>,
    irqchip_state: IrqchipState,
    events: Receiver<Stop>,
    stopper: Sender<Stop>,
}

impl Machine {
    /// Builds a machine without PCI functions, in its power-on state.
    pub fn new(spec: MachineSpec) -> Result<Self> {
        let hypervisor = Hypervisor::open()?;
        let most = hypervisor.max_cpus().min(CPUS_MOST);
        if spec.cpus == 0 || spec.cpus > most {
            return Err(Error::Cpus {
                asked: spec.cpus,
                most,
            });
        }
        kvm::install_kick()?;
        let vm = Arc::new(hypervisor.create_vm()?);
        let ram = Arc::new(Ram::new(spec.memory)?);
        for region in ram.regions() {
            vm.add_memory(
                region.guest_addr,
                ram.memory(),
                region.fd_offset,
                region.size,
            )?;
        }
        vm.create_irqchip(layout::TSS, layout::IDENTITY_MAP)?;
        let interrupts = InterruptTable::new(Arc::clone(&vm))?;
        let vcpus = create_vcpus(&hypervisor, &vm, spec.cpus)?;
        let indices = hypervisor.msr_indices()?;
        let vcpu_states = vcpus
            .iter()
            .map(|vcpu| vcpu.save(&indices))
            .collect::<kvm::Result<_>>()?;
        let (stopper, events) = channel();
        let power = Arc::new(FixedHardware::new(stopper.clone(), Some(Arc::clone(&vm))));
        let pci = Arc::new(PciHost::new(layout::pci_mmio64(ram.end())));
        let serial = spec
            .serial
            .map(|out| connect_serial(&interrupts, out))
            .transpose()?;
        let mut ports = platform_ports(&power, &pci, &stopper);
        if let Some(serial) = &serial {
            ports.add(
                layout::SERIAL_PORT..layout::SERIAL_PORT + 8,
                Arc::clone(serial) as _,
            );
        }
        if spec.debug_exit {
            let exit = Arc::new(DebugExit(stopper.clone()));
            ports.add(layout::DEBUG_EXIT_PORT..layout::DEBUG_EXIT_PORT + 1, exit);
        }
        Ok(Self {
            irqchip_state: vm.save_irqchip()?,
            buses: Arc::new(Buses { ports, pci }),
            vm,
            ram,
            interrupts,
            power,
            serial,
            vcpus,
            vcpu_states,
            events,
            stopper,
        })
    }

    /// The guest's RAM.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// Where PCI functions get interrupt lines.
    pub fn interrupts(&self) -> Arc<dyn Interrupts> {
        self.interrupts.handle()
    }

    /// Where PCI functions register doorbells.
    pub fn doorbells(&self) -> Arc<dyn Doorbells> {
        Arc::new(KvmDoorbells(Arc::clone(&self.vm)))
    }

    /// Adds a function to the PCI bus, before the first [`Machine::reset`]; returns its slot.
    pub fn add_function(&mut self, function: Box<dyn PciFunction>) -> Result<usize> {
        self.buses.pci.add(function)
    }

    /// A handle for other threads.
    pub fn controls(&self) -> Controls {
        Controls {
            power: Arc::clone(&self.power),
            serial: self.serial.clone(),
            stopper: self.stopper.clone(),
        }
    }

    /// Brings everything but RAM to its power-on state and places the BARs. Call before each [`Machine::run`].
    pub fn reset(&mut self) -> Result<()> {
        self.buses.pci.reset()?;
        self.power.reset();
        for (vcpu, state) in self.vcpus.iter().zip(&self.vcpu_states) {
            vcpu.restore(state)?;
        }
        self.vm.restore_irqchip(&self.irqchip_state)?;
        Ok(())
    }

    /// Starts the guest at `entry` and runs it until something stops it.
    pub fn run(&mut self, entry: Entry) -> Result<Stop> {
        if let Some(first) = self.vcpus.first() {
            set_entry(first, entry)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut failure = None;
        for vcpu in core::mem::take(&mut self.vcpus) {
            match self.spawn(vcpu, &stop) {
                Ok(thread) => threads.push(thread),
                Err(error) => failure = Some(Error::Thread(error)),
            }
        }
        let reason = match failure {
            None => self.events.recv().unwrap_or(Stop::Requested),
            Some(_) => Stop::Requested,
        };
        stop.store(true, Ordering::Release);
        for thread in threads {
            while !thread.is_finished() {
                kvm::kick(&thread);
                std::thread::sleep(Duration::from_micros(200));
            }
            match thread.join() {
                Ok(vcpu) => self.vcpus.push(vcpu),
                Err(_) => return Ok(Stop::Failed("A vCPU thread panicked".to_owned())),
            }
        }
        // What came after the first reason concerns a guest that is gone, except a wish to stop.
        let wish = self.events.try_iter().any(|late| late == Stop::Requested);
        let reason = if wish { Stop::Requested } else { reason };
        failure.map_or(Ok(reason), Err)
    }

    fn spawn(&self, vcpu: Vcpu, stop: &Arc<AtomicBool>) -> std::io::Result<JoinHandle<Vcpu>> {
        let buses = Arc::clone(&self.buses);
        let stop = Arc::clone(stop);
        let events = self.stopper.clone();
        std::thread::Builder::new()
            .name(format!("vcpu{}", vcpu.id()))
            .spawn(move || vcpu::run(vcpu, &buses, &stop, &events))
    }
}

/// What other threads may do to a running machine.
#[derive(Clone)]
pub struct Controls {
    power: Arc<FixedHardware>,
    serial: Option<Arc<SerialPort>>,
    stopper: Sender<Stop>,
}

impl Controls {
    /// Ends the current or next [`Machine::run`] with [`Stop::Requested`].
    pub fn stop(&self) {
        let _ = self.stopper.send(Stop::Requested);
    }

    /// Resets the machine as the guest could: ends the current or next [`Machine::run`] with [`Stop::Reset`].
    pub fn reset(&self) {
        let _ = self.stopper.send(Stop::Reset("the control socket"));
    }

    /// Presses the power button. False if the guest does not listen to it.
    pub fn press_power_button(&self) -> bool {
        self.power.press_power_button()
    }

    /// Sends input to the serial port; waits while the guest is slow, drops what it does not read for a second.
    pub fn serial_input(&self, bytes: &[u8]) {
        if let Some(serial) = &self.serial {
            serial.input(bytes, INPUT_PATIENCE);
        }
    }
}

fn create_vcpus(hypervisor: &Hypervisor, vm: &Vm, count: u32) -> Result<Vec<Vcpu>> {
    let offered = hypervisor.supported_cpuid()?;
    let create = |id| {
        let vcpu = vm.create_vcpu(id)?;
        let processors = Processors {
            count,
            tsc_deadline: hypervisor.has_tsc_deadline(),
            tsc_khz: vcpu.tsc_khz(),
        };
        vcpu.set_cpuid(&kvm::cpuid::for_vcpu(&offered, id, processors))?;
        vcpu.set_firmware_defaults();
        Ok(vcpu)
    };
    (0..count).map(create).collect()
}

fn connect_serial(table: &InterruptTable, out: Box<dyn Write + Send>) -> Result<Arc<SerialPort>> {
    let event = EventFd::new().map_err(Error::EventFd)?;
    table.connect(&event, layout::SERIAL_IRQ)?;
    Ok(Arc::new(SerialPort::new(Irq(event), out)))
}

fn platform_ports(power: &Arc<FixedHardware>, pci: &Arc<PciHost>, stop: &Sender<Stop>) -> Ports {
    let mut ports = Ports::default();
    ports.add(
        layout::PM_BASE..layout::PM_BASE + 12,
        Arc::clone(power) as _,
    );
    ports.add(0x60..0x65, Arc::new(KeyboardController(stop.clone())));
    ports.add(0x70..0x72, Arc::new(Clock::default()));
    let config = ConfigPorts {
        host: Arc::clone(pci),
        events: stop.clone(),
    };
    ports.add(0xcf8..0xd00, Arc::new(config));
    ports
}

fn set_entry(vcpu: &Vcpu, entry: Entry) -> Result<()> {
    let mut sregs = vcpu.sregs()?;
    let mut segment = sregs.cs;
    (segment.base, segment.limit, segment.selector) = (0, 0xffff_ffff, 0x8);
    (segment.present, segment.s, segment.db, segment.g) = (1, 1, 1, 1);
    (segment.l, segment.dpl, segment.type_, segment.unusable) = (0, 0, 0xb, 0);
    sregs.cs = segment;
    (segment.type_, segment.selector) = (0x3, 0x10);
    (sregs.ds, sregs.es, sregs.ss) = (segment, segment, segment);
    (sregs.fs, sregs.gs) = (segment, segment);
    let mut task = segment;
    (task.limit, task.selector, task.type_) = (0x67, 0x18, 0xb);
    (task.s, task.db, task.g) = (0, 0, 0);
    sregs.tr = task;
    sregs.cr0 = 0x11;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.regs()?;
    regs.rip = u64::from(entry.address);
    regs.rbx = u64::from(entry.start_info);
    regs.rflags = 2;
    vcpu.set_regs(&regs)?;
    Ok(())
}

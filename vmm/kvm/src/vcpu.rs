//! One vCPU: running it, reading why it stopped, setting its registers, and waking it from another thread.
//!
//! One rule: the contents of the shared run page are the kernel's; guest data in it is handed out as plain slices.
#![expect(unsafe_code, reason = "reading the union in the kernel's run page")]

use std::fmt::Write as _;
use std::thread::JoinHandle;

use kvm_bindings::CpuId;
use kvm_bindings::kvm_regs;
use kvm_bindings::kvm_sregs;
use kvm_ioctls::VcpuExit;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::Killable;
use vmm_sys_util::signal::SIGRTMIN;
use vmm_sys_util::signal::register_signal_handler;

use crate::Error;
use crate::Result;
use crate::cpuid::CpuidEntry;
use crate::vm::Slots;

/// Why a vCPU came back.
#[derive(Debug)]
pub enum Exit<'a> {
    /// Port reads: `data` is one or several items of `size` bytes to fill.
    PortRead {
        /// The port.
        port: u16,
        /// Bytes per item: 1, 2 or 4.
        size: usize,
        /// To fill.
        data: &'a mut [u8],
    },
    /// Port writes: `data` is one or several items of `size` bytes.
    PortWrite {
        /// The port.
        port: u16,
        /// Bytes per item: 1, 2 or 4.
        size: usize,
        /// What was written.
        data: &'a [u8],
    },
    /// A read of 1 to 8 bytes where there is no RAM.
    MmioRead {
        /// Guest physical address.
        address: u64,
        /// To fill.
        data: &'a mut [u8],
    },
    /// A write of 1 to 8 bytes where there is no RAM.
    MmioWrite {
        /// Guest physical address.
        address: u64,
        /// What was written.
        data: &'a [u8],
    },
    /// A signal, or nothing in particular: run again unless told to stop.
    Interrupted,
    /// The guest halted for good (cannot happen with an in-kernel interrupt controller).
    Halted,
    /// A triple fault.
    Shutdown,
    /// KVM cannot go on: what it said, in words.
    Failed(String),
}

/// One vCPU.
pub struct Vcpu {
    fd: VcpuFd,
    id: u32,
    /// Keeps the guest's memory mapped while this vCPU can run.
    _memory: Slots,
}

impl Vcpu {
    pub(crate) fn new(fd: VcpuFd, id: u32, memory: Slots) -> Self {
        Self {
            fd,
            id,
            _memory: memory,
        }
    }

    /// Its number and APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Sets what the guest sees with CPUID. Call before the first run.
    pub fn set_cpuid(&self, entries: &[CpuidEntry]) -> Result<()> {
        let cpuid = CpuId::from_entries(entries).map_err(|_| Error::Missing("room for CPUID"))?;
        self.fd
            .set_cpuid2(&cpuid)
            .map_err(Error::request("KVM_SET_CPUID2"))
    }

    /// Frequency of the guest's TSC in kHz; 0 if KVM does not say.
    pub fn tsc_khz(&self) -> u32 {
        self.fd.get_tsc_khz().unwrap_or(0)
    }

    /// The general registers.
    pub fn regs(&self) -> Result<kvm_regs> {
        self.fd.get_regs().map_err(Error::request("KVM_GET_REGS"))
    }

    /// Sets the general registers.
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<()> {
        self.fd
            .set_regs(regs)
            .map_err(Error::request("KVM_SET_REGS"))
    }

    /// The system registers.
    pub fn sregs(&self) -> Result<kvm_sregs> {
        self.fd.get_sregs().map_err(Error::request("KVM_GET_SREGS"))
    }

    /// Sets the system registers.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        self.fd
            .set_sregs(sregs)
            .map_err(Error::request("KVM_SET_SREGS"))
    }

    /// Runs until something needs the VMM.
    pub fn run(&mut self) -> Result<Exit<'_>> {
        // Decided in two steps because the borrow of the run page must end before the page is read again.
        let kind = match self.fd.run() {
            Ok(exit) => Kind::of(exit),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Kind::Interrupted,
            Err(error) => {
                let source = std::io::Error::from(error);
                Kind::Failed(format!("KVM_RUN failed: {source}"))
            }
        };
        Ok(match kind {
            Kind::PortRead => self.port_access(true),
            Kind::PortWrite => self.port_access(false),
            Kind::MmioRead => self.mmio_access(true),
            Kind::MmioWrite => self.mmio_access(false),
            Kind::Interrupted => Exit::Interrupted,
            Kind::Halted => Exit::Halted,
            Kind::Shutdown => Exit::Shutdown,
            Kind::InternalError => Exit::Failed(self.internal_error()),
            Kind::Failed(text) => Exit::Failed(format!("{text}\n{}", self.describe())),
        })
    }

    /// Makes the next [`Vcpu::run`] finish the pending port or MMIO access and come back at once.
    pub fn finish_access(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        let _ = self.fd.run();
        self.fd.set_kvm_immediate_exit(0);
    }

    /// The registers, for a person to read.
    pub fn describe(&self) -> String {
        let mut text = format!("vCPU {}:", self.id);
        if let Ok(r) = self.fd.get_regs() {
            let named = [
                ("rip", r.rip),
                ("rflags", r.rflags),
                ("rsp", r.rsp),
                ("rax", r.rax),
                ("rbx", r.rbx),
                ("rcx", r.rcx),
                ("rdx", r.rdx),
                ("rsi", r.rsi),
                ("rdi", r.rdi),
                ("rbp", r.rbp),
                ("r8", r.r8),
                ("r9", r.r9),
                ("r10", r.r10),
                ("r11", r.r11),
                ("r12", r.r12),
                ("r13", r.r13),
                ("r14", r.r14),
                ("r15", r.r15),
            ];
            for (name, value) in named {
                let _ = write!(text, " {name}={value:#x}");
            }
        }
        if let Ok(s) = self.fd.get_sregs() {
            let _ = write!(
                text,
                " cs={:#x}/{:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x} idt={:#x} gdt={:#x}",
                s.cs.selector,
                s.cs.base,
                s.cr0,
                s.cr2,
                s.cr3,
                s.cr4,
                s.efer,
                s.idt.base,
                s.gdt.base
            );
        }
        text
    }

    /// The descriptor, for state.rs.
    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    fn port_access(&mut self, read: bool) -> Exit<'_> {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was an I/O exit, so the kernel filled this member of the union.
        let io = unsafe { run.__bindgen_anon_1.io };
        let size = usize::from(io.size).max(1);
        let len = size.saturating_mul(io.count as usize);
        let page = core::ptr::from_mut(run).cast::<u8>();
        // SAFETY: the kernel says that the data starts this far into the run page, which is mapped whole.
        let start = unsafe { page.add(io.data_offset as usize) };
        // SAFETY: the kernel put `len` bytes there for us; the vCPU is stopped, and the slice borrows self.
        let data = unsafe { core::slice::from_raw_parts_mut(start, len) };
        if read {
            Exit::PortRead {
                port: io.port,
                size,
                data,
            }
        } else {
            Exit::PortWrite {
                port: io.port,
                size,
                data,
            }
        }
    }

    fn mmio_access(&mut self, read: bool) -> Exit<'_> {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was an MMIO exit, so the kernel filled this member of the union.
        let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
        let address = mmio.phys_addr;
        let len = mmio.len as usize;
        let data = mmio.data.get_mut(..len).unwrap_or_default();
        if read {
            Exit::MmioRead { address, data }
        } else {
            Exit::MmioWrite { address, data }
        }
    }

    fn internal_error(&mut self) -> String {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was an internal error, so the kernel filled this member of the union.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let name = match internal.suberror {
            1 => "instruction emulation failed",
            2 => "exceptions while delivering an exception",
            3 => "exit while delivering an event",
            4 => "unexpected exit reason",
            _ => "unknown",
        };
        let count = (internal.ndata as usize).min(internal.data.len());
        let data: Vec<String> = internal
            .data
            .iter()
            .take(count)
            .map(|v| format!("{v:#x}"))
            .collect();
        format!(
            "KVM internal error {} ({name}), data [{}]\n{}",
            internal.suberror,
            data.join(", "),
            self.describe()
        )
    }
}

/// An exit without its data.
enum Kind {
    PortRead,
    PortWrite,
    MmioRead,
    MmioWrite,
    Interrupted,
    Halted,
    Shutdown,
    InternalError,
    Failed(String),
}

impl Kind {
    fn of(exit: VcpuExit<'_>) -> Self {
        match exit {
            VcpuExit::IoIn(..) => Self::PortRead,
            VcpuExit::IoOut(..) => Self::PortWrite,
            VcpuExit::MmioRead(..) => Self::MmioRead,
            VcpuExit::MmioWrite(..) => Self::MmioWrite,
            VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr => Self::Interrupted,
            VcpuExit::Hlt => Self::Halted,
            VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => Self::Shutdown,
            VcpuExit::InternalError => Self::InternalError,
            VcpuExit::FailEntry(reason, cpu) => Self::Failed(format!(
                "Entering the guest failed: reason {reason:#x} on host CPU {cpu}"
            )),
            other => Self::Failed(format!("Unexpected exit {other:?}")),
        }
    }
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the (empty) handler of the signal that [`kick`] sends. Once per process, before the first kick.
pub fn install_kick() -> Result<()> {
    register_signal_handler(SIGRTMIN(), ignore).map_err(Error::request("sigaction"))
}

/// Makes the vCPU that runs on `thread` leave the guest. It may miss a kick that comes just before it enters the
/// guest, so kick until it answers.
pub fn kick<T>(thread: &JoinHandle<T>) {
    // The only failure is a thread that has ended.
    let _ = thread.kill(SIGRTMIN());
}

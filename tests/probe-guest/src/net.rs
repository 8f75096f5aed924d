//! A card with an address: the TCP/IP stack, polled, and what every network job needs.
//!
//! Rule: one loop drives everything; it spins, or with `wait=irq` sleeps when nothing has happened for a while.
use alloc::vec::Vec;
use core::str::FromStr;

use smoltcp::iface::Config;
use smoltcp::iface::Interface;
use smoltcp::iface::PollResult;
use smoltcp::iface::SocketHandle;
use smoltcp::iface::SocketSet;
use smoltcp::socket::AnySocket;
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::EthernetAddress;
use smoltcp::wire::IpCidr;
use smoltcp::wire::Ipv4Address;
use smoltcp::wire::Ipv4Cidr;

use crate::apic;
use crate::card::Card;
use crate::command::Task;
use crate::cpu;
use crate::device::number;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::wire::Wire;

/// Port of all services.
pub(crate) const PORT: u16 = 7700;
/// A lease must come within this time, in milliseconds.
const LEASE_MS: u64 = 30_000;
/// Without progress for this long a job has failed, in milliseconds.
pub(crate) const STALL_MS: u64 = 60_000;
/// With `wait=irq`: spins this long before it sleeps, in microseconds.
const SPIN_US: u64 = 20;

/// A card with a stack on it.
pub(crate) struct Net<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) wire: Wire<'a>,
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    sleeps: bool,
    active: u64,
}

impl<'a> Net<'a> {
    /// Opens the card that the task names and gives it its address.
    pub(crate) fn open(machine: &'a Machine, task: &Task<'_>) -> Result<Self, Failure> {
        let mut wire = Wire::new(Card::open(machine, task)?);
        let mut config = Config::new(EthernetAddress(wire.card.mac).into());
        config.random_seed = cpu::tsc();
        let interface = Interface::new(config, &mut wire, now(machine));
        let mut net = Self {
            machine,
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            sleeps: task.text("wait") == Some("irq"),
            active: cpu::tsc(),
        };
        if net.sleeps {
            apic::alarm(Some(cpu::FIRST_VECTOR));
        }
        match task.text("address").unwrap_or("dhcp") {
            "dhcp" => net.lease()?,
            text => {
                let cidr = Ipv4Cidr::from_str(text)
                    .map_err(|()| Failure::new("address= is dhcp or like 10.0.0.2/24", 0))?;
                let router = peer(task, "router").ok();
                net.configure(cidr, router);
            }
        }
        Ok(net)
    }

    fn configure(&mut self, cidr: Ipv4Cidr, router: Option<Ipv4Address>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // There is room for more than one.
            let _ = addresses.push(IpCidr::Ipv4(cidr));
        });
        if let Some(router) = router {
            let _ = self.interface.routes_mut().add_default_ipv4_route(router);
        }
    }

    /// Asks for an address by DHCP.
    fn lease(&mut self) -> Result<(), Failure> {
        let handle = self.sockets.add(dhcpv4::Socket::new());
        let start = cpu::tsc();
        loop {
            self.step()?;
            let event = self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll();
            if let Some(dhcpv4::Event::Configured(lease)) = event {
                let (cidr, router) = (lease.address, lease.router);
                self.configure(cidr, router);
                let mut line = Line::new("lease");
                line.display("address", &cidr);
                if let Some(router) = router {
                    line.display("router", &router);
                }
                let ticks = cpu::tsc() - start;
                line.number("us", self.machine.platform.nanoseconds(ticks) / 1000)
                    .print();
                // Leases are longer than jobs.
                self.sockets.remove(handle);
                return Ok(());
            }
            if cpu::tsc() - start > self.machine.platform.ticks(LEASE_MS) {
                return Err(Failure::new("No lease came", LEASE_MS));
            }
        }
    }

    /// Lets the stack work on what came and what is to go; sleeps if it is allowed and nothing has happened for a while.
    pub(crate) fn step(&mut self) -> Result<(), Failure> {
        let time = now(self.machine);
        let changed = self.interface.poll(time, &mut self.wire, &mut self.sockets);
        let (came, went) = self.wire.card.flush()?;
        if came || went || changed == PollResult::SocketStateChanged {
            self.active = cpu::tsc();
        } else if self.sleeps {
            let spun = self.machine.platform.nanoseconds(cpu::tsc() - self.active) / 1000;
            if spun > SPIN_US {
                self.wire.card.sleep();
            }
        } else {
            core::hint::spin_loop();
        }
        Ok(())
    }

    /// A socket of the stack.
    pub(crate) fn socket<T: AnySocket<'static>>(&mut self, handle: SocketHandle) -> &mut T {
        self.sockets.get_mut(handle)
    }

    /// Puts what was measured of the card into a report.
    pub(crate) fn report(&self, line: &mut Line) {
        self.wire.card.report(line);
        line.number("interrupts", cpu::interrupts());
    }

    /// Resets the card.
    pub(crate) fn close(self) -> Result<(), Failure> {
        apic::alarm(None);
        self.wire.card.close()
    }
}

/// The stack's clock.
pub(crate) fn now(machine: &Machine) -> Instant {
    let us = machine.platform.nanoseconds(cpu::tsc()) / 1000;
    Instant::from_micros(i64::try_from(us).unwrap_or(i64::MAX))
}

/// The address that a parameter names.
pub(crate) fn peer(task: &Task<'_>, name: &str) -> Result<Ipv4Address, Failure> {
    let text = task.text(name).unwrap_or_default();
    Ipv4Address::from_str(text).map_err(|_| Failure::new("peer= is not like 10.0.0.2", 0))
}

/// The `netinfo` job: what the card is, and its link; with `watch=N` every change of the link until there were N.
pub(crate) fn info(machine: &Machine, task: &Task<'_>) -> Result<(), Failure> {
    let mut card = Card::open(machine, task)?;
    card.describe("netinfo");
    let mut changes = number(task, "watch", 0)?;
    let start = cpu::tsc();
    while changes > 0 {
        if card.link_changed()? {
            card.describe("link");
            changes -= 1;
        }
        if cpu::tsc() - start > machine.platform.ticks(STALL_MS) {
            return Err(Failure::new("The link does not change", changes));
        }
    }
    card.close()
}

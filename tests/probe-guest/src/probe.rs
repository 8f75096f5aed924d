//! The `probe` job: what is there.
//!
//! Rule: one line per PCI function, one per disk, one per queue.
use virtio_pci::Transport;
use virtio_spec::device_id;

use crate::device::is_virtio;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::pci::Function;
use crate::workload::Disk;

pub(crate) fn run(machine: &Machine) -> Result<(), Failure> {
    for &place in &machine.functions {
        let mut line = Line::new("pci");
        line.number("device", u64::from(place.device))
            .number("function", u64::from(place.function));
        line.hex("vendor", u64::from(place.read_u16(0)))
            .hex("id", u64::from(place.read_u16(2)));
        line.hex("class", u64::from(place.read_u32(8) >> 8)).print();
    }
    let disks = machine.functions.iter();
    let disks = disks.filter(|&&place| is_virtio(place, device_id::BLOCK));
    for (index, &place) in disks.enumerate() {
        let transport = Transport::probe(Function::open(place))
            .map_err(|_| Failure::new("The disk has bad capabilities", index as u64))?;
        Line::new("disk")
            .number("disk", index as u64)
            .hex("offered", transport.device_features())
            .number("queues", u64::from(transport.queue_count()))
            .number("config_len", transport.config_len())
            .print();
        describe(machine, index)?;
    }
    Ok(())
}

fn describe(machine: &Machine, index: usize) -> Result<(), Failure> {
    let words = alloc::format!("probe disk={index} queues=64");
    let tasks = crate::command::parse(&words);
    let Some(task) = tasks.first() else {
        return Ok(());
    };
    let disk = Disk::open(machine, task)?;
    let info = disk.driver.info();
    Line::new("disk_info")
        .number("disk", index as u64)
        .hex("features", disk.driver.features())
        .number("capacity_sectors", info.capacity_sectors)
        .number("block_size", u64::from(info.block_size))
        .number("physical_block_size", u64::from(info.physical_block_size))
        .truth("read_only", info.read_only)
        .truth("flush", info.flush)
        .number("seg_max", u64::from(info.seg_max))
        .number("size_max", u64::from(info.size_max))
        .number("max_discard_sectors", u64::from(info.max_discard_sectors))
        .number(
            "max_write_zeroes_sectors",
            u64::from(info.max_write_zeroes_sectors),
        )
        .number("messages", u64::from(disk.messages))
        .print();
    for queue in &disk.queues {
        Line::new("queue")
            .number("index", u64::from(queue.index()))
            .number("size", u64::from(queue.size()))
            .print();
    }
    disk.close(machine)
}

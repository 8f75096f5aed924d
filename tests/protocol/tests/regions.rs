//! Memory regions that a front-end removes twice, or never added. One rule: the answer is an error, and nothing else
//! changes.
//!
//! QEMU 7.2 removes each region once for every queue pair of a network card, as it also adds them; from the second time on
//! the region is unknown.

use anyhow::Result;
use protocol::Frontend;
use protocol::Guest;
use protocol::GuestQueue;
use protocol::QueueShape;
use protocol::Served;
use protocol::eventually;
use std::os::fd::AsFd;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::MemoryRegion;

const SHAPES: [QueueShape; 2] = [QueueShape::SPLIT, QueueShape::PACKED];

fn start(frontend: &mut Frontend, guest: &Guest, shape: QueueShape) -> Result<Vec<GuestQueue>> {
    frontend.negotiate(shape.features)?;
    frontend.set_memory(guest)?;
    let base = if shape.features == QueueShape::PACKED.features {
        0x8000_8000
    } else {
        0
    };
    let queues = (0..2).map(|index| {
        let queue = guest.queue(index, shape)?;
        frontend.start_queue(&queue, base)?;
        Ok(queue)
    });
    queues.collect()
}

fn extra() -> Result<Guest> {
    Guest::with_region(0x1_0000_0000, 0x7e00_0000_0000, 1 << 20)
}

#[test]
fn a_region_that_is_removed_for_each_queue_pair_is_an_error_from_the_second_time_on() -> Result<()>
{
    for shape in SHAPES {
        let (served, guest, extra) = (Served::new(2)?, Guest::new()?, extra()?);
        let mut frontend = served.connect()?;
        let mut queues = start(&mut frontend, &guest, shape)?;
        for round in 0..5 {
            for _pair in 0..3 {
                frontend.must(&M::AddMemReg(extra.region()), &[extra.file.as_fd()])?;
            }
            frontend.must(&M::RemMemReg(extra.region()), &[])?;
            for _pair in 1..3 {
                let answer = frontend.ask(&M::RemMemReg(extra.region()), &[])?;
                assert_ne!(answer, 0, "round {round}");
            }
            for queue in &mut queues {
                queue.echo(&guest, b"go on...")?;
            }
        }
        assert_eq!(served.server.statistics().session.message_errors, 10);
    }
    Ok(())
}

#[test]
fn a_region_that_differs_in_anything_is_not_removed() -> Result<()> {
    let (served, guest, extra) = (Served::new(2)?, Guest::new()?, extra()?);
    let mut frontend = served.connect()?;
    let mut queues = start(&mut frontend, &guest, QueueShape::SPLIT)?;
    frontend.must(&M::AddMemReg(extra.region()), &[extra.file.as_fd()])?;
    for region in [guest.region(), extra.region()] {
        let others = [
            MemoryRegion {
                guest_addr: region.guest_addr + 4096,
                ..region
            },
            MemoryRegion {
                user_addr: region.user_addr - 4096,
                ..region
            },
            MemoryRegion {
                size: region.size / 2,
                ..region
            },
            MemoryRegion { size: 0, ..region },
            MemoryRegion {
                guest_addr: u64::MAX,
                size: u64::MAX,
                ..region
            },
        ];
        for other in others {
            let answer = frontend.ask(&M::RemMemReg(other), &[])?;
            assert_ne!(answer, 0, "{other:?}");
            queues[0].echo(&guest, b"go on...")?;
            queues[1].echo(&guest, b"go on...")?;
        }
    }
    // It is still there, and its neighbours too.
    frontend.must(&M::RemMemReg(extra.region()), &[])?;
    queues[0].echo(&guest, b"the last")
}

#[test]
fn nobody_waits_for_an_answer_to_a_region_that_is_removed_twice() -> Result<()> {
    let (served, guest, extra) = (Served::new(2)?, Guest::new()?, extra()?);
    let mut frontend = served.connect()?;
    let mut queues = start(&mut frontend, &guest, QueueShape::SPLIT)?;
    frontend.must(&M::AddMemReg(extra.region()), &[extra.file.as_fd()])?;
    // Some front-ends send the region's file along.
    for with in [&[][..], &[extra.file.as_fd()]] {
        frontend.send(&M::RemMemReg(extra.region()), with)?;
        frontend.send(&M::RemMemReg(extra.region()), with)?;
    }
    let refused = || served.server.statistics().session.message_errors == 3;
    assert!(eventually(refused));
    assert!(
        frontend.number(&M::GetQueueNum)? > 0,
        "the next answer is its own"
    );
    queues[1].echo(&guest, b"go on...")
}

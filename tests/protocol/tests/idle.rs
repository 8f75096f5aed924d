//! What waiting costs. One rule: one test in this file, because it measures the CPU time of the whole process.

use anyhow::Result;
use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use protocol::Guest;
use protocol::QueueShape;
use protocol::Served;
use std::time::Duration;

fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(nix::sys::time::TimeValLike::num_microseconds(&time)).unwrap_or(0)
    };
    Ok(Duration::from_micros(
        micros(usage.user_time()) + micros(usage.system_time()),
    ))
}

#[test]
fn idle_device_costs_no_cpu_and_still_answers_at_once() -> Result<()> {
    let served = Served::new(4)?;
    let guest = Guest::new()?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    frontend.set_memory(&guest)?;
    let mut queues = Vec::new();
    for index in 0..4 {
        let queue = guest.queue(index, QueueShape::SPLIT)?;
        frontend.start_queue(&queue, 0)?;
        queues.push(queue);
    }
    for queue in &mut queues {
        queue.echo(&guest, b"wake up.")?;
    }
    std::thread::sleep(Duration::from_millis(20));
    let before = cpu_time()?;
    std::thread::sleep(Duration::from_millis(500));
    let used = cpu_time()? - before;
    assert!(
        used < Duration::from_millis(5),
        "half a second of idleness cost {used:?}"
    );
    // Rare requests must not pay for polling each time either: fifty, 4 ms apart.
    let before = cpu_time()?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(4));
        queues[0].echo(&guest, b"now and ")?;
    }
    let used = cpu_time()? - before;
    assert!(
        used < Duration::from_millis(40),
        "fifty rare requests cost {used:?}"
    );
    Ok(())
}

//! CPU placement and accounting of the processes under test.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use nix::sched::CpuSet;
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;

/// Pins the calling thread, and what it starts, to one CPU.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot pin to CPU {cpu}"))
}

/// CPU time of all threads of a process so far, in nanosecond steps.
pub fn time(pid: u32) -> Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the read.
        let Ok(stat) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let ns = stat.split(' ').next().unwrap_or_default();
        total += ns.parse::<u64>().unwrap_or_default();
    }
    Ok(Duration::from_nanos(total))
}

/// The two CPUs to use: one for the client, one for the server. The same where there is only one.
pub fn pair() -> (usize, usize) {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (0, usize::from(count > 1))
}

//! CPU placement and accounting of the processes under test.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use nix::sched::CpuSet;
use nix::sched::sched_setaffinity;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// Pins the calling thread, and what it starts, to one CPU.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot pin to CPU {cpu}"))
}

/// Lets the calling thread run on every CPU again.
pub fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// CPU time of a process so far, its ended threads included.
pub fn time(pid: u32) -> Result<Duration> {
    let pid = Pid::from_raw(pid.try_into()?);
    let now = clock_getcpuclockid(pid).and_then(|clock| clock.now());
    Ok(now
        .with_context(|| format!("no CPU clock of process {pid}"))?
        .into())
}

/// The two CPUs to use: one for the client, one for the server. The same where there is only one.
pub fn pair() -> (usize, usize) {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (0, usize::from(count > 1))
}

//! The real devices, as the daemons make them, through everything that may happen to a queue while it works. One rule: each
//! cell of the table (device, engine, medium, cache, ring, event) has requests in flight at its event and after it, and all
//! of them are accounted for: done exactly once, with the right data, and logged while a log is on.

mod balloon;
mod card;
mod disk;
mod vm;

use anyhow::Context as _;
use anyhow::Result;
use vm::Event;
use vm::LIFE;
use vm::Vm;

/// Most failures of one combination that are told.
const MOST: usize = 3;

/// What a driver has to do.
trait Load {
    /// Gives the device work without waiting for it.
    fn begin(&mut self, vm: &mut Vm) -> Result<()>;

    /// Waits for all of it, and checks it.
    fn finish(&mut self, vm: &mut Vm) -> Result<()>;

    /// After the device was reset: looks at what was done before, and gives the rest up.
    fn abandon(&mut self, vm: &mut Vm) -> Result<()>;

    /// The driver begins anew, on new rings.
    fn anew(&mut self, vm: &mut Vm) -> Result<()>;
}

fn cell(vm: &mut Vm, load: &mut impl Load, event: Event) -> Result<()> {
    vm.prepare(event).context("before it")?;
    load.begin(vm).context("before it")?;
    vm.apply(event).context("the event itself")?;
    if event == Event::Reset {
        load.abandon(vm).context("what was in flight")?;
        vm.begin_anew().context("the new start")?;
        load.anew(vm).context("the new start")?;
    } else {
        load.finish(vm).context("what was in flight")?;
    }
    load.begin(vm).context("after it")?;
    load.finish(vm).context("after it")
}

/// Leads one machine after the other through the life; returns what failed, by name.
fn live<L: Load>(name: &str, start: impl Fn() -> Result<(Vm, L)>) -> Vec<String> {
    let mut failures = Vec::new();
    let mut running = None;
    for (at, event) in LIFE.iter().enumerate() {
        let (mut vm, mut load) = match running.take().map_or_else(&start, Ok) {
            Ok(started) => started,
            Err(error) => {
                failures.push(format!("{name}: it does not start: {error:#}"));
                return failures;
            }
        };
        if !vm.allows(*event) {
            running = Some((vm, load));
            continue;
        }
        match cell(&mut vm, &mut load, *event) {
            Ok(()) => running = Some((vm, load)),
            // The next event gets a new machine; a few failures say enough.
            Err(error) => failures.push(format!("{name}: {at} {event:?}: {error:#}")),
        }
        if failures.len() == MOST {
            failures.push(format!("{name}: the rest was left out"));
            break;
        }
    }
    failures
}

#[track_caller]
fn all_live(failures: &[String]) {
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

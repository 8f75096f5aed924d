//! Runs the jobs of the command line on the machine found.
//!
//! Rule: the verdict is 0 only if every job ran and found nothing wrong.
use alloc::vec::Vec;

use crate::apic;
use crate::balloon;
use crate::command;
use crate::command::Job;
use crate::command::Task;
use crate::cpu;
use crate::frames;
use crate::heap;
use crate::json::Line;
use crate::load;
use crate::net;
use crate::pci;
use crate::pci::Place;
use crate::ping;
use crate::platform::Platform;
use crate::probe;
use crate::serve;
use crate::tcp_load;
use crate::udp_load;
use crate::verify;

/// All jobs done, nothing wrong.
const EXIT_GOOD: u8 = 0;
/// A job failed.
const EXIT_BAD: u8 = 1;
/// The command line names no job.
const EXIT_USAGE: u8 = 2;

const PIT_COMMAND: u16 = 0x43;
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_GATE: u16 = 0x61;
const PIT_OUTPUT: u8 = 1 << 5;
/// 20 ms of the timer's 1.193182 MHz.
const PIT_COUNT: u16 = 23_864;
const PIT_MS: u64 = 20;
const PIT_TRIES: u32 = 5;
const KHZ_GUESS: u64 = 2_500_000;

/// The machine under test.
pub(crate) struct Machine {
    pub(crate) platform: Platform,
    pub(crate) functions: Vec<Place>,
}

/// Why a job could not do its work.
pub(crate) struct Failure {
    pub(crate) what: &'static str,
    pub(crate) value: u64,
}

impl Failure {
    pub(crate) fn new(what: &'static str, value: u64) -> Self {
        Self { what, value }
    }
}

/// Runs a command line; returns the exit code.
pub(crate) fn run(command_line: &str) -> u8 {
    apic::enable();
    let tasks = command::parse(command_line);
    let Some(first) = tasks.first() else {
        Line::new("error")
            .text(
                "what",
                "The command line names no job, such as probe, verify, load, ping or tcp",
            )
            .print();
        return EXIT_USAGE;
    };
    let (khz, source) = tsc_khz(first);
    Line::new("start")
        .number("tsc_khz", khz)
        .text("tsc_source", source)
        .number("jobs", tasks.len() as u64)
        .print();
    let machine = Machine {
        platform: Platform { khz },
        functions: pci::list(),
    };
    let mut verdict = EXIT_GOOD;
    for task in &tasks {
        verdict = verdict.max(heap::scope(|| run_one(&machine, task)));
    }
    verdict
}

fn run_one(machine: &Machine, task: &Task<'_>) -> u8 {
    let outcome = match task.job {
        Job::Probe => probe::run(machine),
        Job::Verify => verify::run(machine, task, verify::Extent::Everything),
        Job::Sequence => verify::run(machine, task, verify::Extent::StormOnly),
        Job::Load => load::run(machine, task),
        Job::Balloon => balloon::run(machine, task),
        Job::NetInfo => net::info(machine, task),
        Job::Ping => ping::run(machine, task),
        Job::Udp => udp_load::run(machine, task),
        Job::Tcp => tcp_load::run(machine, task),
        Job::Flood => frames::flood(machine, task),
        Job::Pingpong => frames::pingpong(machine, task),
        Job::Peer => serve::run(machine, task),
    };
    match outcome {
        Ok(()) => EXIT_GOOD,
        Err(failure) => {
            Line::new("error")
                .text("what", failure.what)
                .number("value", failure.value)
                .print();
            EXIT_BAD
        }
    }
}

/// How fast the TSC is, and who says so.
fn tsc_khz(task: &Task<'_>) -> (u64, &'static str) {
    if let Ok(khz @ 1..) = task.number("tsc_khz", 0) {
        return (khz, "command line");
    }
    let hypervisor_leaves = cpu::cpuid(0x4000_0000)[0];
    if (0x4000_0010..0x4000_1000).contains(&hypervisor_leaves)
        && let khz @ 1.. = u64::from(cpu::cpuid(0x4000_0010)[0])
    {
        return (khz, "hypervisor");
    }
    if cpu::cpuid(0)[0] >= 0x15 {
        let [denominator, numerator, hertz, _] = cpu::cpuid(0x15).map(u64::from);
        if denominator != 0 && numerator != 0 && hertz != 0 {
            return (hertz * numerator / denominator / 1000, "crystal");
        }
    }
    match measure_with_pit() {
        Some(khz) => (khz, "timer"),
        None => (KHZ_GUESS, "guess"),
    }
}

/// Measures the TSC against channel 2 of the interval timer, several times: the fastest is the one that a busy host disturbed least.
fn measure_with_pit() -> Option<u64> {
    (0..PIT_TRIES).filter_map(|_| measure_once()).min()
}

fn measure_once() -> Option<u64> {
    let gate = cpu::in_u8(PIT_GATE) & !3;
    cpu::out_u8(PIT_GATE, gate);
    cpu::out_u8(PIT_COMMAND, 0xb0);
    let [low, high] = PIT_COUNT.to_le_bytes();
    cpu::out_u8(PIT_CHANNEL_2, low);
    cpu::out_u8(PIT_CHANNEL_2, high);
    cpu::out_u8(PIT_GATE, gate | 1);
    let start = cpu::tsc();
    let mut reads = 0_u32;
    while cpu::in_u8(PIT_GATE) & PIT_OUTPUT == 0 {
        reads += 1;
        if reads > 10_000_000 {
            return None;
        }
    }
    let khz = cpu::tsc().wrapping_sub(start) / PIT_MS;
    // A machine without the timer answers at once.
    (reads > 10 && khz > 100_000).then_some(khz)
}

//! The power fails: what was promised is there. One rule: see the crate; each test runs on every engine that a file on a
//! disk file system can have.

use anyhow::Context as _;
use anyhow::Result;
use block_backend::BlockSpec;
use block_backend::CacheMode;
use block_backend::EngineChoice;
use medium::Disk;
use medium::Machine;
use medium::Medium;
use medium::Storm;
use virtio_spec::block::feature as block;

const BODY: &str = "disk_of_the_power_tests";
const SECTORS: u32 = 2048;
const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Sync];
/// A driver as Linux has it.
const DRIVER: u64 = block::FLUSH | block::CONFIG_WCE | block::WRITE_ZEROES | block::MQ;

/// Not a test of its own: the process of the tests below.
#[test]
#[ignore = "run by the other tests, as a process"]
fn disk_of_the_power_tests() -> Result<()> {
    medium::serve()
}

/// A kind of disk and driver.
struct Case {
    test: &'static str,
    cache: CacheMode,
    features: u64,
    /// The driver switches to write-through.
    switches: bool,
    storm: Storm,
}

fn storm(through: bool) -> Storm {
    Storm {
        seed: 7,
        writes: medium::writes(10_000),
        through,
        flushes: true,
        pauses: 0,
        kills: 0,
    }
}

fn case(test: &'static str, cache: CacheMode, through: bool) -> Case {
    Case {
        test,
        cache,
        features: DRIVER,
        switches: false,
        storm: storm(through),
    }
}

/// Runs a case on each engine, then cuts the power after each promise.
#[allow(clippy::print_stdout, reason = "a test says what it looked at")]
fn run(case: &Case) -> Result<()> {
    for engine in ENGINES {
        let Some(medium) = Medium::here(case.test, SECTORS) else {
            return Ok(());
        };
        let spec = BlockSpec {
            cache: case.cache,
            engine,
            num_queues: 2,
            ..BlockSpec::image(medium.path())
        };
        let mut disk = Disk::start(BODY, &spec)?;
        let mut machine = Machine::new(case.features)?;
        machine.attach(&disk.socket())?;
        if case.switches {
            anyhow::ensure!(machine.set_writeback(false)?, "the disk has no switch");
        }
        let storm = case.storm;
        let kept = storm
            .run(&medium, &mut machine, &mut disk)
            .and_then(|ledger| medium.record().verify(&ledger, storm.seed, 400));
        let verified = kept.with_context(|| format!("{engine:?} {:?}", case.cache))?;
        println!("{:?} {engine:?}: {verified:?}", case.cache);
        anyhow::ensure!(verified.states >= 200, "only {verified:?}");
        machine.detach();
        anyhow::ensure!(disk.is_alive(), "the daemon ended");
    }
    Ok(())
}

#[test]
fn a_flush_through_the_page_cache_keeps_its_promise() -> Result<()> {
    run(&case(
        "a_flush_through_the_page_cache_keeps_its_promise",
        CacheMode::Writeback,
        false,
    ))
}

#[test]
fn a_flush_past_the_page_cache_keeps_its_promise() -> Result<()> {
    run(&case(
        "a_flush_past_the_page_cache_keeps_its_promise",
        CacheMode::None,
        false,
    ))
}

#[test]
fn each_write_of_a_write_through_disk_keeps_its_promise() -> Result<()> {
    run(&case(
        "each_write_of_a_write_through_disk_keeps_its_promise",
        CacheMode::Writethrough,
        true,
    ))
}

#[test]
fn each_write_keeps_its_promise_once_the_driver_switched_the_cache_off() -> Result<()> {
    for cache in [CacheMode::Writeback, CacheMode::None] {
        run(&Case {
            switches: true,
            ..case(
                "each_write_keeps_its_promise_once_the_driver_switched_the_cache_off",
                cache,
                true,
            )
        })?;
    }
    Ok(())
}

#[test]
fn each_write_of_a_driver_that_cannot_flush_keeps_its_promise() -> Result<()> {
    let test = "each_write_of_a_driver_that_cannot_flush_keeps_its_promise";
    let mut case = case(test, CacheMode::Writeback, true);
    case.features &= !(block::FLUSH | block::CONFIG_WCE);
    case.storm.flushes = false;
    run(&case)
}

#[test]
fn promises_outlive_pauses_and_the_death_of_the_daemon() -> Result<()> {
    let test = "promises_outlive_pauses_and_the_death_of_the_daemon";
    for (cache, switches) in [
        (CacheMode::Writeback, false),
        (CacheMode::None, false),
        (CacheMode::Writethrough, false),
        (CacheMode::Writeback, true),
        (CacheMode::None, true),
    ] {
        let mut case = case(test, cache, switches || cache == CacheMode::Writethrough);
        case.switches = switches;
        case.storm.writes = medium::writes(2_000);
        (case.storm.pauses, case.storm.kills) = (9, 5);
        run(&case)?;
    }
    Ok(())
}

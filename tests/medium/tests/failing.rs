//! Media that fail: the guest is told, once and for all where its data is gone, and everything else goes on.

use anyhow::Result;
use anyhow::ensure;
use block_backend::BlockSpec;
use block_backend::CacheMode;
use block_backend::EngineChoice;
use medium::Disk;
use medium::Fault;
use medium::Kind;
use medium::Machine;
use medium::Medium;
use medium::Request;
use medium::SECTOR;
use medium::fill;
use protocol::eventually;
use virtio_spec::block::feature as block;
use virtio_spec::block::status::*;

const BODY: &str = "disk_of_the_failing_tests";
const SECTORS: u32 = 1024;
const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Sync];
const ERRNOS: [i32; 2] = [libc::EIO, libc::ENOSPC];
const DRIVER: u64 = block::FLUSH | block::CONFIG_WCE | block::WRITE_ZEROES | block::MQ;

/// Not a test of its own: the process of the tests below.
#[test]
#[ignore = "run by the other tests, as a process"]
fn disk_of_the_failing_tests() -> Result<()> {
    medium::serve()
}

/// A disk in use. The fields are dropped in this order: the front-end, the daemon, the medium.
struct Rig {
    machine: Machine,
    disk: Disk,
    medium: Medium,
}

impl Rig {
    fn new(test: &str, cache: CacheMode, engine: EngineChoice) -> Result<Option<Self>> {
        let Some(medium) = Medium::here(test, SECTORS) else {
            return Ok(None);
        };
        let spec = BlockSpec {
            cache,
            engine,
            num_queues: 2,
            ..BlockSpec::image(medium.path())
        };
        let disk = Disk::start(BODY, &spec)?;
        let mut machine = Machine::new(DRIVER)?;
        machine.attach(&disk.socket())?;
        Ok(Some(Self {
            machine,
            disk,
            medium,
        }))
    }

    fn status(&mut self, queue: usize, request: &Request) -> Result<u8> {
        Ok(self.machine.ask(queue, request)?.status)
    }

    fn write(&mut self, sector: u32) -> Result<u8> {
        self.status(0, &write(sector))
    }

    fn flush(&mut self, queue: usize) -> Result<u8> {
        self.status(queue, &Request::Flush)
    }

    fn fail(&self, kind: Kind, skip: u64, errno: i32) {
        self.medium.fail(Fault {
            kind,
            skip,
            times: 1,
            errno,
        });
    }

    /// The daemon lives and serves what needs no promise.
    fn goes_on(&mut self) -> Result<()> {
        ensure!(self.disk.is_alive(), "the daemon ended");
        let read = Request::Read {
            first: 800,
            count: 1,
        };
        if self.machine.writeback()? == 0 {
            ensure!(self.status(1, &read)? == OK, "reads fail");
            return Ok(());
        }
        ensure!(self.write(800)? == OK, "other writes fail");
        let done = self.machine.ask(1, &read)?;
        let expected = (OK, fill(800, 1).to_vec());
        ensure!((done.status, done.data) == expected, "reads fail");
        Ok(())
    }

    /// The driver reads that the cache is off, and a write is durable when it is acknowledged.
    fn writes_through(&mut self, sector: u32) -> Result<()> {
        ensure!(self.machine.writeback()? == 0, "what the driver reads");
        ensure!(self.write(sector)? == OK, "a write");
        let record = self.medium.record();
        ensure!(record.is_durable(sector, 1), "the write is not durable");
        Ok(())
    }

    /// Nothing is durable any more, for no queue, and neither a reset nor a new front-end changes that.
    fn is_lost(&mut self) -> Result<()> {
        for queue in [1, 0, 1] {
            ensure!(self.flush(queue)? == IOERR, "a later flush says OK");
        }
        self.goes_on()?;
        self.machine.attach(&self.disk.socket())?;
        ensure!(self.flush(0)? == IOERR, "a new front-end's flush says OK");
        let switches = self.machine.writeback()? == 1 && self.machine.set_writeback(false)?;
        ensure!(!switches, "the switch to write-through says OK");
        ensure!(self.write(808)? == IOERR, "a durable write says OK");
        ensure!(self.disk.is_alive(), "the daemon ended");
        // The image is opened anew: what is written now can be promised.
        self.disk.restart()?;
        self.machine.attach(&self.disk.socket())?;
        ensure!(self.write(816)? == OK, "the next life's write");
        ensure!(self.flush(1)? == OK, "the next life's flush");
        Ok(())
    }
}

fn write(sector: u32) -> Request {
    Request::Write {
        first: sector,
        data: fill(sector, 1).to_vec(),
    }
}

/// Runs `body` on each engine, for each errno.
fn each(
    test: &str,
    caches: &[CacheMode],
    mut body: impl FnMut(&mut Rig, CacheMode, i32) -> Result<()>,
) -> Result<()> {
    for engine in ENGINES {
        for cache in caches {
            for errno in ERRNOS {
                let Some(mut rig) = Rig::new(test, *cache, engine)? else {
                    return Ok(());
                };
                let done = body(&mut rig, *cache, errno);
                done.map_err(|error| error.context(format!("{engine:?} {cache:?} errno {errno}")))?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_failed_sync_fails_the_flush_and_all_later_ones() -> Result<()> {
    let caches = [CacheMode::Writeback, CacheMode::None];
    each(
        "a_failed_sync_fails_the_flush_and_all_later_ones",
        &caches,
        |rig, _, errno| {
            ensure!(rig.write(0)? == OK && rig.flush(0)? == OK, "all is well");
            rig.fail(Kind::Sync, 1, errno);
            ensure!(rig.write(8)? == OK && rig.flush(1)? == OK, "the first sync");
            ensure!(rig.write(16)? == OK, "a write");
            ensure!(rig.flush(0)? == IOERR, "the second sync failed");
            rig.is_lost()
        },
    )
}

#[test]
fn a_failed_write_back_fails_the_flush_and_all_later_ones() -> Result<()> {
    each(
        "a_failed_write_back_fails_the_flush_and_all_later_ones",
        &[CacheMode::Writeback],
        |rig, _, errno| {
            rig.fail(Kind::Write, 1, errno);
            for sector in [0, 64, 128] {
                ensure!(rig.write(sector)? == OK, "the page cache takes it");
            }
            ensure!(rig.flush(0)? == IOERR, "one of three was lost");
            rig.is_lost()
        },
    )
}

#[test]
fn what_was_lost_while_no_daemon_ran_is_told_by_the_next() -> Result<()> {
    each(
        "what_was_lost_while_no_daemon_ran_is_told_by_the_next",
        &[CacheMode::Writeback],
        |rig, _, errno| {
            ensure!(rig.write(0)? == OK, "the page cache takes it");
            // The kernel writes back when the killed daemon's file is closed.
            rig.fail(Kind::Write, 0, errno);
            rig.disk.restart()?;
            rig.machine.attach(&rig.disk.socket())?;
            ensure!(rig.flush(0)? == IOERR, "an acknowledged write is lost");
            rig.is_lost()
        },
    )
}

#[test]
fn of_flushes_at_a_time_none_promises_what_was_lost() -> Result<()> {
    each(
        "of_flushes_at_a_time_none_promises_what_was_lost",
        &[CacheMode::Writeback],
        |rig, _, errno| {
            ensure!(rig.write(0)? == OK, "the page cache takes it");
            rig.medium.hold(Some(Kind::Write));
            rig.fail(Kind::Write, 0, errno);
            // Both wait for the same write-back; the kernel tells one of them of its failure.
            for queue in [0, 1] {
                rig.machine.submit(queue, queue as u64, &Request::Flush)?;
            }
            rig.machine.kick();
            let (medium, disk) = (&rig.medium, &rig.disk);
            let both_wait =
                || medium.is_waited_for() && disk.stuck_threads().is_ok_and(|stuck| stuck >= 2);
            let waited = eventually(both_wait);
            // Before anything may fail: a daemon that is killed waits for its write-back too.
            rig.medium.hold(None);
            ensure!(waited, "the flushes do not wait");
            let mut seen = Vec::new();
            while rig.machine.in_flight() != 0 {
                seen.extend(rig.machine.wait()?.into_iter().map(|done| done.status));
            }
            ensure!(seen == [IOERR, IOERR], "the flushes answered {seen:?}");
            rig.is_lost()
        },
    )
}

#[test]
fn a_failed_write_past_the_page_cache_is_told_and_no_loss_of_others() -> Result<()> {
    each(
        "a_failed_write_past_the_page_cache_is_told_and_no_loss_of_others",
        &[CacheMode::None],
        |rig, _, errno| {
            rig.fail(Kind::Write, 2, errno);
            let seen = [rig.write(0)?, rig.write(8)?, rig.write(16)?, rig.write(24)?];
            ensure!(seen == [OK, OK, IOERR, OK], "{seen:?}");
            ensure!(rig.flush(0)? == OK, "what was acknowledged is there");
            rig.goes_on()
        },
    )
}

#[test]
fn a_durable_write_that_fails_once_is_made_again() -> Result<()> {
    let caches = [CacheMode::Writethrough, CacheMode::None];
    each(
        "a_durable_write_that_fails_once_is_made_again",
        &caches,
        |rig, cache, errno| {
            let through = rig.machine.set_writeback(false)?;
            ensure!(through, "the switch");
            rig.fail(Kind::Write, 1, errno);
            ensure!(rig.write(0)? == OK, "all is well");
            let second = rig.write(8)?;
            if cache == CacheMode::None {
                ensure!(second == OK, "the second attempt and its sync");
                ensure!(rig.flush(1)? == OK, "a flush");
                return rig.goes_on();
            }
            // The page cache dropped it, and maybe not it alone.
            ensure!(second == IOERR, "a write that was lost");
            rig.is_lost()
        },
    )
}

#[test]
fn a_failed_sync_of_a_durable_write_is_no_promise() -> Result<()> {
    each(
        "a_failed_sync_of_a_durable_write_is_no_promise",
        &[CacheMode::Writethrough],
        |rig, _, errno| {
            ensure!(rig.write(0)? == OK, "all is well");
            // The write's own, and that of the second attempt.
            rig.medium.fail(Fault {
                kind: Kind::Sync,
                skip: 0,
                times: 2,
                errno,
            });
            ensure!(rig.write(8)? == IOERR, "a sync that failed");
            rig.is_lost()
        },
    )
}

#[test]
fn the_switch_to_write_through_does_not_hide_a_failed_sync() -> Result<()> {
    each(
        "the_switch_to_write_through_does_not_hide_a_failed_sync",
        &[CacheMode::Writeback, CacheMode::None],
        |rig, _, errno| {
            ensure!(rig.write(0)? == OK, "a write");
            rig.fail(Kind::Sync, 0, errno);
            ensure!(!rig.machine.set_writeback(false)?, "it says OK");
            ensure!(
                rig.machine.writeback()? == 0,
                "a driver that was not told goes on without flushes"
            );
            ensure!(rig.write(8)? == IOERR, "a durable write");
            rig.is_lost()
        },
    )
}

#[test]
fn a_failed_read_is_told_and_the_place_can_be_read_later() -> Result<()> {
    let caches = [CacheMode::Writeback, CacheMode::None];
    each(
        "a_failed_read_is_told_and_the_place_can_be_read_later",
        &caches,
        |rig, _, errno| {
            rig.medium.fail(Fault {
                kind: Kind::Read,
                skip: 0,
                times: u64::MAX,
                errno,
            });
            let read = Request::Read {
                first: 512,
                count: 8,
            };
            ensure!(rig.status(0, &read)? == IOERR, "a read that failed");
            rig.medium.mend();
            let done = rig.machine.ask(1, &read)?;
            ensure!(
                (done.status, done.data) == (OK, vec![0; 8 * SECTOR]),
                "the same read"
            );
            ensure!(rig.flush(0)? == OK, "a flush");
            rig.goes_on()
        },
    )
}

#[test]
fn the_switch_to_write_through_lasts_until_another_driver_comes() -> Result<()> {
    let caches = [CacheMode::Writeback, CacheMode::None];
    each(
        "the_switch_to_write_through_lasts_until_another_driver_comes",
        &caches,
        |rig, _, _| {
            ensure!(rig.machine.set_writeback(false)?, "the switch");
            rig.writes_through(0)?;
            rig.machine.attach(&rig.disk.socket())?;
            rig.writes_through(8)?;
            rig.disk.restart()?;
            rig.machine.attach(&rig.disk.socket())?;
            rig.writes_through(16)?;
            // Whose front-end keeps no record, that driver may be the same.
            rig.machine.detach();
            rig.machine = Machine::new(DRIVER)?.without_record();
            rig.machine.attach(&rig.disk.socket())?;
            rig.writes_through(24)?;
            // Whose record is new, that driver is another.
            rig.machine.detach();
            rig.machine = Machine::new(DRIVER)?;
            rig.machine.attach(&rig.disk.socket())?;
            ensure!(rig.machine.writeback()? == 1, "another driver's choice");
            Ok(())
        },
    )
}

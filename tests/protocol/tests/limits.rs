//! A process that is at its limit of open files. One rule: alone in its program, for the limit is the process's.

use anyhow::Result;
use anyhow::ensure;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use protocol::Frontend;
use protocol::Guest;
use protocol::QueueShape;
use protocol::Served;
use protocol::eventually;
use protocol::log::heard;
use protocol::log::listen;
use protocol::open_descriptors;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::MemoryRegion;
use vhost_user_protocol::Request;

/// Runs `body` with room for `room` more descriptors.
fn with_room<T>(room: usize, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Numbers are given from below, so that with none free below the limit it is reached.
    let mut plugs = Vec::new();
    let highest = open_descriptors() as u64 + 64;
    setrlimit(Resource::RLIMIT_NOFILE, highest, hard)?;
    while let Ok(plug) = std::fs::File::open("/dev/null") {
        plugs.push(plug);
    }
    plugs.truncate(plugs.len() - room);
    let outcome = body();
    drop(plugs);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    outcome
}

#[test]
fn the_limit_of_open_files_is_named_where_it_is_met_and_serving_goes_on() -> Result<()> {
    listen();
    let served = Served::new(1)?;
    let name = format!("device=\"{}\"", served.name);
    let guest = Guest::new()?;
    let mut queue = guest.queue(0, QueueShape::SPLIT)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(QueueShape::SPLIT.features)?;
    // A memory table of four regions, with room for two of their descriptors.
    let regions = (0..4).map(|at| MemoryRegion {
        guest_addr: at << 32,
        size: 4096,
        user_addr: (at + 1) << 32,
        mmap_offset: 0,
    });
    let table = M::SetMemTable(regions.collect());
    let files = [guest.file.as_fd(); 4];
    let refused = with_room(2, || frontend.ask(&table, &files))?;
    ensure!(refused != 0);
    ensure!(heard(&name, "limit of open files (RLIMIT_NOFILE") == 1);
    ensure!(heard(&name, "It came with") == 0, "that is not the fault");
    // The same with room.
    frontend.must(&table, &files)?;
    frontend.set_memory(&guest)?;
    frontend.start_queue(&queue, 0)?;
    queue.echo(&guest, b"all well")?;
    drop(frontend);
    ensure!(eventually(|| !served.server.statistics().session.connected));
    // A front-end for which there is no descriptor.
    let socket = with_room(1, || {
        let socket = UnixStream::connect(&served.path)?;
        ensure!(eventually(|| heard(&name, "cannot be accepted") != 0));
        Ok(socket)
    })?;
    let mut late = Frontend::new(socket)?;
    late.send(&M::GetFeatures, &[])?;
    late.reply(Request::GetFeatures)?;
    Ok(())
}

//! What an operator is told when a guest would only hang. One rule: a mistake outside of the daemon is one line that
//! names the mend, however often it is met.

use anyhow::Result;
use anyhow::ensure;
use protocol::Frontend;
use protocol::Guest;
use protocol::QueueShape;
use protocol::Served;
use protocol::eventually;
use protocol::log::heard;
use protocol::log::listen;
use std::os::fd::AsFd;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Request;

const SPLIT: QueueShape = QueueShape::SPLIT;

fn served() -> Result<(Served, String)> {
    listen();
    let served = Served::new(2)?;
    let name = format!("device=\"{}\"", served.name);
    Ok((served, name))
}

#[test]
fn a_front_end_that_shares_no_memory_is_told_once_with_the_mend() -> Result<()> {
    let (served, name) = served()?;
    let guest = Guest::new()?;
    let mut queues = [guest.queue(0, SPLIT)?, guest.queue(1, SPLIT)?];
    let mut frontend = served.connect()?;
    frontend.negotiate(SPLIT.features)?;
    for queue in &queues {
        frontend.start_queue(queue, 0)?;
    }
    ensure!(
        heard(
            &name,
            "shared no memory; is the guest's memory shared (QEMU: share=on)?"
        ) == 1
    );
    // It was only late.
    frontend.set_memory(&guest)?;
    queues[0].echo(&guest, b"all well")?;
    queues[1].echo(&guest, b"all well")
}

#[test]
fn a_ring_in_memory_that_is_not_shared_is_told_with_the_mend() -> Result<()> {
    let (served, name) = served()?;
    let guest = Guest::new()?;
    let queue = guest.queue(0, SPLIT)?;
    let other = Guest::with_region(0x1_0000_0000, 0x7e00_0000_0000, 1 << 20)?;
    let mut frontend = served.connect()?;
    frontend.negotiate(SPLIT.features)?;
    frontend.set_memory(&other)?;
    ensure!(frontend.start_queue(&queue, 0).is_err());
    let mend = "is all of the guest's memory shared (QEMU: share=on)?";
    ensure!(heard(&name, mend) == 1);
    // The memory table that comes next does not help it either.
    frontend.set_memory(&other)?;
    ensure!(heard(&name, mend) == 2);
    Ok(())
}

#[test]
fn a_second_front_end_that_waits_is_told_counted_and_shown() -> Result<()> {
    let (served, name) = served()?;
    let another = "Another front-end waits";
    let first = served.connect()?;
    ensure!(eventually(|| served.server.statistics().session.connected));
    ensure!(heard(&name, another) == 0 && !served.server.statistics().session.waiting);
    let mut second = served.connect()?;
    let third = served.connect()?;
    ensure!(eventually(|| served.server.statistics().session.waiting));
    ensure!(eventually(|| heard(&name, another) == 1));
    ensure!(served.server.statistics().session.waits == 1);
    drop(third);
    drop(first);
    second.send(&M::GetFeatures, &[])?;
    second.reply(Request::GetFeatures)?;
    drop(second);
    // The third left without a word; nobody waits any more.
    ensure!(eventually(
        || served.server.statistics().session.sessions == 3
    ));
    ensure!(eventually(|| {
        let now = served.server.statistics();
        !now.session.connected && !now.session.waiting
    }));
    Ok(())
}

#[test]
fn a_server_that_connects_tells_once_that_nobody_listens() -> Result<()> {
    listen();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("front.sock");
    let options = vhost_user_server::Options {
        name: "calls-nobody".to_owned(),
        ..Default::default()
    };
    let server = vhost_user_server::Server::new(protocol::EchoDevice::new(1), options)?;
    let handle = server.shutdown_handle();
    let theirs = path.clone();
    let thread = std::thread::spawn(move || server.serve_connecting(&theirs));
    ensure!(eventually(|| heard("calls-nobody", "No front-end at") == 1));
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    Frontend::new(listener.accept()?.0)?.negotiate(SPLIT.features)?;
    ensure!(heard("calls-nobody", "No front-end at") == 1, "only once");
    drop(listener);
    ensure!(eventually(|| heard("calls-nobody", "No front-end at") == 2));
    handle.shutdown();
    ensure!(thread.join().is_ok_and(|result| result.is_ok()));
    Ok(())
}

#[test]
fn descriptors_that_were_sent_and_not_expected_are_no_limit_of_open_files() -> Result<()> {
    let (served, name) = served()?;
    let mut frontend = served.connect()?;
    frontend.negotiate(SPLIT.features)?;
    let guest = Guest::new()?;
    let fds = [guest.file.as_fd(); 2];
    ensure!(frontend.ask(&M::SetMemTable(vec![guest.region()]), &fds)? != 0);
    ensure!(heard(&name, "It came with 2 descriptors") == 1);
    ensure!(heard(&name, "limit of open files") == 0);
    Ok(())
}

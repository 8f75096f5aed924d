//! Guests of one switch that harm themselves, leave, or send to each other at once.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use host_os::EventFd;
use virtio_spec::net::Header;
use virtqueue::Segment;

use crate::path::tests::rig::BORDER;
use crate::path::tests::rig::Guest;
use crate::path::tests::rig::MERGEABLE;
use crate::path::tests::rig::OFFLOADS;
use crate::path::tests::rig::frame;
use crate::path::tests::rig::large_frame;
use crate::path::tests::rig::mac;
use crate::switch::Switch;

fn guests<const N: usize>(features: u64) -> [Guest; N] {
    let switch = Arc::new(Switch::new("test"));
    std::array::from_fn(|nth| Guest::on_switch(&switch, nth as u8 + 1, features))
}

#[test]
fn frames_reach_the_guest_they_are_for_and_unknown_ones_all() {
    let [mut a, mut b, mut c] = guests(MERGEABLE);
    for guest in [&mut a, &mut b, &mut c] {
        for _ in 0..8 {
            guest.post(&[256]);
        }
    }
    let mut broadcast = frame(1, 2, 70);
    broadcast[..6].fill(0xff);
    a.send_all(&[
        frame(1, 2, 60),
        broadcast.clone(),
        frame(1, 3, 61),
        frame(1, 77, 62),
    ]);
    let frames = |guest: &mut Guest| -> Vec<Vec<u8>> {
        guest.got().into_iter().map(|got| got.frame).collect()
    };
    assert_eq!(
        frames(&mut b),
        [frame(1, 2, 60), broadcast.clone(), frame(1, 77, 62)]
    );
    assert_eq!(
        frames(&mut c),
        [broadcast, frame(1, 3, 61), frame(1, 77, 62)]
    );
    assert!(frames(&mut a).is_empty(), "nothing comes back");
    // Station 77 is heard of at c: from now on it is there.
    c.send_all(&[frame(77, 1, 64)]);
    assert_eq!(frames(&mut a), [frame(77, 1, 64)]);
    a.send_all(&[frame(1, 77, 65), frame(1, 1, 66)]);
    assert_eq!(frames(&mut c), [frame(1, 77, 65)]);
    assert!(frames(&mut b).is_empty());
    assert_eq!(a.totals().transmit.nowhere, 1, "its own address");
}

#[test]
fn a_frame_to_address_zero_is_for_all_others() {
    let [mut a, mut b] = guests(MERGEABLE);
    a.post(&[256]);
    b.post(&[256]);
    let mut zero = frame(1, 2, 60);
    zero[..6].fill(0);
    a.send_all(&[zero]);
    assert_eq!((a.got().len(), b.got().len()), (0, 1));
}

#[test]
fn a_guest_cannot_draw_anothers_frames_by_its_address() {
    let [mut a, mut b, mut c] = guests(MERGEABLE);
    b.post(&[256]);
    c.post(&[256]);
    c.send_all(&[frame(2, 77, 60)]);
    b.buffers();
    b.post(&[256]);
    a.send_all(&[frame(1, 2, 60)]);
    assert_eq!(b.got().len(), 1);
    assert!(c.got().is_empty());
}

#[test]
fn a_flood_of_broadcasts_to_a_starved_guest_reaches_the_others() {
    let [mut a, mut b, c] = guests(MERGEABLE);
    for _ in 0..32 {
        b.post(&[256]);
    }
    let mut broadcast = frame(1, 2, 70);
    broadcast[..6].fill(0xff);
    a.send_all(&vec![broadcast; 32]);
    assert_eq!(b.got().len(), 32);
    assert_eq!(c.totals().receive.starved, 32);
}

#[test]
fn a_receiver_with_a_broken_ring_hurts_only_itself() {
    let [mut a, mut b, mut c] = guests(MERGEABLE);
    c.post(&[256]);
    b.post(&[256]);
    // The available index jumps far beyond the ring.
    b.memory
        .write(crate::path::tests::rig::MEMORY + 0x4002, &[0xff, 0x7f])
        .expect("memory");
    a.send_all(&[frame(1, 2, 60), frame(1, 3, 60), frame(1, 2, 60)]);
    assert_eq!((a.sent, c.got().len()), (3, 1));
    // Its own worker is called and gets the error.
    let fd = b.receiver.completion_fd().expect("a descriptor");
    let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    let woken = nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO);
    assert_eq!(woken, Ok(1));
    let mut queue = b.shelf.take().expect("the queue");
    let memory = Arc::clone(&b.memory);
    assert!(b.receiver.run(&mut queue, &memory).is_err());
    a.send_all(&[frame(1, 2, 60)]);
    assert_eq!(a.sent, 4);
}

#[test]
fn a_receiver_whose_memory_is_taken_away_hurts_only_itself() {
    let [mut a, mut b, mut c] = guests(MERGEABLE);
    let gone = Segment {
        addr: BORDER,
        len: 512,
    };
    b.post_parts(&[], &[gone]);
    c.post(&[512]);
    b.truncate();
    a.send_all(&[frame(1, 2, 60), frame(1, 3, 60), frame(1, 2, 60)]);
    assert_eq!((a.sent, c.got().len()), (3, 1));
    assert!(b.memory.poisoned() && !a.memory.poisoned());
    // Its own worker is called, and sees the same.
    let fd = b.receiver.completion_fd().expect("a descriptor");
    let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    let woken = nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO);
    assert_eq!(woken, Ok(1));
}

#[test]
fn a_sender_whose_memory_is_taken_away_hurts_only_itself() {
    let [mut a, mut b] = guests(MERGEABLE);
    for _ in 0..4 {
        b.post(&[2048]);
    }
    let gone = Segment {
        addr: BORDER,
        len: 1000,
    };
    a.queue_chain(&[gone], &[]);
    a.truncate();
    a.run();
    assert!(a.memory.poisoned() && !b.memory.poisoned());
    let before = b.got().len();
    assert!(before <= 1, "zeros at most");
    assert_eq!((a.sent, b.totals().receive.bad_chains), (1, 0));
}

#[test]
fn a_receiver_whose_interrupt_is_full_hangs_nobody() {
    let [mut a, mut b] = guests(MERGEABLE);
    // A blocking eventfd whose counter takes no more.
    let flags = nix::sys::eventfd::EfdFlags::EFD_CLOEXEC;
    let call = nix::sys::eventfd::EventFd::from_value_and_flags(0, flags).expect("an eventfd");
    call.write(u64::MAX - 1).expect("room");
    let call = EventFd::from_peer(call.into()).expect("an eventfd");
    let mut queue = b.shelf.take().expect("the queue");
    queue.set_call(Some(Arc::new(call)));
    b.shelf.put(queue);
    for _ in 0..4 {
        b.post(&[256]);
        a.send_all(&[frame(1, 2, 60)]);
    }
    assert_eq!((a.sent, b.got().len()), (4, 4));
}

#[test]
fn a_queue_that_is_taken_back_is_whole_and_frames_for_it_are_dropped() {
    let [mut a, mut b] = guests(MERGEABLE);
    for _ in 0..4 {
        b.post(&[100]);
    }
    // Too few buffers: those looked at were given back.
    a.send_all(&[frame(1, 2, 1000)]);
    let queue = b.shelf.take().expect("the queue");
    assert_eq!(queue.in_flight(), 0);
    assert!(b.shelf.take().is_none());
    a.send_all(&[frame(1, 2, 60)]);
    assert_eq!(b.totals().receive.link_down, 1);
    b.shelf.put(queue);
    a.send_all(&[frame(1, 2, 60)]);
    assert_eq!(b.got().len(), 1);
}

#[test]
fn row_11_a_port_that_goes_away_while_frames_are_sent_to_it_stops_nobody() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE);
    // Ends when frames have met a port often enough, however long that takes on a busy machine.
    let times = Arc::new(AtomicUsize::new(0));
    let enough = 40;
    let stop = Instant::now() + Duration::from_secs(60);
    let over = {
        let times = Arc::clone(&times);
        move || times.load(Ordering::Relaxed) >= enough || Instant::now() >= stop
    };
    let coming_and_going = std::thread::spawn({
        let (switch, times, over) = (Arc::clone(&switch), Arc::clone(&times), over.clone());
        move || {
            while !over() {
                let mut b = Guest::on_switch(&switch, 2, MERGEABLE);
                for _ in 0..32 {
                    b.post(&[256]);
                }
                std::thread::sleep(Duration::from_micros(200));
                let queue = b.shelf.take();
                drop(queue);
                let received = b.buffers().len();
                times.fetch_add(usize::from(received != 0), Ordering::Relaxed);
            }
        }
    });
    while !over() {
        let before = a.sent;
        for _ in 0..16 {
            a.queue_frame(&Header::default(), &frame(1, 2, 60));
        }
        a.run();
        assert_eq!(a.sent, before + 16);
        a.recycle();
    }
    coming_and_going.join().expect("no panic");
    assert!(times.load(Ordering::Relaxed) >= enough);
    assert_eq!(
        switch.stations(),
        1,
        "what was behind the port is forgotten"
    );
}

#[test]
fn two_guests_that_send_to_each_other_at_once_do_not_wait_for_each_other() {
    let [a, b] = guests(MERGEABLE);
    let rounds = 2000;
    let both_ready = Arc::new(Barrier::new(2));
    let run = |mut guest: Guest, to: u8| {
        let ready = Arc::clone(&both_ready);
        move || {
            let own = guest.mac[5];
            let mut received = 0;
            // From the start on, whoever starts first.
            while guest.room_in_ring() {
                guest.post(&[128]);
            }
            ready.wait();
            for _ in 0..rounds {
                for _ in 0..8 {
                    guest.queue_frame(&Header::default(), &frame(own, to, 60));
                }
                guest.run();
                received += guest.buffers().len();
                guest.recycle_all();
                while guest.room_in_ring() {
                    guest.post(&[128]);
                }
            }
            (guest, received)
        }
    };
    let first = std::thread::spawn(run(a, 2));
    let second = std::thread::spawn(run(b, 1));
    let (mut a, mut received_a) = first.join().expect("no panic");
    let (mut b, mut received_b) = second.join().expect("no panic");
    // What came after a guest's last look.
    received_a += a.buffers().len();
    received_b += b.buffers().len();
    assert_eq!((a.sent, b.sent), (8 * rounds, 8 * rounds));
    assert!(received_a > 0 && received_b > 0);
    let lost = a.totals().receive.starved + b.totals().receive.starved;
    let arrived = a.totals().receive.frames + b.totals().receive.frames;
    assert_eq!(
        lost + arrived,
        16 * rounds as u64,
        "each is delivered or counted"
    );
}

#[test]
fn guests_without_offloads_get_finished_frames_from_those_with() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE | OFFLOADS);
    let mut b = Guest::on_switch(&switch, 2, MERGEABLE);
    let mut c = Guest::on_switch(&switch, 3, MERGEABLE | OFFLOADS);
    for guest in [&mut b, &mut c] {
        for _ in 0..8 {
            guest.post(&[2048]);
        }
    }
    let mut sent = frame(1, 2, 700);
    sent[..6].fill(0xff);
    sent[50..52].fill(0);
    let header = Header {
        flags: 1,
        csum_start: 34.into(),
        csum_offset: 16.into(),
        ..Header::default()
    };
    a.queue_frame(&header, &sent);
    a.run();
    let plain = b.got().pop().expect("a frame");
    assert_eq!(plain.header.flags, 0);
    assert_ne!(plain.frame, sent, "the checksum is there");
    let sum = plain.frame[34..].chunks(2).fold(0_u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]))
    });
    assert_eq!(sum % 0xffff, 0, "a right checksum");
    let same = c.got().pop().expect("a frame");
    assert_eq!((same.frame, same.header.flags), (sent, 1), "as it was sent");
    assert_eq!(mac(1), a.mac);
}

#[test]
fn pieces_of_a_frame_that_is_cut_arrive_as_far_as_there_are_buffers_and_the_rest_is_counted() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE | OFFLOADS);
    let mut b = Guest::on_switch(&switch, 2, MERGEABLE);
    let (header, large) = large_frame(1, 2);
    for (buffers, lost) in [(2, 1), (3, 0)] {
        for _ in 0..buffers {
            b.post(&[2048]);
        }
        let before = b.totals().receive.starved;
        a.queue_frame(&header, &large);
        a.run();
        let got = b.got();
        assert_eq!(got.len(), buffers);
        assert!(got.iter().all(|got| got.frame.len() == 54 + 1000));
        assert_eq!(b.totals().receive.starved - before, lost);
    }
}

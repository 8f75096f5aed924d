//! The network driver's frame path with an allocator that counts.
//!
//! Rule: once the queues are up, sending, receiving and posting allocate nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use driver_fakes::Arena;
use driver_fakes::DirectBuffer;
use driver_fakes::DirectPlatform;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakeNet;
use driver_fakes::heap::TestHeap;
use driver_fakes::heap::allocations;
use net_driver::NetDriver;
use net_driver::Offload;
use net_driver::Transmit;
use virtio_spec::feature;

#[global_allocator]
static HEAP: TestHeap = TestHeap;

#[test]
fn frames_pass_without_an_allocation() {
    for ring in [0, feature::RING_PACKED | feature::RING_INDIRECT_DESC] {
        let arena = Arena::new(8 << 20, 0x1000_0000);
        let memory = arena.device_memory();
        let platform = DirectPlatform::new(arena);
        let features = rig::NET_FEATURES | ring;
        let function = rig::function(rig::registers(features, rig::config()));
        let interrupts = FakeInterrupts(3);
        let started = NetDriver::start(&platform, function.clone(), &interrupts, rig::options());
        let mut started = started.unwrap_or_else(|failure| panic!("{}", failure.error));
        let mut device = FakeNet::new(function, memory, 1);
        let (receive, transmit) = (&mut started.receive[0], &mut started.transmit[0]);
        let mut spare: Vec<DirectBuffer> = Vec::with_capacity(64);
        spare.extend((0..32).map(|_| platform.buffer(2048).unwrap()));
        let mut out: Vec<DirectBuffer> = Vec::with_capacity(64);
        out.extend((0..8).map(|_| platform.buffer(1000).unwrap()));
        for round in 0..50 {
            let ((), posted) = allocations(|| {
                while let Some(buffer) = spare.pop() {
                    if let Err(rejected) = receive.post(&platform, buffer, 1) {
                        spare.push(rejected.request.0);
                        break;
                    }
                }
                receive.kick();
                while let Some(buffer) = out.pop() {
                    let request = Transmit {
                        buffer,
                        headroom: round % 2 == 0,
                        offload: Offload::default(),
                        cookie: 2,
                    };
                    transmit.submit(&platform, request).unwrap();
                }
                transmit.kick();
            });
            device.serve();
            device.sent.clear();
            for len in [60, 5000, 1514] {
                assert!(device.deliver(0, &[0; 20], &rig::frame(len, 1)));
            }
            let (frames, taken) = allocations(|| {
                let mut frames = 0;
                while let Some(received) = receive.poll(&platform).unwrap() {
                    frames += u64::from(received.frame.is_ok());
                    spare.extend(received.buffers.map(|part| part.buffer));
                }
                while let Some(back) = transmit.poll(&platform).unwrap() {
                    out.push(back.buffer);
                }
                let _ = receive.arm() | transmit.arm();
                frames
            });
            assert_eq!((frames, out.len()), (3, 8));
            assert_eq!((posted, taken), (0, 0), "round {round}");
        }
        started.driver.begin_stop(&platform);
    }
}

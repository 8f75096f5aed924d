//! A header and a frame of any content on their way to a receiver without offloads: checked, filtered, finished in
//! software. What comes out is bounded and complete.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use net_backend::HEAD_BYTES;
use net_backend::MacAddress;
use net_backend::filter::Filter;
use net_backend::fuzzing::checked_header;
use net_backend::offload::MAX_SEGMENTS;
use net_backend::offload::Segmenter;
use net_backend::offload::Work;
use net_backend::offload::complete;
use net_backend::offload::work;
use net_link::Offloads;
use paravane_fuzz::Decisions;
use virtio_spec::net::Header;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags::NEEDS_CSUM;

const MAX_FRAME: usize = 65_557;
const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

fuzz_target!(|data: &[u8]| {
    let mut decisions = Decisions(data);
    let offloads = offloads(decisions.byte());
    let accepts = offloads_of_receiver(decisions.byte());
    let owned = usize::from(decisions.word());
    let header = Header {
        flags: decisions.byte(),
        gso_type: decisions.byte(),
        hdr_len: decisions.word().into(),
        gso_size: decisions.word().into(),
        csum_start: decisions.word().into(),
        csum_offset: decisions.word().into(),
        num_buffers: decisions.word().into(),
    };
    let frame = decisions.bytes(usize::MAX);
    judge(frame);
    // As the guest sent it, and as the path believes it.
    finish(header, frame, owned, accepts);
    if let Some(checked) = checked_header(offloads, 1514, &header, frame.len()) {
        assert!(checked.gso_type != gso::NONE || frame.len() <= 1514);
        assert!(checked.gso_type == gso::NONE || checked.flags == NEEDS_CSUM);
        finish(checked, frame, owned, accepts);
    }
});

fn offloads(bits: u8) -> Offloads {
    Offloads {
        csum: bits & 1 != 0,
        tso4: bits & 2 != 0,
        tso6: bits & 4 != 0,
        ecn: bits & 8 != 0,
        uso: bits & 16 != 0,
    }
}

fn offloads_of_receiver(bits: u8) -> Offloads {
    // Mostly none, so that the software has to do its work.
    if bits & 0x80 == 0 {
        Offloads::NONE
    } else {
        offloads(bits)
    }
}

/// The filters look at no more than they are promised, and the stricter one lets through less.
fn judge(frame: &[u8]) {
    let addresses = vec![IpAddr::from([10, 0, 0, 2]), IpAddr::from([0xfd; 16])];
    let strict = Filter::new(MacAddress(MAC), addresses);
    let by_mac = Filter::new(MacAddress(MAC), Vec::new());
    let mut frame = frame.to_vec();
    if let Some(source) = frame.get_mut(6..12) {
        source.copy_from_slice(&MAC);
    }
    let head = frame.get(..HEAD_BYTES).unwrap_or(&frame);
    for filter in [&strict, &by_mac] {
        assert_eq!(filter.check(&frame).is_ok(), filter.check(head).is_ok());
    }
    assert!(strict.check(head).is_err() || by_mac.check(head).is_ok());
}

fn finish(mut header: Header, frame: &[u8], owned: usize, accepts: Offloads) {
    let (head, tail) = frame.split_at(owned.min(frame.len()));
    match work(&header, accepts) {
        Work::None => {}
        Work::Checksum => {
            let mut head = head.to_vec();
            if complete(&mut header, &mut head, tail).is_ok() {
                assert_eq!(header.flags & NEEDS_CSUM, 0);
            }
        }
        Work::Segment => segment(&header, head, tail, accepts),
    }
}

fn segment(header: &Header, head: &[u8], tail: &[u8], accepts: Offloads) {
    let Ok(mut segmenter) = Segmenter::new(header, head, tail.len(), accepts.csum) else {
        return;
    };
    let count = segmenter.count();
    assert!(count <= MAX_SEGMENTS);
    let (mut made, mut bytes) = (0, 0);
    let mut out = Vec::new();
    while let Some(range) = segmenter.next(head, tail, &mut out) {
        let range = range.expect("a head and a tail that do not change");
        assert!(range.end <= tail.len());
        let length = out.len() - 12 + range.len();
        assert!(length <= MAX_FRAME);
        made += 1;
        bytes += range.len();
    }
    assert_eq!(made, count);
    assert!(bytes <= tail.len(), "every byte is sent once");
}

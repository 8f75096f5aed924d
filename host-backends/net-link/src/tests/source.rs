//! The link that always has a frame.
//!
//! Rule: what arrives in the spans is the frame and nothing else.

use guest_memory::GuestMemory;
use guest_memory::IoVecs;
use guest_memory::RegionSpec;
use virtqueue::Segment;

use crate::HEADER_BYTES;
use crate::LinkSpec;
use crate::Received;

#[test]
fn source_fills_spans_however_they_are_cut() {
    let file = host_os::memfd::create("ram", 0x4000).unwrap();
    let spec = RegionSpec {
        guest_addr: 0,
        size: 0x4000,
        user_addr: 0,
        mmap_offset: 0,
    };
    let memory = GuestMemory::new(vec![(spec, file)]).unwrap();
    let mut link = crate::open(&LinkSpec::Source(100), 1).unwrap().remove(0);
    for cut in [1, 11, 12, 13, 26, 50, 112, 200] {
        memory.write(0, &[0xee; 0x1000]).unwrap();
        let mut spans = IoVecs::new();
        // Every piece a little away from the last, so that they are not joined.
        let pieces: Vec<_> = (0..200_u64.div_ceil(cut))
            .map(|n| Segment {
                addr: n * (cut + 1),
                len: cut as u32,
            })
            .collect();
        memory.iovecs(&pieces, &mut spans).unwrap();
        assert_eq!(
            link.receive(&spans, &mut []).unwrap(),
            Received::Frame(HEADER_BYTES + 100)
        );
        let mut got = Vec::new();
        for piece in &pieces {
            let mut bytes = vec![0; piece.len as usize];
            memory.read(piece.addr, &mut bytes).unwrap();
            got.extend(bytes);
        }
        assert_eq!(got[..HEADER_BYTES], [0; HEADER_BYTES]);
        assert_eq!(got[12..18], [0xff; 6]);
        assert_eq!(got[24..26], [0x88, 0xb5]);
        assert!(got[26..112].iter().all(|byte| *byte == 0));
        assert!(got[112..].iter().all(|byte| *byte == 0xee), "cut {cut}");
    }
    let short = [Segment { addr: 0, len: 111 }];
    let mut spans = IoVecs::new();
    memory.iovecs(&short, &mut spans).unwrap();
    assert_eq!(link.receive(&spans, &mut []).unwrap(), Received::Empty);
}

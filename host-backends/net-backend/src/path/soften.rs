//! Frames for receivers that lack an offload: checksums completed and large frames cut, in software.
//!
//! Rule: the frame itself stays as it is, for another receiver may take it so; what is made is made on a copy of its
//! first bytes.

use guest_memory::Cursor;
use net_link::Offloads;
use virtio_spec::net::HASH_HEADER_SIZE;
use virtio_spec::net::HEADER_SIZE;
use virtio_spec::net::Header;
use zerocopy::FromBytes;

use crate::offload;
use crate::offload::Refusal;
use crate::offload::Segmenter;
use crate::offload::Tail;
use crate::offload::Work;
use crate::path::transmit::Departing;
use crate::path::transmit::EMPTY_PLACE;

/// What of a frame lies in guest memory.
pub(crate) struct Rest<'a> {
    cursor: Option<&'a Cursor<'a>>,
    len: usize,
}

impl<'a> Rest<'a> {
    pub fn of(frame: &'a Departing<'_>) -> Self {
        Self {
            cursor: frame.rest.as_ref(),
            len: frame.behind(),
        }
    }
}

impl Tail for Rest<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, from: usize, into: &mut [u8]) -> bool {
        let Some(mut cursor) = self.cursor.cloned() else {
            return into.is_empty();
        };
        cursor.skip(from);
        cursor.read(into).ok() == Some(into.len())
    }
}

/// Makes of `frame` what a receiver with `accepts` can take and hands it to `each`, frame by frame, until that says
/// `false`. `scratch` is kept for its allocation.
///
/// # Errors
/// The frame is not what its header says.
pub(crate) fn soften(
    frame: &Departing<'_>,
    accepts: Offloads,
    scratch: &mut Vec<u8>,
    mut each: impl FnMut(Departing<'_>) -> bool,
) -> Result<(), Refusal> {
    let rest = Rest::of(frame);
    let mut place = EMPTY_PLACE;
    match offload::work(&frame.header, accepts) {
        Work::None | Work::Checksum => {
            place.copy_from_slice(frame.place);
            let mut header = frame.header;
            let end = HASH_HEADER_SIZE + frame.head;
            let head = place.get_mut(HASH_HEADER_SIZE..end);
            offload::complete(&mut header, head.ok_or(Refusal::Memory)?, &rest)?;
            each(Departing {
                rest: frame.rest.clone(),
                place: &mut place,
                head: frame.head,
                len: frame.len,
                header,
            });
            Ok(())
        }
        Work::Segment => {
            let head = frame.head();
            let mut segmenter = Segmenter::new(&frame.header, head, rest.len, accepts.csum)?;
            while let Some(range) = segmenter.next(head, &rest, scratch) {
                let range = range?;
                let (header, own) =
                    Header::read_from_prefix(scratch).map_err(|_| Refusal::Headers)?;
                let end = HASH_HEADER_SIZE + own.len();
                let to = place.get_mut(HASH_HEADER_SIZE..end);
                to.ok_or(Refusal::Headers)?.copy_from_slice(own);
                let behind = frame
                    .rest
                    .as_ref()
                    .filter(|_| !range.is_empty())
                    .map(|rest| {
                        let mut rest = rest.clone();
                        rest.skip(range.start);
                        rest
                    });
                let more = each(Departing {
                    rest: behind,
                    place: &mut place,
                    head: scratch.len() - HEADER_SIZE,
                    len: scratch.len() - HEADER_SIZE + range.len(),
                    header,
                });
                if !more {
                    break;
                }
            }
            Ok(())
        }
    }
}

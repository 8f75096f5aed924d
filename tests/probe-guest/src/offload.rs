//! What the device can do for a frame that the TCP/IP stack has made.
//!
//! Rule: looks only at IPv4 with TCP or UDP, as the stack makes them; everything else goes out as it is.
use net_driver::ChecksumAt;
use net_driver::Offload;
use net_driver::SegmentKind;
use net_driver::Segmentation;

const ETHERNET: usize = 14;
const TYPE_IPV4: [u8; 2] = [8, 0];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Puts the pseudo header's sum where the device expects it and says what is left to do. `segment` is the payload of each segment when
/// the frame is larger than the network takes.
pub(crate) fn prepare(frame: &mut [u8], segment: Option<u16>) -> Offload {
    let Some(found) = locate(frame) else {
        return Offload::default();
    };
    let Located {
        start,
        offset,
        headers,
        pseudo,
    } = found;
    if let Some(field) = frame.get_mut(start + offset..start + offset + 2) {
        field.copy_from_slice(&pseudo.to_be_bytes());
    }
    let segmentation = segment
        .filter(|_| offset == 16 && frame.len() > headers)
        .map(|size| Segmentation {
            kind: SegmentKind::Tcp4,
            size,
            ecn: false,
        });
    Offload {
        checksum: Some(ChecksumAt {
            start: start as u16,
            offset: offset as u16,
        }),
        segmentation,
        header_len: headers as u16,
    }
}

struct Located {
    start: usize,
    offset: usize,
    headers: usize,
    pseudo: u16,
}

fn locate(frame: &[u8]) -> Option<Located> {
    if frame.get(12..ETHERNET)? != TYPE_IPV4 {
        return None;
    }
    let ip = frame.get(ETHERNET..)?;
    let ip_header = usize::from(*ip.first()? & 0xf) * 4;
    let protocol = *ip.get(9)?;
    let start = ETHERNET + ip_header;
    let (offset, headers) = match protocol {
        TCP => (16, start + usize::from(*frame.get(start + 12)? >> 4) * 4),
        UDP => (6, start + 8),
        _ => return None,
    };
    let mut sum = u32::from(protocol) + (frame.len() - start) as u32;
    for pair in ip.get(12..20)?.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([*pair.first()?, *pair.get(1)?]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    Some(Located {
        start,
        offset,
        headers,
        pseudo: sum as u16,
    })
}

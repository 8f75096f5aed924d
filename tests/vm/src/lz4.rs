//! The legacy LZ4 frame that Debian's kernels are packed with.
//!
//! One rule: damaged input is an error, never a panic.

use anyhow::Context;
use anyhow::ensure;

/// First four bytes of a legacy frame.
pub const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Unpacks a legacy frame: magic, then blocks of up to 8 MiB, each with its packed size before it.
pub fn unpack(frame: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut rest = frame.strip_prefix(&MAGIC).context("No legacy LZ4 frame")?;
    let mut out = Vec::new();
    // The kernel's build appends the unpacked size: four bytes that no block follows.
    while rest.len() > 4 {
        let (size, after) = rest.split_first_chunk::<4>().context("LZ4 frame is cut")?;
        let size = u32::from_le_bytes(*size) as usize;
        let block = after.get(..size).context("LZ4 block is cut")?;
        unpack_block(block, &mut out)?;
        rest = &after[size..];
    }
    Ok(out)
}

fn unpack_block(block: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
    let start = out.len();
    let mut bytes = block.iter();
    while let Some(&token) = bytes.next() {
        let literals = length(token >> 4, &mut bytes)?;
        let rest = bytes.as_slice();
        out.extend_from_slice(rest.get(..literals).context("LZ4 literals are cut")?);
        bytes = rest[literals..].iter();
        // The last sequence has literals only.
        let Some(&low) = bytes.next() else { break };
        let high = *bytes.next().context("LZ4 offset is cut")?;
        let offset = usize::from(u16::from_le_bytes([low, high]));
        let matched = length(token & 15, &mut bytes)? + 4;
        let from = out
            .len()
            .checked_sub(offset)
            .context("LZ4 offset leads before the start")?;
        ensure!(
            offset > 0 && from >= start,
            "LZ4 offset leads out of its block"
        );
        for at in from..from + matched {
            out.push(out[at]);
        }
    }
    Ok(())
}

/// A length of four bits, with more bytes while they are 255.
fn length(nibble: u8, bytes: &mut std::slice::Iter<'_, u8>) -> anyhow::Result<usize> {
    let mut total = usize::from(nibble);
    if nibble == 15 {
        loop {
            let more = *bytes.next().context("LZ4 length is cut")?;
            total += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlapping_match_repeats_its_literals() {
        // Two literals, then a match of 8 at offset 2, then one literal.
        let block = [0x24, b'a', b'b', 2, 0, 0x10, b'z'];
        let mut frame = MAGIC.to_vec();
        frame.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        frame.extend(block);
        frame.extend(11_u32.to_le_bytes());
        assert_eq!(
            unpack(&frame).unwrap(),
            b"ababababab"
                .iter()
                .chain(b"z")
                .copied()
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn damaged_frames_are_errors() {
        assert!(unpack(b"no").is_err());
        let mut frame = MAGIC.to_vec();
        frame.extend(5_u32.to_le_bytes());
        frame.extend([0x0f, 1, 0, 255, 255]);
        assert!(unpack(&frame).is_err());
    }
}

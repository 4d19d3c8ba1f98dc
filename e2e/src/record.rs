//! What the guest's writers append: numbered records of one length, each with a checksum.

/// Length of a record in bytes, its newline included.
pub const RECORD_LENGTH: usize = 64;

/// FNV-1a, 64 bits: enough to tell a torn record from a whole one.
fn checksum(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The record with number `number`, counted from 0.
pub fn encode_record(number: u64) -> [u8; RECORD_LENGTH] {
    let head = format!("record {number:020} ");
    let text = format!("{head}{:016x}", checksum(head.as_bytes()));
    let mut record = [b'.'; RECORD_LENGTH];
    record[..text.len()].copy_from_slice(text.as_bytes());
    record[RECORD_LENGTH - 1] = b'\n';
    record
}

/// How many whole records `content` starts with, and the bytes left over after them.
///
/// # Errors
/// A record of full length is not the one that belongs at its place; says which.
pub fn whole_records(content: &[u8]) -> Result<(u64, usize), String> {
    let mut number = 0;
    let chunks = content.chunks_exact(RECORD_LENGTH);
    let rest = chunks.remainder().len();
    for chunk in chunks {
        if chunk != encode_record(number) {
            return Err(format!("record {number} reads {:?}", String::from_utf8_lossy(chunk)));
        }
        number += 1;
    }
    Ok((number, rest))
}

#[cfg(test)]
mod tests {
    use super::{encode_record, whole_records};

    #[test]
    fn counts_whole_records_and_refuses_torn_ones() {
        let mut content: Vec<u8> = (0..3).flat_map(encode_record).collect();
        assert_eq!(whole_records(&content), Ok((3, 0)));
        content.extend_from_slice(b"rec");
        assert_eq!(whole_records(&content), Ok((3, 3)));
        content[70] = 0;
        assert!(whole_records(&content).is_err());
    }
}

//! Markdown and text files: one page, decoded.

use thiserror::Error;

/// Why a file is no text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum PlainFault {
    /// Bytes that the encoding does not have.
    #[error("not {encoding} text at byte {at}: save it as UTF-8")]
    Encoding {
        /// The encoding that the file claims.
        encoding: &'static str,
        /// The first offending byte, from 0.
        at: usize,
    },
}

/// Decodes UTF-8, with or without a byte order mark, and UTF-16 with one.
pub(super) fn decode(bytes: &[u8]) -> Result<String, PlainFault> {
    if let Some(rest) = bytes.strip_prefix(b"\xff\xfe") {
        return utf16(rest, u16::from_le_bytes);
    }
    if let Some(rest) = bytes.strip_prefix(b"\xfe\xff") {
        return utf16(rest, u16::from_be_bytes);
    }
    let (skipped, rest) = bytes.strip_prefix(b"\xef\xbb\xbf").map_or((0, bytes), |rest| (3, rest));
    match std::str::from_utf8(rest) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(PlainFault::Encoding { encoding: "UTF-8", at: skipped + error.valid_up_to() }),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, PlainFault> {
    let fault = |at| PlainFault::Encoding { encoding: "UTF-16", at };
    let pairs = bytes.chunks_exact(2);
    let odd = !pairs.remainder().is_empty();
    let mut text = String::with_capacity(bytes.len() / 2);
    let mut at = 2;
    for decoded in char::decode_utf16(pairs.map(|pair| unit([pair[0], pair[1]]))) {
        let c = decoded.map_err(|_| fault(at))?;
        at += 2 * c.len_utf16();
        text.push(c);
    }
    if odd { Err(fault(at)) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_and_unmarked_text_is_decoded() {
        assert_eq!(decode(b"caf\xc3\xa9").unwrap(), "café");
        assert_eq!(decode(b"\xef\xbb\xbfa").unwrap(), "a");
        assert_eq!(decode(b"\xff\xfea\0\x3d\xd8\0\xde").unwrap(), "a😀");
        assert_eq!(decode(b"\xfe\xff\0a").unwrap(), "a");
        assert_eq!(decode(b"").unwrap(), "");
    }

    #[test]
    fn the_first_bad_byte_is_named() {
        let bad = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert_eq!(bad(b"abc\xe9d"), "not UTF-8 text at byte 3: save it as UTF-8");
        assert_eq!(bad(b"\xef\xbb\xbfa\xff"), "not UTF-8 text at byte 4: save it as UTF-8");
        assert_eq!(bad(b"\xff\xfea\0\x3d\xd8"), "not UTF-16 text at byte 4: save it as UTF-8");
        assert_eq!(bad(b"\xff\xfea\0b"), "not UTF-16 text at byte 4: save it as UTF-8");
    }
}

//! What a file is, told from its first bytes.

/// How far into a file a PDF may begin, as readers allow.
const HEADER_WINDOW: usize = 1024;

/// The part of a file that is a PDF: from its header on. `None` if there is none.
pub(super) fn pdf_body(bytes: &[u8]) -> Option<&[u8]> {
    let window = &bytes[..bytes.len().min(HEADER_WINDOW)];
    let start = window.windows(5).position(|at| at == b"%PDF-")?;
    Some(&bytes[start..])
}

/// What the file is instead of a PDF, as in `the file begins with JPEG data`.
pub(super) fn describe(bytes: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 14] = [
        (b"\xff\xd8\xff", "JPEG data"),
        (b"\x89PNG", "PNG data"),
        (b"GIF8", "GIF data"),
        (b"II*\0", "TIFF data"),
        (b"MM\0*", "TIFF data"),
        (b"PK\x03\x04", "ZIP data (perhaps a Word or Excel file)"),
        (b"\xd0\xcf\x11\xe0", "an old Word or Excel file's data"),
        (b"{\\rtf", "RTF text"),
        (b"%!PS", "PostScript"),
        (b"\x1f\x8b", "gzip data"),
        (b"<!DOCTYPE", "HTML"),
        (b"<!doctype", "HTML"),
        (b"<html", "HTML"),
        (b"<?xml", "XML"),
    ];
    let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if let Some((_, name)) = KNOWN.iter().find(|(magic, _)| start.starts_with(magic)) {
        return format!("the file begins with {name}");
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return "the file holds only zeros".into();
    }
    let head = &bytes[..bytes.len().min(64)];
    if head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return "the file begins with plain text".into();
    }
    "the file has no PDF header".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pdf_may_begin_a_little_late() {
        assert_eq!(pdf_body(b"%PDF-1.4 x"), Some(&b"%PDF-1.4 x"[..]));
        assert_eq!(pdf_body(b"\r\njunk%PDF-1.4"), Some(&b"%PDF-1.4"[..]));
        let mut late = vec![b' '; 2000];
        late.extend_from_slice(b"%PDF-1.4");
        assert_eq!(pdf_body(&late), None);
        assert_eq!(pdf_body(b""), None);
    }

    #[test]
    fn other_files_are_named() {
        assert_eq!(describe(b"\xff\xd8\xff\xe0\0\x10JFIF"), "the file begins with JPEG data");
        assert_eq!(describe(b"\xef\xbb\xbf  <html><body>"), "the file begins with HTML");
        assert_eq!(describe(b"Dear member,"), "the file begins with plain text");
        assert_eq!(describe(&[0; 20]), "the file holds only zeros");
        assert_eq!(describe(&[1, 2, 200]), "the file has no PDF header");
    }
}

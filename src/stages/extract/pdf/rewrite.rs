//! A copy of a PDF that shows, of each page, only what is to be read.
//!
//! unpdf has no way to leave a part of a page out, but it respects clipping. So the document's objects are written
//! anew, unencrypted and without image data, and the content of each page is put behind a clipping path. Tables and
//! columns are then recognised without the running lines that mislead the recognition.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use unpdf::parser::raw::RawDocument;
use unpdf::parser::raw::tokenizer::{PdfDict, PdfObject};
use unpdf::parser::raw::xref;

/// A rectangle of a page: left, bottom, right, top.
pub(super) type Area = [f32; 4];

/// Writes the copy. `shown` has, for each page in order, the area that stays visible; `None` leaves the page as
/// it is. Returns `None` where the document's structure does not allow it.
pub(super) fn clipped(data: &[u8], shown: &[Option<Area>]) -> Option<Vec<u8>> {
    let document = RawDocument::load(data).ok()?;
    let ids = object_ids(data, document.xref_reconstructed())?;
    let pages = document.pages();
    if pages.len() != shown.len() {
        return None;
    }
    let mut next = ids.iter().map(|(number, _)| *number).max()?.checked_add(1)?;
    let mut out = Writer { bytes: b"%PDF-1.7\n".to_vec(), offsets: Vec::new() };
    let page_ids: std::collections::HashMap<(u32, u16), usize> =
        pages.values().enumerate().map(|(i, id)| (*id, i)).collect();
    for id in &ids {
        let Some(object) = document.get_object(*id) else { continue };
        let area = page_ids.get(id).and_then(|i| shown[*i]);
        match (object, area) {
            (PdfObject::Dict(dict), Some(area)) => {
                let (open, close) = (next, next.checked_add(1)?);
                next = next.checked_add(2)?;
                out.stream(open, &PdfDict::new(), clip_path(area).as_bytes());
                out.stream(close, &PdfDict::new(), b"\nQ\n");
                out.object(*id, &PdfObject::Dict(with_clip(&document, dict, open, close)));
            }
            (PdfObject::Stream(stream), _) => match name(&stream.dict, b"Type") {
                // What these hold is written as objects of its own.
                Some(b"XRef" | b"ObjStm") => {}
                _ => out.stream_id(*id, &stream.dict, kept_data(&stream.dict, &stream.raw_data)),
            },
            _ => out.object(*id, object),
        }
    }
    let root = document.trailer().get(b"Root".as_slice())?.clone();
    Some(out.finish(next, root))
}

/// Every object the document has, packed ones too.
fn object_ids(data: &[u8], reconstructed: bool) -> Option<BTreeSet<(u32, u16)>> {
    let table = if reconstructed { xref::reconstruct(data) } else { xref::parse_xref_chain(data) };
    Some(table.ok()?.0.entries.into_keys().collect())
}

fn name<'a>(dict: &'a PdfDict, key: &[u8]) -> Option<&'a [u8]> {
    dict.get(key).and_then(PdfObject::as_name)
}

/// Image data says nothing about text.
fn kept_data<'a>(dict: &PdfDict, data: &'a [u8]) -> &'a [u8] {
    if name(dict, b"Subtype") == Some(b"Image") { &[] } else { data }
}

fn clip_path([left, bottom, right, top]: Area) -> String {
    format!("q\n{left:.2} {bottom:.2} {:.2} {:.2} re\nW n\n", right - left, top - bottom)
}

/// The page with its content between two streams that set and drop the clipping path.
fn with_clip(document: &RawDocument, page: &PdfDict, open: u32, close: u32) -> PdfDict {
    let mut page = page.clone();
    let mut contents = vec![PdfObject::Reference(open, 0)];
    match page.remove(b"Contents".as_slice()) {
        Some(PdfObject::Array(parts)) => contents.extend(parts),
        Some(reference @ PdfObject::Reference(..)) => match document.resolve(&reference) {
            PdfObject::Array(parts) => contents.extend(parts.iter().cloned()),
            _ => contents.push(reference),
        },
        _ => {}
    }
    contents.push(PdfObject::Reference(close, 0));
    page.insert(b"Contents".to_vec(), PdfObject::Array(contents));
    page
}

struct Writer {
    bytes: Vec<u8>,
    offsets: Vec<((u32, u16), usize)>,
}

impl Writer {
    fn head(&mut self, id: (u32, u16)) {
        self.offsets.push((id, self.bytes.len()));
        self.bytes.extend_from_slice(format!("{} {} obj\n", id.0, id.1).as_bytes());
    }

    fn object(&mut self, id: (u32, u16), object: &PdfObject) {
        self.head(id);
        write(&mut self.bytes, object, 0);
        self.bytes.extend_from_slice(b"\nendobj\n");
    }

    fn stream(&mut self, number: u32, dict: &PdfDict, data: &[u8]) {
        self.stream_id((number, 0), dict, data);
    }

    fn stream_id(&mut self, id: (u32, u16), dict: &PdfDict, data: &[u8]) {
        self.head(id);
        let mut dict = dict.clone();
        dict.insert(b"Length".to_vec(), PdfObject::Integer(i64::try_from(data.len()).unwrap_or(i64::MAX)));
        write(&mut self.bytes, &PdfObject::Dict(dict), 0);
        self.bytes.extend_from_slice(b"\nstream\n");
        self.bytes.extend_from_slice(data);
        self.bytes.extend_from_slice(b"\nendstream\nendobj\n");
    }

    fn finish(mut self, size: u32, root: PdfObject) -> Vec<u8> {
        let start = self.bytes.len();
        self.offsets.sort_unstable();
        let mut table = String::from("xref\n");
        for ((number, generation), offset) in &self.offsets {
            let _ = write!(table, "{number} 1\n{offset:010} {generation:05} n \n");
        }
        self.bytes.extend_from_slice(table.as_bytes());
        let mut trailer = PdfDict::new();
        trailer.insert(b"Size".to_vec(), PdfObject::Integer(i64::from(size)));
        trailer.insert(b"Root".to_vec(), root);
        self.bytes.extend_from_slice(b"trailer\n");
        write(&mut self.bytes, &PdfObject::Dict(trailer), 0);
        self.bytes.extend_from_slice(format!("\nstartxref\n{start}\n%%EOF\n").as_bytes());
        self.bytes
    }
}

/// Deeper nesting than any document needs ends as `null`, so that a hostile one cannot exhaust the stack.
const MAX_DEPTH: usize = 200;

fn write(out: &mut Vec<u8>, object: &PdfObject, depth: usize) {
    match object {
        // A stream is always an object of its own; inside another it cannot be.
        PdfObject::Null | PdfObject::Stream(_) => out.extend_from_slice(b"null"),
        PdfObject::Array(_) | PdfObject::Dict(_) if depth > MAX_DEPTH => out.extend_from_slice(b"null"),
        PdfObject::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
        PdfObject::Integer(value) => out.extend_from_slice(value.to_string().as_bytes()),
        PdfObject::Real(value) if value.is_finite() => out.extend_from_slice(value.to_string().as_bytes()),
        PdfObject::Real(_) => out.extend_from_slice(b"0"),
        PdfObject::Name(name) => write_name(out, name),
        PdfObject::Str(text) => {
            out.push(b'<');
            for byte in text {
                out.extend_from_slice(format!("{byte:02x}").as_bytes());
            }
            out.push(b'>');
        }
        PdfObject::Array(items) => {
            out.push(b'[');
            for item in items {
                write(out, item, depth + 1);
                out.push(b' ');
            }
            out.push(b']');
        }
        PdfObject::Dict(dict) => {
            out.extend_from_slice(b"<<");
            for (key, value) in dict {
                write_name(out, key);
                out.push(b' ');
                write(out, value, depth + 1);
                out.push(b'\n');
            }
            out.extend_from_slice(b">>");
        }
        PdfObject::Reference(number, generation) => {
            out.extend_from_slice(format!("{number} {generation} R").as_bytes());
        }
    }
}

fn write_name(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'/');
    for byte in name {
        if byte.is_ascii_alphanumeric() || b"-_.+*:,@!$&'^~|".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("#{byte:02x}").as_bytes());
        }
    }
}

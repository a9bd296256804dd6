//! The corpus of the benchmark: Markdown documents of policy-like sentences with numbers, the same ones every time.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Passages of a document; the pipeline's chunks are about as many.
const PASSAGES: usize = 40;
/// Chunks of 1,500 characters that a document becomes, at least.
pub(super) const CHUNKS_A_DOCUMENT: usize = 36;
/// Sentences of a passage: about 1,450 characters with its heading.
const SENTENCES: usize = 10;

const WHO: [&str; 8] = [
    "applicant",
    "provider",
    "case manager",
    "hearing officer",
    "managed care plan",
    "county office",
    "billing agent",
    "guardian",
];
const WHAT: [&str; 7] = [
    "report a change of income",
    "file a written appeal",
    "submit a corrected claim",
    "renew the prior authorization",
    "return the signed form",
    "answer a request for records",
    "disclose a change of ownership",
];
const TO: [&str; 5] = [
    "the regional office",
    "the program integrity unit",
    "the enrollment broker",
    "the benefits desk",
    "the review panel",
];

/// Writes `documents` documents of about 58 KB into `folder`, which must exist.
pub(super) fn write(folder: &Path, documents: usize) -> io::Result<()> {
    for n in 0..documents {
        std::fs::write(folder.join(format!("bulletin-{n:05}.md")), document(n))?;
    }
    Ok(())
}

fn document(n: usize) -> String {
    let mut text = String::with_capacity(64 << 10);
    // Writing to a string cannot fail.
    let _ = write!(text, "# Bulletin {n} of the Calloway program\n\n");
    for passage in 1..=PASSAGES {
        let _ = write!(text, "## Part {passage}: duties and deadlines\n\n");
        for sentence in 0..SENTENCES {
            let m = n * 31 + passage * 17 + sentence * 5;
            let _ = write!(
                text,
                "Under bulletin {n} the {} must {} to {} within {} calendar days after event {} of part {passage}. ",
                WHO[m % WHO.len()],
                WHAT[(m / 2) % WHAT.len()],
                TO[(m / 3) % TO.len()],
                5 + m % 80,
                m * 13 + sentence,
            );
        }
        text.push_str("\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_the_same_every_time_and_differ_from_each_other() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 2).unwrap();
        let first = std::fs::read_to_string(folder.path().join("bulletin-00000.md")).unwrap();
        let second = std::fs::read_to_string(folder.path().join("bulletin-00001.md")).unwrap();
        assert_eq!(first, document(0));
        assert_ne!(first, second);
        assert!((CHUNKS_A_DOCUMENT * 1_500..70_000).contains(&first.len()), "{} bytes", first.len());
    }
}

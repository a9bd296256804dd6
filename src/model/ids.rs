//! Identities: every id is a hash of what determines it, so that a re-run of the same work finds the same ids.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Declares a 32-byte identity with hexadecimal display and parsing.
macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// All 64 hexadecimal digits.
            pub fn hex(&self) -> String {
                to_hex(&self.0)
            }

            /// The first 32 hexadecimal digits: what people see, and unique for any corpus that fits a disk.
            pub fn short(&self) -> String {
                to_hex(&self.0[..16])
            }

            /// Reads 64 hexadecimal digits; `None` for anything else.
            pub fn from_hex(text: &str) -> Option<Self> {
                from_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), to_hex(&self.0[..6]))
            }
        }
    };
}

hash_id! {
    /// One item of the flow: `blake3(parent, producing stage's fingerprint, ordinal)`; of a document, its content.
    ItemId
}
hash_id! {
    /// What determines a stage's results: its kind, code version, determining configuration, and all of that upstream.
    Fingerprint
}
hash_id! {
    /// SHA-256 of a source file's bytes, as `sha256sum` prints it.
    DocumentHash
}
hash_id! {
    /// blake3 of a file kept beside the database.
    BlobId
}
hash_id! {
    /// One model request: where its document stands, then blake3 of everything that determines its answer, and of the
    /// item that asks.
    RequestKey
}

impl DocumentHash {
    /// The hash of a file's content.
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }
}

impl ItemId {
    /// The id of child number `ordinal` that `stage` makes of `parent`.
    pub fn derive(parent: &Self, stage: &Fingerprint, ordinal: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("qaflow item v1");
        hasher.update(&parent.0).update(&stage.0).update(&ordinal.to_be_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The id of a document with this content, wherever it lies.
    pub fn document(content: &DocumentHash) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("qaflow document v1");
        hasher.update(&content.0);
        Self(*hasher.finalize().as_bytes())
    }
}

impl Fingerprint {
    /// Hashes labelled parts; the labels and lengths keep neighbouring parts apart.
    pub fn of(parts: &[(&str, &[u8])]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("qaflow fingerprint v1");
        for (label, bytes) in parts {
            hasher.update(&(label.len() as u64).to_be_bytes()).update(label.as_bytes());
            hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The key under which the store keeps this stage's records.
    pub fn key(&self) -> StageKey {
        let mut key = [0; 16];
        key.copy_from_slice(&self.0[..16]);
        StageKey(key)
    }

    /// The fingerprint of the source, which produces documents.
    pub fn source() -> Self {
        Self::of(&[("kind", b"source")])
    }
}

/// The first half of a stage's [`Fingerprint`]: the stage's name space in the store. After a change of what
/// determines the stage, its records go to a new name space and the old ones stay where they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageKey(pub [u8; 16]);

impl StageKey {
    /// 32 hexadecimal digits.
    pub fn hex(&self) -> String {
        to_hex(&self.0)
    }

    /// Reads 32 hexadecimal digits; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let whole = (text.len() == 32).then(|| from_hex(&text.repeat(2))).flatten()?;
        let mut key = [0; 16];
        key.copy_from_slice(&whole[..16]);
        Some(Self(key))
    }
}

impl fmt::Debug for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StageKey({})", to_hex(&self.0[..6]))
    }
}

/// Where an item stands in the order of all items: its document, then its ordinal at each level. Sorting by
/// lineage gives the same order whatever the concurrency was. Two branches of a fork may share a lineage; the
/// item id keeps them apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lineage(Vec<u8>);

impl Lineage {
    /// The lineage of a document.
    pub fn document(content: &DocumentHash) -> Self {
        Self(content.0.to_vec())
    }

    /// The lineage of child number `ordinal`.
    #[must_use]
    pub fn child(&self, ordinal: u32) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 4);
        bytes.extend_from_slice(&self.0);
        bytes.extend_from_slice(&ordinal.to_be_bytes());
        Self(bytes)
    }

    /// The lineage of the parent; `None` for a document's.
    pub fn parent(&self) -> Option<Self> {
        (self.0.len() >= 36).then(|| Self(self.0[..self.0.len() - 4].to_vec()))
    }

    /// The content hash of the document that the item comes from.
    pub fn root(&self) -> DocumentHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(&self.0[..32]);
        DocumentHash(hash)
    }

    /// The bytes, ordered as the lineages are.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads bytes that [`Lineage::as_bytes`] gave; `None` if they cannot be a lineage.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= 32 && (bytes.len() - 32).is_multiple_of(4)).then(|| Self(bytes.to_vec()))
    }

    /// The ordinals from the document down.
    pub fn ordinals(&self) -> Vec<u32> {
        self.0[32..].chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lineage({}{:?})", to_hex(&self.0[..4]), self.ordinals())
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_parent_stage_and_ordinal() {
        let doc = ItemId::document(&DocumentHash([7; 32]));
        let stage = Fingerprint::of(&[("kind", b"chunk")]);
        let other = Fingerprint::of(&[("kin", b"dchunk")]);
        assert_eq!(ItemId::derive(&doc, &stage, 3), ItemId::derive(&doc, &stage, 3));
        assert_ne!(ItemId::derive(&doc, &stage, 3), ItemId::derive(&doc, &stage, 4));
        assert_ne!(ItemId::derive(&doc, &stage, 3), ItemId::derive(&doc, &other, 3));
    }

    #[test]
    fn lineage_orders_by_document_then_ordinals() {
        let a = Lineage::document(&DocumentHash([1; 32]));
        let b = Lineage::document(&DocumentHash([2; 32]));
        let mut all = [b.child(0), a.child(256), a.child(2).child(9), a.child(2), a.clone()];
        all.sort();
        assert_eq!(all, [a.clone(), a.child(2), a.child(2).child(9), a.child(256), b.child(0)]);
        assert_eq!(a.child(5).child(6).ordinals(), vec![5, 6]);
        assert_eq!(a.child(5).parent(), Some(a.clone()));
        assert_eq!(a.parent(), None);
    }

    #[test]
    fn hex_round_trips_and_refuses_what_is_not_hex() {
        let id = ItemId([0xab; 32]);
        assert_eq!(ItemId::from_hex(&id.hex()), Some(id));
        assert_eq!(ItemId::from_hex("zz"), None);
        let key = StageKey([7; 16]);
        assert_eq!(StageKey::from_hex(&key.hex()), Some(key));
        assert_eq!((StageKey::from_hex("07"), StageKey::from_hex(&"é".repeat(16))), (None, None));
        assert_eq!(ItemId::from_hex(&"é".repeat(32)), None);
    }
}

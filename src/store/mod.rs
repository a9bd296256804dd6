//! Where items, answers, accounts and texts are kept.
//!
//! A state folder holds `db/` (the sled database), `identity.json` (which state this is and how far it got, to catch
//! a database that opens empty), `epoch` (the same from commit to commit), `lease.json` and `lease/` (who may write),
//! `texts/` (documents' Markdown by content) and, after damage, `damaged-<n>/` with what was set aside. After a take-over
//! the database with its `identity.json`, `epoch` and `damaged-<n>/` is in `db-<n>/` instead.

mod audit;
mod block;
mod changes;
pub mod codec;
mod compaction;
mod fence;
mod files;
pub mod fit;
mod guard;
pub mod identity;
mod keys;
pub mod lease;
mod lease_files;
pub mod locks;
mod log;
pub mod memory;
mod opening;
mod precaution;
mod process;
mod rebuild;
mod records;
mod salvage;
mod scan;
mod sled;
mod standing;
mod table;
pub mod texts;
mod watermark;

pub use fence::{current_folder, holds_state};
pub use files::{disk_bytes, write_atomic};
pub use fit::fits;
pub use identity::Identity;
pub use lease::{FileLease, LeaseOptions};
pub use lease_files::LeaseHolder;
pub use memory::MemoryStore;
pub use records::{OpenOptions, SledStore};
pub use salvage::Salvaged;
pub use standing::{Holding, holding};
pub use texts::FileTexts;

#[cfg(test)]
mod tests;

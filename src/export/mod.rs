//! The projection of finished records into files people read.

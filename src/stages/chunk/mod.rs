//! The chunk stage.

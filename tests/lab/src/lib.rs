//! The laboratory.
pub mod language;

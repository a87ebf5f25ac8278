//! Stories told in namespaces, and what comes of them.

mod multipath;
mod readme;
mod real_programs;
mod stories;
#[path = "../support/mod.rs"]
mod support;

//! The mobility server.

fn main() {}

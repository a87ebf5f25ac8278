//! Bytes to values and back: the two TCP options of connection migration, the segments that carry them, the
//! tokens that name a connection and the MACs that prove who wrote them.
pub mod tuple;

pub use tuple::{Endpoint, Tuple};

//! A scenario as values: the [`network`] first, then the [`story`] and the [`condition`]s in it.
pub mod condition;
pub mod network;
pub mod story;

pub use condition::*;
pub use network::*;
pub use story::*;

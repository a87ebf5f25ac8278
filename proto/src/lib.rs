//! Protobuf messages of the suite, generated at build time from the `.proto` files beside this crate.
//!
//! These are bytes with names: the crates that use them check every field and turn them into values
//! (`identity::message` for the pair exchange).

/// The pair exchange between two host agents.
pub mod pair {
    /// Version 1; `pair/v1/pair.proto` is the specification.
    #[allow(missing_docs)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/pair.v1.rs"));

        use std::fmt;

        impl fmt::Debug for StoredPair {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("StoredPair")
                    .field("peer", &self.peer)
                    .field("epoch", &self.epoch)
                    .finish_non_exhaustive()
            }
        }

        impl fmt::Debug for Enrol {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Enrol")
                    .field("question", &self.question)
                    .field("step", &self.step)
                    .field("tuple", &self.tuple)
                    .finish_non_exhaustive()
            }
        }
    }
}

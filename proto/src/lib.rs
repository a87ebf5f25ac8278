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

/// What agents, proxies, relays and operators say to a mobility server.
pub mod mobility {
    /// Version 1; `mobility/v1/mobility.proto` is the specification.
    #[allow(missing_docs, clippy::large_enum_variant)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/mobility.v1.rs"));

        use std::fmt;

        /// The file descriptors, for gRPC reflection.
        pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mobility.v1.bin"));

        macro_rules! secret {
            ($name:ident: $($shown:ident),+) => {
                impl fmt::Debug for $name {
                    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.debug_struct(stringify!($name))
                            $(.field(stringify!($shown), &self.$shown))+
                            .finish_non_exhaustive()
                    }
                }
            };
        }

        secret!(Destination: pair_id, move_counter, decision, action, peer_address, connections);
        secret!(EnrolRequest: name);
        secret!(TicketLeg: agent, expected);
        secret!(LeaseRequest: lease_id);

        impl fmt::Debug for CreateTokenResponse {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("CreateTokenResponse").finish_non_exhaustive()
            }
        }
    }
}

/// What mobility servers keep in their store and tell each other.
pub mod stored {
    /// Version 1; `mobility/v1/stored.proto` is the specification.
    #[allow(missing_docs)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/mobility.stored.v1.rs"));
    }
}

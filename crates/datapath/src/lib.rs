//! The data path of connection migration.
#![allow(missing_docs)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/mobility.skel.rs"));
}

//! The generated skeleton, and its plain types as bytes.

#[allow(unused_imports)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mobility.skel.rs"));
}

#[allow(unused_imports)]
mod relay_generated {
    include!(concat!(env!("OUT_DIR"), "/relay.skel.rs"));
}

#[allow(unused_imports)]
mod sockets_generated {
    include!(concat!(env!("OUT_DIR"), "/sockets.skel.rs"));
}

pub use generated::*;
pub use relay_generated::types as relay_types;
pub use relay_generated::{RelaySkel, RelaySkelBuilder};
pub use sockets_generated::types as sockets_types;
pub use sockets_generated::{SocketsSkel, SocketsSkelBuilder};

/// Plain data: any bit pattern is a value, and every byte may be read.
///
/// # Safety
/// The type is `repr(C)` and made of integers and arrays of them.
pub unsafe trait Plain: Copy {
    /// The value's bytes.
    fn bytes(&self) -> &[u8] {
        // SAFETY: by the trait's contract every byte may be read.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The value that these bytes are; `None` when there are too few.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: there are enough bytes, and any bit pattern is a value.
        Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }

    /// All bytes zero.
    fn zeroed() -> Self {
        // SAFETY: any bit pattern is a value.
        unsafe { std::mem::zeroed() }
    }
}

macro_rules! plain {
    ($types:ident: $($name:ident),*) => {
        $(
            // SAFETY: generated from a C struct of integers and arrays.
            unsafe impl Plain for $types::$name {}
        )*
    };
}

plain!(
    types:
    config, connection, session, leg, token_list, wire_state, arrival, source, heads, peer_key, prefix_key, event,
    request, tuple, path, frame
);
plain!(sockets_types: executable);
plain!(relay_types: relay_config, door_key, door, relay, relay_event, lease_note, tuple, path);

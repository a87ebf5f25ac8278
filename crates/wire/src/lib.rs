//! Bytes to values and back: the two TCP options of connection migration, the segments that carry them, the
//! tokens that name a connection and the MACs that prove who wrote them.
//!
//! The modules follow a connection through its life:
//!
//! 1. [`tuple`](mod@tuple): who talks to whom, as the sockets know it and as it is on the wire.
//! 2. [`permit`]: SYN and SYN-ACK offer migration; the [`digest`](mod@digest) in the offer shows a NAPT on the
//!    way.
//! 3. [`keys`]: the pair key and both initial sequence numbers give the connection its [`token`]s and one MAC
//!    key per direction.
//! 4. [`reqno`]: after a move the mover takes the next number of its role,
//! 5. [`request`]: says so in a Migrate-Request option, proves it by its [`mac`],
//! 6. [`segment`]: and sends it in an MSYN, the first of three [`handshake`] segments.
//! 7. [`frame`]: once the new path stands, the cached head-of-line frame is cut and sent again on it.
//!
//! Everything here is a total function of its arguments: no IO, no clock, no randomness, and no panic, whatever
//! the bytes. The BPF programs write and read the same layouts; `tests/vectors.rs` holds the table that both
//! halves are compared with.
pub mod digest;
pub mod flags;
pub mod frame;
pub mod handshake;
mod ip;
pub mod keys;
pub mod mac;
pub mod option;
pub mod permit;
pub mod reqno;
pub mod request;
pub mod segment;
pub mod token;
pub mod tuple;
pub mod unreachable;

pub use digest::{Digest, digest};
pub use flags::Flags;
pub use frame::{FrameError, rewrite_frame};
pub use handshake::{Standing, SynOptions};
pub use ip::Unreadable;
pub use keys::{ConnectionKeys, MacKey, PairKey, Role, TokenKey};
pub use mac::{Mac, MacError, MacInput};
pub use option::{MigrateOption, OptionError, OptionRef, Options};
pub use permit::Permit;
pub use reqno::{ReqNo, ReqNoError};
pub use request::{Request, RequestType};
pub use segment::{Checksums, EmitError, Segment, SegmentError};
pub use token::Token;
pub use tuple::{Endpoint, Tuple};

//! Who an agent is, whom it trusts, and what two agents agree on.
//!
//! The life of an identity, in order:
//! 1. [`init_host`] makes the deployment's private CA ([`Authority`]) once and a certificate for each host.
//! 2. The agent loads its [`HostIdentity`], checks it, and joins it with its [`Trust`] (that CA, or pinned keys) to
//!    [`Credentials`]: TLS 1.3 only, both sides with certificates.
//! 3. When the first connection between two hosts comes up, the side that can connect calls [`dial`], the other
//!    [`accept`]. The result is a [`Pair`] (pair ID, key, epoch, addresses, NAPT findings) and the [`Channel`] it was
//!    agreed on, which both may go on using.
//! 4. A new exchange between the same two agents is a new epoch; [`Epochs`] keeps the older ones for the connections
//!    that remember them, [`PairStore`] keeps all of it across restarts.
//! 5. A host may join a deployment with an [`EnrolmentToken`] instead of step 1: [`Application`] makes its key and asks
//!    for a certificate over [`first_contact`]; later it speaks to the servers by [`towards_servers`], and seals what
//!    only its peer may read ([`sealed`]).
//! 6. Two ends that cannot reach each other are joined by a proxy, which honours nothing but a [`ticket`] of the
//!    deployment.
//!
//! What goes wrong at a peer's end is a value with a reason ([`ExchangeError::reason`]), never a panic.

mod agent_id;
mod authority;
mod certificate;
mod channel;
mod deployment;
mod epochs;
mod error;
mod exchange;
mod files;
mod host;
mod init;
mod joining;
pub mod message;
mod pair;
pub mod sealed;
mod serving;
mod store;
mod store_codec;
mod talk;
pub mod ticket;
mod token;
mod transcript;
mod trust;
mod verify;

pub use agent_id::{AgentId, DEFAULT_TRUST_DOMAIN, Fingerprint, ParseAgentIdError, ParseFingerprintError};
pub use authority::{Authority, AuthorityError, IssuedIdentity, Validity};
pub use channel::{Channel, ChannelError, MAX_FRAME};
pub use deployment::{first_contact, towards_servers};
pub use epochs::{Epochs, Inserted, MAX_EPOCHS};
pub use error::{ExchangeError, Stage};
pub use exchange::{DEFAULT_LIMIT, Local, Session, accept, dial};
pub use host::{HostIdentity, IdentityError};
pub use init::{AuthorityOutcome, HostOutcome, InitError, InitReport, init_host};
pub use joining::{Application, JoinError, renewed, vacant};
pub use message::{Message, PROTOCOL_VERSION};
pub use pair::{Abilities, Known, Pair, Remembered, Role, SleepHint, Winner, winning};
pub use serving::{
    IssuedServer, Member, MemberRole, ParseRoleError, SERVER_CERTIFICATE, SERVER_KEY, Signed,
    server_not_after, towards_members,
};
pub use store::{MAX_PAIRS, PairStore, Quarantined, StoreError};
pub use token::{EnrolmentToken, ParseTokenError};
pub use trust::{Credentials, Trust, TrustError};
pub use verify::CertificateRefusal;

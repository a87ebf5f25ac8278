//! Tickets: what makes a symmetric proxy relay for two agents, and nobody else.
//!
//! 1. A mobility server that wants a connection relayed makes a [`Ticket`]: both agents, where they are expected to come
//!    from, one [`LegKey`] for each, the one proxy that may honour it, and until when it may be used.
//!    [`Authority::sign_ticket`] signs its bytes with the deployment's key.
//! 2. Each agent is told its own leg key; the proxy gets both, in the ticket. The leg keys follow from the lease and the
//!    deployment's key ([`Authority::leg_key`]), so that any instance of the server can say them again and none stores
//!    them.
//! 3. The proxy checks the ticket before it takes any state ([`TicketVerifier::verify`]). That a lease was used before, it
//!    has to remember itself.
//!
//! A leg key proves to the proxy that a segment comes from an agent of the ticket, and to the agent that an answer comes
//! from the proxy. It says nothing about the peer: that is proven by the pair's own keys, which no server and no
//! proxy knows.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey};
use hkdf::Hkdf;
use prost::Message;
use proto::mobility::v1 as pb;
use rcgen::SigningKey;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::Sha256;
use thiserror::Error;
use wire::keys::MacKey;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::authority::Authority;

/// In front of what is signed: nothing else that the key signs begins like this.
const CONTEXT: &[u8] = b"mobility ticket v1\0";
/// In front of what leg keys follow from.
const LEG_SALT: &[u8] = b"mobility leg key v1";
/// By how much the clocks of server and proxy may differ.
pub const CLOCK_SLACK: Duration = Duration::from_secs(30);
/// No ticket may be used for longer.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// The key of one leg: between one agent and the proxy. Shown to nobody by `Debug`.
#[derive(Clone)]
pub struct LegKey(Zeroizing<[u8; 32]>);

impl LegKey {
    /// From 32 bytes; none: another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// As it stands in a ticket and in a destination.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Signs what the agent sends to the proxy.
    pub fn to_proxy(&self) -> MacKey {
        MacKey::new(std::array::from_fn(|at| self.0[at]))
    }

    /// Signs what the proxy sends to the agent.
    pub fn to_agent(&self) -> MacKey {
        MacKey::new(std::array::from_fn(|at| self.0[16 + at]))
    }
}

impl PartialEq for LegKey {
    fn eq(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for LegKey {}

impl fmt::Debug for LegKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LegKey(..)")
    }
}

/// One end of a relayed connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TicketLeg {
    /// The agent's URI.
    pub agent: String,
    /// The address that its MSYN must come from; none: any.
    pub expected: Option<IpAddr>,
    /// Shared with the proxy.
    pub key: LegKey,
}

/// One connection that a proxy is asked to relay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Names the lease; used once.
    pub lease: [u8; 16],
    /// The pair.
    pub pair: [u8; 16],
    /// Which of the pair's connections.
    pub label: u64,
    /// Not to be used earlier; whole seconds.
    pub not_before: SystemTime,
    /// Not to be used later; whole seconds.
    pub expires: SystemTime,
    /// Both ends; the first is the one whose URI comes first in the pair's record.
    pub legs: [TicketLeg; 2],
    /// Who may honour it: the proxy's URI.
    pub proxy: String,
}

/// A ticket's bytes and the signature over them.
#[derive(Clone)]
pub struct SignedTicket {
    /// The serialised ticket; holds both leg keys.
    pub ticket: Vec<u8>,
    /// Over them.
    pub signature: Vec<u8>,
}

/// Why a ticket is not honoured. The texts are for the operators of server and proxy; agents are told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TicketRefusal {
    /// Not signed by an authority of this deployment.
    #[error("the ticket is forged: this deployment's authority has not signed it")]
    Forged,
    /// It was good once.
    #[error("the ticket has expired: check the clocks of server and proxy")]
    Expired,
    /// It will be good.
    #[error("the ticket is not valid yet: check the clocks of server and proxy")]
    NotYet,
    /// Another proxy's.
    #[error("the ticket is for another proxy")]
    Foreign,
    /// Signed, and no ticket.
    #[error("the ticket cannot be read; is the server of another version?")]
    Malformed,
}

impl TicketRefusal {
    /// The stable name under which it is counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Forged => "ticket_forged",
            Self::Expired => "ticket_expired",
            Self::NotYet => "ticket_not_yet",
            Self::Foreign => "ticket_foreign",
            Self::Malformed => "ticket_malformed",
        }
    }
}

impl Authority {
    /// Signs a ticket.
    ///
    /// # Errors
    /// The authority's key cannot sign.
    pub fn sign_ticket(&self, ticket: &Ticket) -> Result<SignedTicket, rcgen::Error> {
        let ticket = message(ticket).encode_to_vec();
        let signature = self.issuer().key().sign(&signed_bytes(&ticket))?;
        Ok(SignedTicket { ticket, signature })
    }

    /// The leg key of an agent under a lease: the same from every server with this authority's key.
    pub fn leg_key(&self, lease: &[u8; 16], agent: &str) -> LegKey {
        let secret = Zeroizing::new(self.issuer().key().serialize_der());
        let mut key = Zeroizing::new([0; 32]);
        // 32 bytes can always be expanded.
        let _ = Hkdf::<Sha256>::new(Some(LEG_SALT), &secret)
            .expand_multi_info(&[lease.as_slice(), agent.as_bytes()], key.as_mut_slice());
        LegKey(key)
    }
}

/// Checks tickets: the proxy's side.
#[derive(Clone, Debug)]
pub struct TicketVerifier {
    authorities: Vec<PublicKey>,
}

#[derive(Clone, Debug)]
struct PublicKey {
    algorithm: Algorithm,
    key: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    P256,
    P384,
    Ed25519,
}

/// Why a bundle of authorities cannot check tickets.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum TicketVerifierError {
    #[error("cannot read {path}: {error}; copy the deployment's ca.pem there")]
    Read {
        path: std::path::PathBuf,
        error: std::io::Error,
    },
    #[error("the bundle of authorities is unusable ({0}); copy the deployment's ca.pem there again")]
    Content(String),
}

impl TicketVerifier {
    /// Trusts the authorities in a PEM file.
    ///
    /// # Errors
    /// It cannot be read, or holds no authority with a key that signs tickets.
    pub fn load(path: &Path) -> Result<Self, TicketVerifierError> {
        let pem = std::fs::read(path).map_err(|error| TicketVerifierError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::from_pem(&pem)
    }

    /// Trusts the authorities in a PEM text.
    ///
    /// # Errors
    /// It holds none with a key that signs tickets.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TicketVerifierError> {
        let unusable = |why: String| TicketVerifierError::Content(why);
        let mut authorities = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let der = certificate.map_err(|error| unusable(error.to_string()))?;
            let (_, certificate) =
                X509Certificate::from_der(&der).map_err(|error| unusable(error.to_string()))?;
            authorities.extend(public_key(&certificate));
        }
        match authorities.is_empty() {
            true => Err(unusable("no key of a kind that signs tickets".into())),
            false => Ok(Self { authorities }),
        }
    }

    /// Checks a ticket that was handed to the proxy `me` (its URI).
    ///
    /// # Errors
    /// Why it is not honoured.
    pub fn verify(
        &self,
        ticket: &[u8],
        signature: &[u8],
        me: &str,
        now: SystemTime,
    ) -> Result<Ticket, TicketRefusal> {
        let bytes = signed_bytes(ticket);
        if !self.authorities.iter().any(|key| key.signed(&bytes, signature)) {
            return Err(TicketRefusal::Forged);
        }
        let message = pb::Ticket::decode(ticket).map_err(|_| TicketRefusal::Malformed)?;
        let ticket = value(message).ok_or(TicketRefusal::Malformed)?;
        if ticket.proxy != me {
            return Err(TicketRefusal::Foreign);
        }
        if now + CLOCK_SLACK < ticket.not_before {
            return Err(TicketRefusal::NotYet);
        }
        if now > ticket.expires + CLOCK_SLACK {
            return Err(TicketRefusal::Expired);
        }
        Ok(ticket)
    }
}

impl PublicKey {
    fn signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let verified = match self.algorithm {
            Algorithm::P256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.key).verify(bytes, signature)
            }
            Algorithm::P384 => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, &self.key).verify(bytes, signature)
            }
            Algorithm::Ed25519 => UnparsedPublicKey::new(&ED25519, &self.key).verify(bytes, signature),
        };
        verified.is_ok()
    }
}

fn public_key(certificate: &X509Certificate<'_>) -> Option<PublicKey> {
    let info = certificate.public_key();
    let curve = info
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok())
        .map(|oid| oid.to_id_string());
    let algorithm = match (info.algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => Algorithm::P256,
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => Algorithm::P384,
        ("1.3.101.112", _) => Algorithm::Ed25519,
        _ => return None,
    };
    Some(PublicKey {
        algorithm,
        key: info.subject_public_key.data.to_vec(),
    })
}

fn signed_bytes(ticket: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([CONTEXT, ticket].concat())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn message(ticket: &Ticket) -> pb::Ticket {
    let leg = |leg: &TicketLeg| pb::TicketLeg {
        agent: leg.agent.clone(),
        expected: leg.expected.map(|address| pb::Endpoint {
            address: match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            },
            port: 0,
        }),
        leg_key: leg.key.as_bytes().to_vec(),
    };
    let [first, second] = &ticket.legs;
    pb::Ticket {
        lease_id: ticket.lease.to_vec(),
        pair_id: ticket.pair.to_vec(),
        label: ticket.label,
        not_before_unix_seconds: seconds(ticket.not_before),
        expires_unix_seconds: seconds(ticket.expires),
        first: Some(leg(first)),
        second: Some(leg(second)),
        proxy: ticket.proxy.clone(),
    }
}

fn value(message: pb::Ticket) -> Option<Ticket> {
    let at = |seconds: u64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let not_before = at(message.not_before_unix_seconds)?;
    let expires = at(message.expires_unix_seconds)?;
    if expires.duration_since(not_before).ok()? > LONGEST {
        return None;
    }
    let legs = [leg_value(message.first?)?, leg_value(message.second?)?];
    let [first, second] = &legs;
    if first.agent == second.agent || first.key == second.key {
        return None;
    }
    Some(Ticket {
        lease: message.lease_id.try_into().ok()?,
        pair: message.pair_id.try_into().ok()?,
        label: message.label,
        not_before,
        expires,
        legs,
        proxy: message.proxy,
    })
}

fn leg_value(message: pb::TicketLeg) -> Option<TicketLeg> {
    let expected = match message.expected {
        None => None,
        Some(expected) => Some(match expected.address.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(expected.address).ok()?),
            16 => IpAddr::from(<[u8; 16]>::try_from(expected.address).ok()?).to_canonical(),
            _ => return None,
        }),
    };
    if message.agent.is_empty() {
        return None;
    }
    Some(TicketLeg {
        agent: message.agent,
        expected,
        key: LegKey::from_bytes(&message.leg_key)?,
    })
}

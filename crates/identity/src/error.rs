//! How an exchange fails: one enum, each with a stable name for a counter and a text that says what to do.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::AlertDescription;
use thiserror::Error;

use crate::agent_id::AgentId;
use crate::channel::{ChannelError, FRAME_LIMIT, MAX_FRAME, is_gone, tls_error};
use crate::message::{MessageError, PROTOCOL_VERSION, RefuseReason};
use crate::verify::{CertificateRefusal, Verifier};

/// How far an exchange came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The TLS handshake.
    Tls,
    /// The dialer speaks.
    Hello,
    /// The acceptor answers.
    Welcome,
    /// Both confirm.
    Confirm,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "the TLS handshake",
            Self::Hello => "Hello",
            Self::Welcome => "Welcome",
            Self::Confirm => "Confirm",
        })
    }
}

/// Why two agents did not become a pair. Connections between their hosts stay plain TCP.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ExchangeError {
    #[error(transparent)]
    Certificate(#[from] CertificateRefusal),
    #[error("the peer showed no certificate: it is no agent, or it was not set up with host-agent init")]
    NoCertificate,
    #[error(
        "the peer does not speak TLS during {stage} ({detail}): something else uses the agent port, here or there"
    )]
    Garbage { stage: Stage, detail: String },
    #[error(
        "the peer cannot speak TLS 1.3 as an agent does ({detail}): update it, or something else uses the port"
    )]
    IncompatibleTls { detail: String },
    #[error("the peer refuses this agent: {why}")]
    RefusedByPeer { why: String },
    #[error(
        "the peer said nothing more during {stage} within {limit:?}: check that an agent runs there and its load"
    )]
    Silent { stage: Stage, limit: Duration },
    #[error("the peer sent {got} of {expected} bytes of {stage} and no more")]
    HalfMessage {
        stage: Stage,
        got: usize,
        expected: usize,
    },
    #[error("the peer closed during {stage}: look into its agent's log for the reason")]
    Closed { stage: Stage },
    #[error("the peer announced {length} bytes during {stage}; at most {MAX_FRAME} are accepted")]
    Oversize { stage: Stage, length: usize },
    #[error("the peer sent a {stage} that cannot be read: {error}")]
    Malformed { stage: Stage, error: MessageError },
    #[error("the peer sent another message than {stage}")]
    Unexpected { stage: Stage },
    #[error(
        "the peer speaks version {theirs} of the exchange, this agent {PROTOCOL_VERSION}: run the same release on both"
    )]
    Version { theirs: u32 },
    #[error("the peer ended the exchange: {reason}")]
    Refused { reason: RefuseReason },
    #[error(
        "the peer shows this agent's own identity {agent}: it dialled itself, or its identity directory was copied"
    )]
    Myself { agent: AgentId },
    #[error(
        "the peer chose epoch {chosen}, below {lowest}: it is out of step; forget the pair on both sides"
    )]
    Epoch { chosen: u32, lowest: u32 },
    #[error("no epoch number is left for {agent}: forget the pair on both sides")]
    NoEpochLeft { agent: AgentId },
    #[error("the peer named a pair ID that does not follow from what both said")]
    PairId,
    #[error("the peer's confirmation does not fit: it does not hold the key or heard something else")]
    Confirmation,
    #[error("TLS failed during {stage}: {detail}")]
    Tls { stage: Stage, detail: String },
    #[error("the connection failed during {stage}: {error}")]
    Io { stage: Stage, error: io::Error },
}

impl ExchangeError {
    /// Every name that [`ExchangeError::reason`] can give, for counters that shall exist from the start.
    pub const REASONS: [&'static str; 26] = [
        "closed",
        "confirmation",
        "epoch",
        "expired",
        "foreign_identity",
        "garbage",
        "half_message",
        "incompatible_tls",
        "io",
        "malformed",
        "myself",
        "no_agent",
        "no_certificate",
        "no_epoch_left",
        "not_pinned",
        "not_yet_valid",
        "other_authority",
        "oversize",
        "pair_id",
        "refused",
        "refused_by_peer",
        "silent",
        "tls",
        "unexpected_message",
        "unusable_certificate",
        "version",
    ];

    /// The stable name under which it is counted.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Certificate(refusal) => refusal.reason(),
            Self::NoCertificate => "no_certificate",
            Self::Garbage { .. } => "garbage",
            Self::IncompatibleTls { .. } => "incompatible_tls",
            Self::RefusedByPeer { .. } => "refused_by_peer",
            Self::Silent { .. } => "silent",
            Self::HalfMessage { .. } => "half_message",
            Self::Closed { .. } => "closed",
            Self::Oversize { .. } => "oversize",
            Self::Malformed { .. } => "malformed",
            Self::Unexpected { .. } => "unexpected_message",
            Self::Version { .. } => "version",
            Self::Refused { .. } => "refused",
            Self::Myself { .. } => "myself",
            Self::Epoch { .. } => "epoch",
            Self::NoEpochLeft { .. } => "no_epoch_left",
            Self::PairId => "pair_id",
            Self::Confirmation => "confirmation",
            Self::Tls { .. } => "tls",
            Self::Io { .. } => "io",
        }
    }

    /// What to tell the peer, if anything.
    pub(crate) fn refusal(&self) -> Option<RefuseReason> {
        match self {
            Self::Version { .. } => Some(RefuseReason::Version),
            Self::Malformed { .. } | Self::Oversize { .. } | Self::Unexpected { .. } | Self::PairId => {
                Some(RefuseReason::Malformed)
            }
            Self::Myself { .. } => Some(RefuseReason::Myself),
            Self::Epoch { .. } | Self::NoEpochLeft { .. } => Some(RefuseReason::Epoch),
            Self::Confirmation => Some(RefuseReason::Confirm),
            _ => None,
        }
    }

    pub(crate) fn from_message(stage: Stage, error: MessageError) -> Self {
        match error {
            MessageError::Version { theirs } => Self::Version { theirs },
            error => Self::Malformed { stage, error },
        }
    }

    pub(crate) fn from_channel(stage: Stage, error: ChannelError) -> Self {
        match error {
            ChannelError::Closed | ChannelError::Reset => Self::Closed { stage },
            ChannelError::HalfMessage { got, expected } => Self::HalfMessage { stage, got, expected },
            ChannelError::Oversize { length } => Self::Oversize { stage, length },
            ChannelError::Malformed(error) => Self::from_message(stage, error),
            ChannelError::NotReading => Self::Silent {
                stage,
                limit: FRAME_LIMIT,
            },
            ChannelError::Io(error) => Self::from_io(stage, error, None),
        }
    }

    /// Classifies a failure of the TLS stream; `verifier` holds the exact reason when it was the certificate.
    pub(crate) fn from_io(stage: Stage, error: io::Error, verifier: Option<&Verifier>) -> Self {
        use rustls::Error::{
            AlertReceived, InappropriateHandshakeMessage, InappropriateMessage, InvalidMessage,
            NoApplicationProtocol, NoCertificatesPresented, PeerIncompatible, PeerMisbehaved,
            PeerSentOversizedRecord,
        };
        if let Some(Err(refusal)) = verifier.and_then(|verifier| verifier.outcome()) {
            return Self::Certificate(refusal.clone());
        }
        let Some(tls) = tls_error(&error) else {
            return match is_gone(&error) {
                true => Self::Closed { stage },
                false => Self::Io { stage, error },
            };
        };
        let detail = tls.to_string();
        match tls {
            NoCertificatesPresented => Self::NoCertificate,
            AlertReceived(AlertDescription::ProtocolVersion) => Self::IncompatibleTls { detail },
            AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::NoApplicationProtocol) => {
                Self::IncompatibleTls { detail }
            }
            AlertReceived(alert) => Self::RefusedByPeer { why: explain(*alert) },
            PeerIncompatible(_) | NoApplicationProtocol => Self::IncompatibleTls { detail },
            InvalidMessage(_)
            | InappropriateMessage { .. }
            | InappropriateHandshakeMessage { .. }
            | PeerMisbehaved(_)
            | PeerSentOversizedRecord => Self::Garbage { stage, detail },
            _ => Self::Tls { stage, detail },
        }
    }
}

/// What an alert means for the operator of the side that receives it.
fn explain(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => {
            "it finds this host's certificate expired or not yet valid; renew it with host-agent init, check both clocks"
                .into()
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it trusts another authority than this host's; make both certificates with the same CA".into()
        }
        AlertDescription::AccessDenied => {
            "it does not trust this host's key; pin this host's fingerprint there".into()
        }
        AlertDescription::CertificateRequired => "it got no certificate from this host".into(),
        other => format!("TLS alert {other:?}; look into its agent's log"),
    }
}

//! Short names, for timelines, tables and counters.

use std::fmt;

use crate::action::{Action, Report};
use crate::event::Event;

impl Event {
    /// The variant's name.
    pub fn name(&self) -> &'static str {
        match self {
            Event::AddressLost { .. } => "AddressLost",
            Event::AddressReturned { .. } => "AddressReturned",
            Event::AddressUsable { .. } => "AddressUsable",
            Event::MigrateCommand { .. } => "MigrateCommand",
            Event::MsynHeard { .. } => "MsynHeard",
            Event::MsynAckHeard { .. } => "MsynAckHeard",
            Event::RelayNamed { .. } => "RelayNamed",
            Event::RelayAnswered { .. } => "RelayAnswered",
            Event::RelayedAckHeard { .. } => "RelayedAckHeard",
            Event::Committed { .. } => "Committed",
            Event::PeerSegmentOn { .. } => "PeerSegmentOn",
            Event::StrangeSynAck { .. } => "StrangeSynAck",
            Event::RetransmissionTimeout => "RetransmissionTimeout",
            Event::ProbeUnanswered => "ProbeUnanswered",
            Event::Progress => "Progress",
            Event::ResetHeard { .. } => "ResetHeard",
            Event::ResetAnswer(_) => "ResetAnswer",
            Event::MigrateResetHeard => "MigrateResetHeard",
            Event::LocalClose { .. } => "LocalClose",
            Event::KeysGone => "KeysGone",
            Event::TimerFired => "TimerFired",
        }
    }
}

impl Action {
    /// The variant's name.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Park { .. } => "Park",
            Action::StoreReqNo { .. } => "StoreReqNo",
            Action::StoreKnown { .. } => "StoreKnown",
            Action::SendMsyn { .. } => "SendMsyn",
            Action::InstallAnswered { .. } => "InstallAnswered",
            Action::SendMsynAck { .. } => "SendMsynAck",
            Action::Commit { .. } => "Commit",
            Action::SendMigrateAck { .. } => "SendMigrateAck",
            Action::Kick { .. } => "Kick",
            Action::Confirmed { .. } => "Confirmed",
            Action::Forget { .. } => "Forget",
            Action::Linger { .. } => "Linger",
            Action::RetireTokens { .. } => "RetireTokens",
            Action::RaiseTimeouts => "RaiseTimeouts",
            Action::RestoreTimeouts => "RestoreTimeouts",
            Action::MarkSuspect => "MarkSuspect",
            Action::AskPeerAboutReset => "AskPeerAboutReset",
            Action::DeliverReset => "DeliverReset",
            Action::DropReset => "DropReset",
            Action::SendMigrateReset { .. } => "SendMigrateReset",
            Action::SendReset { .. } => "SendReset",
            Action::AskForEndpoint { .. } => "AskForEndpoint",
            Action::Tombstone { .. } => "Tombstone",
            Action::Report(_) => "Report",
            Action::WakeAt(..) => "WakeAt",
            Action::Release => "Release",
            Action::Bury => "Bury",
            Action::Refuse(_) => "Refuse",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Action::Park { req_no, wire } => write!(f, " {req_no} {wire}"),
            Action::StoreReqNo { req_no }
            | Action::StoreKnown { req_no }
            | Action::Kick { req_no }
            | Action::Confirmed { req_no } => write!(f, " {req_no}"),
            Action::SendMsyn {
                from,
                to,
                req_no,
                token_of,
                seq,
                tries,
                ..
            } => {
                write!(
                    f,
                    " {req_no} {from} > {to} token of {token_of} seq {seq} try {tries}"
                )
            }
            Action::InstallAnswered { req_no, tuple, .. } => write!(f, " {req_no} {tuple}"),
            Action::SendMsynAck {
                from,
                to,
                req_no,
                token_of,
                seq,
                ack,
                ..
            } => {
                write!(
                    f,
                    " {req_no} {from} > {to} token of {token_of} seq {seq} ack {ack}"
                )
            }
            Action::Commit { req_no, wire } => write!(f, " {req_no} {wire}"),
            Action::SendMigrateAck {
                from,
                to,
                req_no,
                token_of,
                seq,
                ack,
            } => {
                write!(
                    f,
                    " {req_no} {from} > {to} token of {token_of} seq {seq} ack {ack}"
                )
            }
            Action::Forget { req_no, tuple } => write!(f, " {req_no} {tuple}"),
            Action::Linger { req_no, tuple, until } => write!(f, " {req_no} {tuple} until {until}"),
            Action::RetireTokens { below } => write!(f, " below {below}"),
            Action::SendMigrateReset { from, to, token_of } => {
                write!(f, " {from} > {to} token of {token_of}")
            }
            Action::SendReset { from, to, seq } => write!(f, " {from} > {to} seq {seq}"),
            Action::AskForEndpoint {
                address,
                candidates,
                why,
            } => {
                write!(f, " {address} to {candidates:?}: {why:?}")
            }
            Action::Tombstone { until } => write!(f, " until {until}"),
            Action::Report(report) => write!(f, ": {report}"),
            Action::WakeAt(at, why) => write!(f, " {at}: {why}"),
            Action::Refuse(refusal) => write!(f, ": {refusal}"),
            Action::RaiseTimeouts
            | Action::RestoreTimeouts
            | Action::MarkSuspect
            | Action::AskPeerAboutReset
            | Action::DeliverReset
            | Action::DropReset
            | Action::Release
            | Action::Bury => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Changed { from, to } => write!(f, "{from} -> {to}"),
            Report::Unanswered { req_no } => write!(f, "attempt {req_no} is not answered"),
            Report::Withdrawn { req_no } => write!(f, "attempt {req_no} is withdrawn"),
            Report::ResetUndecided => f.write_str("nobody could say whose reset it was; it was delivered"),
            Report::TimedOut { reason } => write!(f, "waited too long ({reason}); the connection was reset"),
            Report::PeerReset => f.write_str("the peer has reset the connection"),
        }
    }
}

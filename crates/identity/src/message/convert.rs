//! Between the generated messages and checked values.

use std::net::IpAddr;
use std::time::Duration;

use proto::pair::v1 as pb;
use proto::pair::v1::envelope::Body;
use uuid::Uuid;
use wire::{Endpoint, Tuple};

use super::{
    Enrol, EnrolSecret, EnrolStep, Facts, Frame, MAX_ADDRESSES, MAX_SERVERS, MAX_URL, Message, MessageError,
    PROTOCOL_VERSION, RefuseReason, ResetVerdict,
};
use crate::pair::{Abilities, SleepHint};

impl From<Frame> for Body {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Hello(facts) => Body::Hello(pb::Hello {
                facts: Some(facts.into()),
            }),
            Frame::Welcome { facts, pair_id } => Body::Welcome(pb::Welcome {
                facts: Some(facts.into()),
                pair_id: pair_id.as_bytes().to_vec(),
            }),
            Frame::Confirm { mac } => Body::Confirm(pb::Confirm { mac: mac.to_vec() }),
            Frame::Refuse { reason, version } => Body::Refuse(pb::Refuse {
                reason: pb::refuse::Reason::from(reason).into(),
                version,
            }),
            Frame::Message(message) => message.into(),
        }
    }
}

impl TryFrom<Body> for Frame {
    type Error = MessageError;

    fn try_from(body: Body) -> Result<Self, MessageError> {
        Ok(match body {
            Body::Hello(hello) => Frame::Hello(
                hello
                    .facts
                    .ok_or(MessageError::Field("hello.facts"))?
                    .try_into()?,
            ),
            Body::Welcome(welcome) => Frame::Welcome {
                facts: welcome
                    .facts
                    .ok_or(MessageError::Field("welcome.facts"))?
                    .try_into()?,
                pair_id: uuid(&welcome.pair_id, "welcome.pair_id")?,
            },
            Body::Confirm(confirm) => Frame::Confirm {
                mac: array(&confirm.mac, "confirm.mac")?,
            },
            Body::Refuse(refuse) => Frame::Refuse {
                reason: match refuse.reason() {
                    pb::refuse::Reason::Version => RefuseReason::Version,
                    pb::refuse::Reason::Malformed => RefuseReason::Malformed,
                    pb::refuse::Reason::Myself => RefuseReason::Myself,
                    pb::refuse::Reason::Epoch => RefuseReason::Epoch,
                    pb::refuse::Reason::Confirm => RefuseReason::Confirm,
                    pb::refuse::Reason::Unspecified => return Err(MessageError::Field("refuse.reason")),
                },
                version: refuse.version,
            },
            Body::AskReset(ask) => Frame::Message(Message::AskReset {
                question: ask.question,
                isn_initiator: ask.isn_initiator,
                isn_acceptor: ask.isn_acceptor,
                tuple: tuple(ask.tuple, "ask_reset.tuple")?,
            }),
            Body::ResetAnswer(answer) => Frame::Message(Message::ResetAnswer {
                question: answer.question,
                verdict: match answer.verdict() {
                    pb::reset_answer::Verdict::Genuine => ResetVerdict::Genuine,
                    pb::reset_answer::Verdict::NotMine => ResetVerdict::NotMine,
                    pb::reset_answer::Verdict::Unknown => ResetVerdict::Unknown,
                    pb::reset_answer::Verdict::Unspecified => {
                        return Err(MessageError::Field("reset_answer.verdict"));
                    }
                },
            }),
            Body::ObservedTuple(observed) => Frame::Message(Message::ObservedTuple {
                isn_initiator: observed.isn_initiator,
                isn_acceptor: observed.isn_acceptor,
                req_no: observed.req_no,
                tuple: tuple(observed.tuple, "observed_tuple.tuple")?,
            }),
            Body::Unheard(unheard) => Frame::Message(Message::Unheard {
                isn_initiator: unheard.isn_initiator,
                isn_acceptor: unheard.isn_acceptor,
            }),
            Body::Enrol(enrol) => Frame::Message(Message::Enrol(enrol.try_into()?)),
            Body::KeysLost(lost) => Frame::Message(Message::KeysLost {
                highest_epoch: lost.highest_epoch,
            }),
            Body::GoingToSleep(sleep) => Frame::Message(Message::GoingToSleep {
                longest: Duration::from_secs(sleep.seconds.into()),
            }),
            Body::Ping(ping) => Frame::Message(Message::Ping { number: ping.number }),
            Body::Pong(pong) => Frame::Message(Message::Pong { number: pong.number }),
            Body::Bye(pb::Bye {}) => Frame::Message(Message::Bye),
        })
    }
}

impl From<Message> for Body {
    fn from(message: Message) -> Self {
        match message {
            Message::AskReset {
                question,
                isn_initiator,
                isn_acceptor,
                tuple,
            } => Body::AskReset(pb::AskReset {
                question,
                isn_initiator,
                isn_acceptor,
                tuple: Some(tuple_out(tuple)),
            }),
            Message::ResetAnswer { question, verdict } => Body::ResetAnswer(pb::ResetAnswer {
                question,
                verdict: match verdict {
                    ResetVerdict::Genuine => pb::reset_answer::Verdict::Genuine,
                    ResetVerdict::NotMine => pb::reset_answer::Verdict::NotMine,
                    ResetVerdict::Unknown => pb::reset_answer::Verdict::Unknown,
                }
                .into(),
            }),
            Message::ObservedTuple {
                isn_initiator,
                isn_acceptor,
                req_no,
                tuple,
            } => Body::ObservedTuple(pb::ObservedTuple {
                isn_initiator,
                isn_acceptor,
                req_no,
                tuple: Some(tuple_out(tuple)),
            }),
            Message::Unheard {
                isn_initiator,
                isn_acceptor,
            } => Body::Unheard(pb::Unheard {
                isn_initiator,
                isn_acceptor,
            }),
            Message::Enrol(enrol) => Body::Enrol(pb::Enrol {
                question: enrol.question,
                step: match enrol.step {
                    EnrolStep::Offer => pb::enrol::Step::Offer,
                    EnrolStep::Accept => pb::enrol::Step::Accept,
                    EnrolStep::Decline => pb::enrol::Step::Decline,
                }
                .into(),
                tuple: Some(tuple_out(enrol.tuple)),
                snd_una: enrol.snd_una,
                snd_nxt: enrol.snd_nxt,
                rcv_nxt: enrol.rcv_nxt,
                random: enrol.random.0.to_vec(),
            }),
            Message::KeysLost { highest_epoch } => Body::KeysLost(pb::KeysLost { highest_epoch }),
            Message::GoingToSleep { longest } => Body::GoingToSleep(pb::GoingToSleep {
                seconds: seconds(longest),
            }),
            Message::Ping { number } => Body::Ping(pb::Ping { number }),
            Message::Pong { number } => Body::Pong(pb::Pong { number }),
            Message::Bye => Body::Bye(pb::Bye {}),
        }
    }
}

impl TryFrom<pb::Enrol> for Enrol {
    type Error = MessageError;

    fn try_from(enrol: pb::Enrol) -> Result<Self, MessageError> {
        Ok(Self {
            question: enrol.question,
            step: match enrol.step() {
                pb::enrol::Step::Offer => EnrolStep::Offer,
                pb::enrol::Step::Accept => EnrolStep::Accept,
                pb::enrol::Step::Decline => EnrolStep::Decline,
                pb::enrol::Step::Unspecified => return Err(MessageError::Field("enrol.step")),
            },
            tuple: tuple(enrol.tuple, "enrol.tuple")?,
            snd_una: enrol.snd_una,
            snd_nxt: enrol.snd_nxt,
            rcv_nxt: enrol.rcv_nxt,
            random: EnrolSecret(array(&zeroize::Zeroizing::new(enrol.random), "enrol.random")?),
        })
    }
}

impl From<Facts> for pb::Facts {
    fn from(facts: Facts) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            agent_port: facts.agent_port.into(),
            direct_addresses: facts.direct_addresses.into_iter().map(address_out).collect(),
            observed: facts.observed.map(endpoint_out),
            servers: facts.servers,
            abilities: facts.abilities.0,
            random: facts.random.to_vec(),
            epoch: facts.epoch,
            known_pair_id: facts
                .known_pair_id
                .map_or_else(Vec::new, |id| id.as_bytes().to_vec()),
            sleep: Some(sleep_out(facts.sleep)),
        }
    }
}

impl TryFrom<pb::Facts> for Facts {
    type Error = MessageError;

    fn try_from(facts: pb::Facts) -> Result<Self, MessageError> {
        // First: another version may give every other field another meaning.
        if facts.version != PROTOCOL_VERSION {
            return Err(MessageError::Version {
                theirs: facts.version,
            });
        }
        if facts.direct_addresses.len() > MAX_ADDRESSES {
            return Err(MessageError::Field("facts.direct_addresses (too many)"));
        }
        if facts.servers.len() > MAX_SERVERS {
            return Err(MessageError::Field("facts.servers (too many)"));
        }
        if !facts.servers.iter().all(|url| is_url(url)) {
            return Err(MessageError::Field("facts.servers"));
        }
        if facts.epoch == 0 {
            return Err(MessageError::Field("facts.epoch"));
        }
        let direct_addresses = facts
            .direct_addresses
            .iter()
            .map(|bytes| host_address(bytes))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            agent_port: port(facts.agent_port, "facts.agent_port")?,
            direct_addresses,
            observed: facts
                .observed
                .map(|seen| endpoint(seen, "facts.observed"))
                .transpose()?,
            servers: facts.servers,
            abilities: Abilities(facts.abilities),
            random: array(&facts.random, "facts.random")?,
            epoch: facts.epoch,
            known_pair_id: match facts.known_pair_id.as_slice() {
                [] => None,
                bytes => Some(uuid(bytes, "facts.known_pair_id")?),
            },
            sleep: sleep(facts.sleep),
        })
    }
}

/// Whether a text can be a server's URL: short, printable, nothing that a log or a terminal would act on.
pub(crate) fn is_url(url: &str) -> bool {
    (1..=MAX_URL).contains(&url.len()) && url.bytes().all(|b| b.is_ascii_graphic())
}

impl From<RefuseReason> for pb::refuse::Reason {
    fn from(reason: RefuseReason) -> Self {
        match reason {
            RefuseReason::Version => Self::Version,
            RefuseReason::Malformed => Self::Malformed,
            RefuseReason::Myself => Self::Myself,
            RefuseReason::Epoch => Self::Epoch,
            RefuseReason::Confirm => Self::Confirm,
        }
    }
}

pub(crate) fn array<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], MessageError> {
    bytes.try_into().map_err(|_| MessageError::Field(field))
}

pub(crate) fn uuid(bytes: &[u8], field: &'static str) -> Result<Uuid, MessageError> {
    array(bytes, field).map(Uuid::from_bytes)
}

pub(crate) fn port(port: u32, field: &'static str) -> Result<u16, MessageError> {
    port.try_into().map_err(|_| MessageError::Field(field))
}

pub(crate) fn address(bytes: &[u8], field: &'static str) -> Result<IpAddr, MessageError> {
    let address = match bytes.len() {
        4 => IpAddr::from(array::<4>(bytes, field)?),
        _ => IpAddr::from(array::<16>(bytes, field)?),
    };
    Ok(address.to_canonical())
}

/// An address that a host can have.
pub(crate) fn host_address(bytes: &[u8]) -> Result<IpAddr, MessageError> {
    let address = address(bytes, "facts.direct_addresses")?;
    match address.is_unspecified() || address.is_multicast() {
        true => Err(MessageError::Field("facts.direct_addresses")),
        false => Ok(address),
    }
}

pub(crate) fn endpoint(endpoint: pb::Endpoint, field: &'static str) -> Result<Endpoint, MessageError> {
    Ok(Endpoint::new(
        address(&endpoint.address, field)?,
        port(endpoint.port, field)?,
    ))
}

fn tuple(tuple: Option<pb::Tuple>, field: &'static str) -> Result<Tuple, MessageError> {
    let tuple = tuple.ok_or(MessageError::Field(field))?;
    let end = |end: Option<pb::Endpoint>| endpoint(end.ok_or(MessageError::Field(field))?, field);
    Ok(Tuple::new(end(tuple.local)?, end(tuple.remote)?))
}

pub(crate) fn sleep(hint: Option<pb::SleepHint>) -> SleepHint {
    hint.map_or_else(SleepHint::default, |hint| SleepHint {
        may_sleep: hint.may_sleep,
        longest: Duration::from_secs(hint.longest_seconds.into()),
    })
}

pub(crate) fn address_out(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(crate) fn endpoint_out(endpoint: Endpoint) -> pb::Endpoint {
    pb::Endpoint {
        address: address_out(endpoint.address),
        port: endpoint.port.into(),
    }
}

fn tuple_out(tuple: Tuple) -> pb::Tuple {
    pb::Tuple {
        local: Some(endpoint_out(tuple.local)),
        remote: Some(endpoint_out(tuple.remote)),
    }
}

pub(crate) fn sleep_out(hint: SleepHint) -> pb::SleepHint {
    pb::SleepHint {
        may_sleep: hint.may_sleep,
        longest_seconds: seconds(hint.longest),
    }
}

fn seconds(duration: Duration) -> u32 {
    duration.as_secs().try_into().unwrap_or(u32::MAX)
}

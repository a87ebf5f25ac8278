//! Connections older than the agents, and those whose options got lost on the way.
//!
//! Whoever opened the line to a peer's agent lists its plain connections with that host and offers them, each by its
//! tuple and sequence numbers. The other finds the socket that fits (a NAPT in between may have changed the tuple of
//! the one behind it, never the numbers), and from then on both hold a connection like any other, keyed by what both
//! drew for it. The names of such a connection are drawn as well: nobody remembers its initial sequence numbers.
//!
//! A host with which no connection ever offered anything is asked for an agent only where the configuration names
//! it: ever less often, down to once an hour.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use datapath::{Datapath, TcpState as Numbers};
use identity::message::{Enrol, EnrolSecret, EnrolStep};
use identity::{Abilities, Message};
use migration::{Event, TcpState, Timestamp};
use uuid::Uuid;
use wire::keys::{ConnectionKeys, PairKey, Role};
use wire::tuple::Tuple;
use zeroize::Zeroizing;

use super::*;
use crate::config::{EnrolWord, OfferedPrefix};

/// How often plain connections are listed, where there are few: one that got no offer through, because a path had been gone
/// while it was set up, is without protection until then.
const LISTING: Duration = Duration::from_secs(1);
/// Listing looks at every socket. So many plain connections make it rarer by as much again, up to a point.
const FEW: usize = 400;
const RAREST: u32 = 60;
/// After a line has opened, the first time.
const SOON: Duration = Duration::from_millis(200);
/// How old a list may be that offers are compared with.
const FRESH: Duration = Duration::from_millis(500);
/// How soon the same connection is offered again.
const OFFER_AGAIN: Duration = Duration::from_secs(30);
/// How soon the same host is asked again for an agent: its agent may start a little after this one ...
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// ... twice as late each time, up to this.
const ASK_RARELY: Duration = Duration::from_secs(3600);
/// How far numbers may have run while an offer was on its way, in bytes.
const RUN: u32 = 8 << 20;
/// Offers that wait for an answer.
const MOST_OFFERS: usize = 128;

/// Which older connections are taken up, and what is under way.
#[derive(Debug, Default)]
pub struct Enrolment {
    /// What is configured.
    pub word: EnrolWord,
    /// The prefixes of `offer`.
    pub prefixes: Vec<OfferedPrefix>,
    /// The port on which other hosts' agents are looked for.
    pub agent_port: u16,
    next_listing: Timestamp,
    listed: Option<(Timestamp, Vec<Tuple>)>,
    offered: HashMap<Tuple, Timestamp>,
    pending: HashMap<u64, (Tuple, EnrolSecret)>,
    /// When each host was asked last, and how long it is left alone after that.
    asked: HashMap<IpAddr, (Timestamp, Duration)>,
}

impl Enrolment {
    fn names(&self, address: IpAddr) -> bool {
        let covers = |prefix: IpAddr, length: u8| match (prefix, address) {
            (IpAddr::V4(prefix), IpAddr::V4(address)) => {
                (u32::from(prefix) ^ u32::from(address))
                    .checked_shr(32 - u32::from(length))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(prefix), IpAddr::V6(address)) => {
                (u128::from(prefix) ^ u128::from(address))
                    .checked_shr(128 - u32::from(length))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        };
        self.prefixes
            .iter()
            .filter(|(prefix, length, _)| covers(*prefix, *length))
            .max_by_key(|(_, length, _)| *length)
            .is_some_and(|(.., offered)| *offered)
    }
}

impl<D: Datapath> Agent<D> {
    /// A line has opened: its peer may have older connections with us.
    pub(super) fn enrol_soon(&mut self, now: Timestamp) {
        self.enrolment.next_listing = self.enrolment.next_listing.min(now + SOON);
    }

    /// Lists plain connections when it is time, and offers them to the peers they are with.
    pub(super) fn enrol_due(&mut self, now: Timestamp) {
        if self.enrolment.word == EnrolWord::None || now < self.enrolment.next_listing {
            return;
        }
        self.enrolment.next_listing = now + LISTING;
        self.enrolment
            .offered
            .retain(|_, at| now.since(*at) < OFFER_AGAIN);
        self.enrolment
            .asked
            .retain(|_, (at, _)| now.since(*at) < ASK_RARELY * 2);
        self.enrolment.pending.clear();
        self.note_closed(now);
        if !self.anybody_to_ask() {
            return;
        }
        let plain = self.plain(now);
        let rarer = 1 + u32::try_from(plain.len() / FEW).unwrap_or(u32::MAX - 1);
        self.enrolment.next_listing = now + LISTING * rarer.min(RAREST);
        for identity in plain {
            let peer = identity.remote.address;
            if self.network.device_of(identity.local.address).is_none() {
                continue;
            }
            let lines: Vec<Uuid> = self.lines.open_ids();
            let with = lines.into_iter().find(|pair_id| {
                let known = self.pairs.by_id(pair_id);
                known.is_some_and(|pair| {
                    pair.peer_observed.address == peer || pair.peer_direct_addresses.contains(&peer)
                })
            });
            match with {
                Some(pair_id) => self.offer_enrolment(pair_id, identity, now),
                None => self.ask_for_an_agent(peer, now),
            }
        }
    }

    /// Whether anybody is known, or named, who might take a connection up.
    fn anybody_to_ask(&self) -> bool {
        let named = || self.enrolment.prefixes.iter().any(|(.., offered)| *offered);
        self.pairs.all().next().is_some() || (self.enrolment.word == EnrolWord::Offered && named())
    }

    fn plain(&mut self, now: Timestamp) -> Vec<Tuple> {
        let fresh = self
            .enrolment
            .listed
            .as_ref()
            .is_some_and(|(at, _)| now.since(*at) < FRESH);
        if !fresh {
            self.enrolment.listed = Some((now, self.datapath.plain()));
        }
        self.enrolment
            .listed
            .as_ref()
            .map(|(_, listed)| listed.clone())
            .unwrap_or_default()
    }

    /// Sockets whose end nobody has told: they may be outside the cgroup that is watched.
    fn note_closed(&mut self, now: Timestamp) {
        let enrolled: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| managed.flags.enrolled && managed.is_live())
            .map(|managed| managed.identity)
            .collect();
        for identity in enrolled {
            if matches!(self.datapath.read_tcp(&identity), Ok(None)) {
                let closed = Event::LocalClose {
                    tcp_state: TcpState::Closed,
                    reset: false,
                };
                self.advance(identity, closed, now);
            }
        }
    }

    fn offer_enrolment(&mut self, pair_id: Uuid, identity: Tuple, now: Timestamp) {
        let able = self
            .pairs
            .by_id(&pair_id)
            .is_some_and(|pair| pair.abilities.has(Abilities::ENROL));
        let dialled = self.lines.line(&pair_id).is_some_and(|line| line.dialled);
        if !able
            || !dialled
            || self.enrolment.offered.contains_key(&identity)
            || self.enrolment.pending.len() >= MOST_OFFERS
        {
            if self.enrolment.pending.len() >= MOST_OFFERS {
                self.enrolment.next_listing = now + SOON * 5;
            }
            return;
        }
        let Ok(Some(tcp)) = self.datapath.read_tcp(&identity) else {
            return;
        };
        let (question, random) = (rand::random(), EnrolSecret(rand::random()));
        let offer = enrol(question, EnrolStep::Offer, identity, &tcp, random.clone());
        if self.lines.say(&pair_id, offer) {
            self.enrolment.offered.insert(identity, now);
            self.enrolment.pending.insert(question, (identity, random));
        }
    }

    /// Where the configuration names a host, its agent is looked for.
    fn ask_for_an_agent(&mut self, peer: IpAddr, now: Timestamp) {
        let port = self.enrolment.agent_port;
        let known = !self.pairs.of(peer, port).is_empty();
        let named = self.enrolment.word == EnrolWord::Offered && self.enrolment.names(peer);
        let asked = self.enrolment.asked.get(&peer).copied();
        if port == 0
            || !(known || named)
            || asked.is_some_and(|(at, pause)| now.since(at) < pause)
            || self.network.device_of(peer).is_some()
        {
            return;
        }
        let pause = asked.map_or(ASK_AGAIN, |(_, pause)| (pause * 2).min(ASK_RARELY));
        self.enrolment.asked.insert(peer, (now, pause));
        self.timeline.count("agent_looked_for");
        let peer = SocketAddr::new(peer, port);
        self.effects.push(match known {
            false => Effect::Dial(peer),
            // The keys are known, the line is closed.
            true => Effect::DialAgain(peer),
        });
    }

    /// A peer said something about a connection that neither offered.
    pub(super) fn enrolment_heard(&mut self, pair_id: Uuid, heard: Enrol, now: Timestamp) {
        match heard.step {
            EnrolStep::Offer => self.enrolment_offered(pair_id, heard, now),
            EnrolStep::Accept => {
                let Some((identity, random)) = self.enrolment.pending.remove(&heard.question) else {
                    return self.timeline.count("answer_without_question");
                };
                self.enrolled(pair_id, identity, Role::Initiator, &random, &heard.random);
            }
            EnrolStep::Decline => {
                self.enrolment.pending.remove(&heard.question);
                self.timeline.count("enrolment_declined");
            }
        }
    }

    fn enrolment_offered(&mut self, pair_id: Uuid, heard: Enrol, now: Timestamp) {
        let fitting = match self.enrolment.word {
            EnrolWord::None => None,
            _ => self.fitting(pair_id, &heard, now),
        };
        let random = EnrolSecret(rand::random());
        let Some((identity, tcp)) = fitting else {
            let declined = Enrol {
                step: EnrolStep::Decline,
                random,
                ..heard
            };
            self.lines.say(&pair_id, Message::Enrol(declined));
            return;
        };
        // An earlier offer whose answer got lost: begun anew.
        self.bury(identity);
        let accepted = enrol(heard.question, EnrolStep::Accept, identity, &tcp, random.clone());
        if self.lines.say(&pair_id, accepted) {
            self.enrolled(pair_id, identity, Role::Acceptor, &heard.random, &random);
        }
    }

    /// Our socket that fits an offer, if exactly one does.
    fn fitting(&mut self, pair_id: Uuid, heard: &Enrol, now: Timestamp) -> Option<(Tuple, Numbers)> {
        let pair = self.pairs.by_id(&pair_id)?;
        let theirs = heard.tuple.reversed();
        let (peer_moved, self_moved) = (pair.peer_behind_napt, pair.self_behind_napt);
        let seen = pair.peer_observed.address;
        let fits = |ours: &Tuple| {
            let local = ours.local == theirs.local || (self_moved && ours.local.port == theirs.local.port);
            let remote = ours.remote == theirs.remote || (peer_moved && ours.remote.address == seen);
            local && remote
        };
        let mut known = self.plain(now);
        // Those that were taken up already and have never been used may be offered again.
        known.extend(
            self.sessions
                .values()
                .filter(|managed| {
                    managed.flags.enrolled
                        && managed.keys().pair_id == pair_id
                        && managed.machine.highest_seen() == wire::ReqNo::UNMOVED
                })
                .map(|managed| managed.identity),
        );
        known.retain(|ours| fits(ours));
        let mut found = Vec::new();
        for identity in known {
            let Ok(Some(tcp)) = self.datapath.read_tcp(&identity) else {
                continue;
            };
            let sent = distance(tcp.snd_una, heard.rcv_nxt);
            let received = distance(tcp.rcv_nxt, heard.snd_nxt);
            if sent <= RUN && received <= RUN {
                found.push((identity, tcp));
            }
        }
        found.dedup_by_key(|(identity, _)| *identity);
        match found.len() {
            1 => found.pop(),
            _ => None,
        }
    }

    fn enrolled(
        &mut self,
        pair_id: Uuid,
        identity: Tuple,
        role: Role,
        offered: &EnrolSecret,
        accepted: &EnrolSecret,
    ) {
        let Some(epoch) = self.pairs.by_id(&pair_id).map(|pair| pair.epoch) else {
            return;
        };
        let mut both = Zeroizing::new([0; 32]);
        both[..16].copy_from_slice(&offered.0);
        both[16..].copy_from_slice(&accepted.0);
        let name = |random: &EnrolSecret| u32::from_be_bytes(std::array::from_fn(|i| random.0[i]));
        let isns = (name(offered), name(accepted));
        let keys = ConnectionKeys::derive(&PairKey::new(*both), 0, isns.0, isns.1);
        let set = KeySet { keys, pair_id, epoch };
        let policy = self.policy_with(&pair_id);
        self.bury(identity);
        let mut managed = Managed::new(identity, role, isns, vec![set], policy);
        managed.flags.enrolled = true;
        managed.proven = true;
        self.hold(managed);
        self.settle(identity);
        if self.stays_plain(identity) {
            return;
        }
        self.ask_for_walk();
        self.timeline
            .note(identity, "enrolled_late", "it had offered nothing");
        if !matches!(self.datapath.read_tcp(&identity), Ok(Some(_))) {
            self.bury(identity);
        }
    }
}

fn enrol(question: u64, step: EnrolStep, tuple: Tuple, tcp: &Numbers, random: EnrolSecret) -> Message {
    Message::Enrol(Enrol {
        question,
        step,
        tuple,
        snd_una: tcp.snd_una,
        snd_nxt: tcp.snd_nxt,
        rcv_nxt: tcp.rcv_nxt,
        random,
    })
}

/// How far two sequence numbers are from each other, whichever is ahead.
fn distance(a: u32, b: u32) -> u32 {
    a.wrapping_sub(b).min(b.wrapping_sub(a))
}

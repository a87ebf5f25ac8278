//! What agents tell each other over a line about single connections.

use datapath::Datapath;
use identity::Message;
use identity::message::ResetVerdict;
use migration::{Event, ResetAnswer, State, Timestamp};
use uuid::Uuid;
use wire::reqno::ReqNo;
use wire::tuple::Tuple;

use super::heartbeat::QUIET;
use super::*;

impl<D: Datapath> Agent<D> {
    /// A peer said something about a connection.
    pub(super) fn said(&mut self, pair_id: Uuid, message: Message, now: Timestamp) {
        match message {
            Message::AskReset {
                question,
                isn_initiator,
                isn_acceptor,
                tuple: _,
            } => {
                let verdict = self.judge(pair_id, (isn_initiator, isn_acceptor), now);
                self.lines
                    .say(&pair_id, Message::ResetAnswer { question, verdict });
            }
            Message::ResetAnswer { question, verdict } => {
                let asked = self
                    .sessions
                    .values()
                    .find(|managed| managed.question == Some(question) && managed.keys().pair_id == pair_id)
                    .map(|managed| managed.identity);
                match asked {
                    Some(identity) => self.verdict(identity, verdict, now),
                    None => self.timeline.count("answer_without_question"),
                }
            }
            Message::Unheard {
                isn_initiator,
                isn_acceptor,
            } => {
                if let Some(identity) = self.named(pair_id, (isn_initiator, isn_acceptor)) {
                    self.repair(identity, "the peer is not heard here", now);
                }
            }
            Message::ObservedTuple {
                isn_initiator,
                isn_acceptor,
                req_no,
                tuple,
            } => {
                if let Some(identity) = self.named(pair_id, (isn_initiator, isn_acceptor)) {
                    self.compare(identity, ReqNo(req_no), tuple);
                }
            }
            Message::GoingToSleep { longest } => self.peer_sleeps(pair_id, longest, now),
            Message::Enrol(heard) => self.enrolment_heard(pair_id, heard, now),
            _ => self.timeline.count("line_message_unused"),
        }
    }

    /// The connection that a peer names by its initial sequence numbers; one with another peer is none.
    fn named(&self, pair_id: Uuid, isns: (u32, u32)) -> Option<Tuple> {
        self.sessions
            .values()
            .find(|managed| {
                managed.isns == isns && managed.candidates.iter().any(|set| set.pair_id == pair_id)
            })
            .map(|managed| managed.identity)
    }

    /// Whether a reset that the peer holds is ours.
    fn judge(&mut self, pair_id: Uuid, isns: (u32, u32), now: Timestamp) -> ResetVerdict {
        let Some(identity) = self.named(pair_id, isns) else {
            return ResetVerdict::Unknown;
        };
        let ended = self
            .sessions
            .get(&identity)
            .is_none_or(|managed| matches!(managed.machine.state(), State::Closed | State::Buried));
        if ended || self.datapath.read_tcp(&identity).ok().flatten().is_none() {
            return ResetVerdict::Genuine;
        }
        self.reset_disowned(identity, now);
        ResetVerdict::NotMine
    }

    fn verdict(&mut self, identity: Tuple, verdict: ResetVerdict, now: Timestamp) {
        if let Some(managed) = self.sessions.get_mut(&identity) {
            managed.question = None;
        }
        let answer = match verdict {
            ResetVerdict::Genuine => ResetAnswer::Genuine,
            ResetVerdict::NotMine => ResetAnswer::NotMine,
            ResetVerdict::Unknown => ResetAnswer::Unknown,
        };
        self.reset_answered(identity, answer, now);
    }

    /// The peer has said whose a reset is, over a line or by a segment.
    pub(super) fn reset_answered(&mut self, identity: Tuple, answer: ResetAnswer, now: Timestamp) {
        let held = self
            .sessions
            .get(&identity)
            .is_some_and(|managed| managed.held_reset.is_some());
        self.advance(identity, Event::ResetAnswer(answer), now);
        if held && answer == ResetAnswer::NotMine {
            if let Some(managed) = self.sessions.get_mut(&identity) {
                managed.quiet_until = Some(now + QUIET);
            }
            self.reset_disowned(identity, now);
        }
    }

    /// Asks the peer over the line about a reset that is held; by segment it is asked as well.
    pub(crate) fn ask_about_reset(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let question = *managed.question.get_or_insert_with(rand::random);
        self.lines.say(
            &managed.keys().pair_id,
            Message::AskReset {
                question,
                isn_initiator: managed.isns.0,
                isn_acceptor: managed.isns.1,
                tuple: managed.machine.wire(),
            },
        );
    }

    /// A line is open again: what was asked on the last one may have got lost.
    pub(super) fn ask_again(&mut self, pair_id: Uuid) {
        let held: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| managed.held_reset.is_some() && managed.keys().pair_id == pair_id)
            .map(|managed| managed.identity)
            .collect();
        held.into_iter()
            .for_each(|identity| self.ask_about_reset(identity));
    }

    /// Tells the peer on which tuple this end sees it since a resumption.
    pub(crate) fn tell_observed(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get(&identity) else {
            return;
        };
        self.lines.say(
            &managed.keys().pair_id,
            Message::ObservedTuple {
                isn_initiator: managed.isns.0,
                isn_acceptor: managed.isns.1,
                req_no: managed.machine.committed().0,
                tuple: managed.machine.wire(),
            },
        );
    }

    /// Compares what the peer sees with what this end sees. Addresses that differ are a NAPT's, or somebody's who
    /// sends the connection on: then the line, which goes past the same NAPT, is seen from elsewhere.
    fn compare(&mut self, identity: Tuple, req_no: ReqNo, theirs: Tuple) {
        let Some(managed) = self.sessions.get(&identity) else {
            return;
        };
        let (ours, pair_id) = (managed.machine.wire(), managed.keys().pair_id);
        if managed.machine.committed() != req_no {
            return self.timeline.count("observed_late");
        }
        let line_here = self.lines.line(&pair_id).map(|line| (line.local, line.peer.ip()));
        let Some((local, peer)) = line_here.filter(|(local, _)| *local == ours.local.address) else {
            return;
        };
        let seen = self
            .pairs
            .by_id(&pair_id)
            .map_or(local, |pair| pair.self_observed.address);
        let as_on_the_line = theirs.remote.address == seen && (ours.remote.address == peer);
        if as_on_the_line {
            return self.timeline.count("observed_agrees");
        }
        let detail = format!(
            "this end sees {ours}, the peer {theirs}, and their agents see each other at {seen} and {peer}"
        );
        tracing::warn!(connection = %identity, "somebody on the way changes addresses: {detail}");
        self.timeline.note(identity, "observed_differs", detail);
    }
}

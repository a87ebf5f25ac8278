//! The lines to peers' agents: open while a pair has connections, beating, opened again when they break.
//!
//! A line is a connection through the same NAPTs as the pair's other connections, and the only one that the agents
//! may disturb. Its dialler lets it beat. A beat that stays unanswered or is answered by a reset says that something
//! on the way has changed; when the next line opens where the last one died, the path works for whoever begins anew,
//! and the connections that have not gone on meanwhile are resumed from where they are (`repairing.rs`). A line that
//! the peer's agent closed in good order, or that went with our own address, says nothing of the kind.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use datapath::Datapath;
use identity::Message;
use migration::Timestamp;
use uuid::Uuid;
use wire::tuple::Tuple;

use super::*;
use crate::lines::{Ending, Line, LineEvent};

/// How long a beat may stay unanswered when there is a reason to doubt the path.
const DOUBTFUL: Duration = Duration::from_secs(1);
/// How often sessions are counted by pair.
const CENSUS: Duration = Duration::from_secs(1);
/// How long a line outlives the last connection that needs it.
const UNUSED: Duration = Duration::from_secs(20);
/// After our own move the connections come first, then the line.
const AFTER_A_MOVE: Duration = Duration::from_millis(300);
/// Longest wait between two tries to open a line.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A line that lived as long was no failure.
const LIVED: Duration = Duration::from_secs(10);
/// After a stranger's reset others are dropped unasked for so long.
pub(super) const QUIET: Duration = Duration::from_millis(250);

/// What is known of the line with one peer.
#[derive(Debug)]
struct Standing {
    line: Option<Line>,
    opened: Timestamp,
    /// The beat that is not answered yet: its number, when it went out, and how long that may last.
    beat: Option<(u64, Timestamp, Duration)>,
    next_beat: Timestamp,
    /// Why the last line ended, until there is another.
    broken: Option<Break>,
    /// Whether this end opens it.
    dials: bool,
    next_dial: Timestamp,
    tries: u32,
    /// Our address on the last line, and the one that the peer saw.
    observed: Option<(IpAddr, IpAddr)>,
    needed: Timestamp,
}

impl Standing {
    /// Intervals between two beats: who accepted a line beats only when the other does not.
    fn patience(&self) -> u32 {
        match &self.line {
            Some(line) if line.dialled => 1,
            _ => 4,
        }
    }
}

/// A line that broke without a word.
#[derive(Debug)]
struct Break {
    since: Timestamp,
    how: Ending,
    local: IpAddr,
    /// SND.UNA and RCV.NXT of the pair's connections then.
    stood: HashMap<Tuple, (u32, u32)>,
}

/// The lines, by pair.
#[derive(Debug, Default)]
pub struct Lines {
    standings: HashMap<Uuid, Standing>,
    next_census: Timestamp,
    beats: u64,
}

impl Lines {
    /// Says something to a peer; whether there is a line to say it on.
    pub fn say(&self, pair_id: &Uuid, message: Message) -> bool {
        self.standings
            .get(pair_id)
            .and_then(|standing| standing.line.as_ref())
            .is_some_and(|line| line.say(message))
    }

    /// Whether there is a line.
    pub fn is_open(&self, pair_id: &Uuid) -> bool {
        self.line(pair_id).is_some()
    }

    /// The line with a peer.
    pub fn line(&self, pair_id: &Uuid) -> Option<&Line> {
        self.standings.get(pair_id)?.line.as_ref()
    }

    /// The pairs that have one.
    pub fn open_ids(&self) -> Vec<Uuid> {
        self.standings
            .iter()
            .filter(|(_, standing)| standing.line.is_some())
            .map(|(pair_id, _)| *pair_id)
            .collect()
    }

    /// A pair is called otherwise from now on.
    pub(super) fn rename(&mut self, other: impl Fn(Uuid) -> bool, name: Uuid) {
        let others: Vec<Uuid> = self.standings.keys().copied().filter(|id| other(*id)).collect();
        for id in others {
            let Some(standing) = self.standings.remove(&id) else {
                continue;
            };
            let open = |standing: &Standing| standing.line.is_some();
            if self
                .standings
                .get(&name)
                .is_none_or(|known| !open(known) && open(&standing))
            {
                self.standings.insert(name, standing);
            }
        }
    }

    /// A pair is none any more: its line is closed.
    pub(super) fn close(&mut self, pair_id: &Uuid) {
        self.standings.remove(pair_id);
    }

    fn standing(&mut self, pair_id: Uuid, now: Timestamp) -> &mut Standing {
        self.standings.entry(pair_id).or_insert_with(|| Standing {
            line: None,
            opened: now,
            beat: None,
            next_beat: now,
            broken: None,
            dials: false,
            next_dial: now,
            tries: 0,
            observed: None,
            needed: now,
        })
    }
}

impl<D: Datapath> Agent<D> {
    /// What happened on a line.
    pub fn line_event(&mut self, event: LineEvent, now: Timestamp) {
        match event {
            LineEvent::Opened { pair_id, line } => {
                let name = self.pairs.name(pair_id);
                if self.pairs.by_id(&name).is_none() {
                    return self.timeline.count("line_without_pair");
                }
                // Of two exchanges that crossed both ends keep the line of the one that counts.
                if name == pair_id || !self.lines.is_open(&name) {
                    self.line_opened(name, line, now);
                }
            }
            LineEvent::Said {
                pair_id,
                serial,
                message,
            } => {
                let pair_id = self.pairs.name(pair_id);
                let current = self.lines.line(&pair_id).map(|line| line.serial);
                self.awake(pair_id, false, now);
                match message {
                    Message::Pong { number } if current == Some(serial) => {
                        self.beat_answered(pair_id, number, now);
                    }
                    Message::Ping { number } if current == Some(serial) => {
                        let interval = self.heartbeat.interval();
                        let standing = self.lines.standing(pair_id, now);
                        standing.next_beat = now + interval * standing.patience();
                        self.lines.say(&pair_id, Message::Pong { number });
                    }
                    Message::Ping { .. } | Message::Pong { .. } => {}
                    message => self.said(pair_id, message, now),
                }
            }
            LineEvent::Ended { pair_id, serial, how } => {
                let pair_id = self.pairs.name(pair_id);
                if self
                    .lines
                    .line(&pair_id)
                    .is_some_and(|line| line.serial == serial)
                {
                    self.line_broke(pair_id, how, now);
                }
            }
        }
        self.walk_if_due();
    }

    fn line_opened(&mut self, pair_id: Uuid, line: Line, now: Timestamp) {
        let observed = self.pairs.by_id(&pair_id).map(|pair| pair.self_observed.address);
        let interval = self.heartbeat.interval();
        let standing = self.lines.standing(pair_id, now);
        let (dialled, local) = (line.dialled, line.local);
        let seen = observed.map(|observed| (local, observed));
        // The same place, and it looks different from there: the NAPT is another one.
        let looks_different = matches!((standing.observed, seen), (Some(before), Some(now)) if before.0 == now.0 && before.1 != now.1);
        standing.observed = seen;
        standing.line = Some(line);
        standing.opened = now;
        standing.dials = dialled;
        standing.beat = None;
        standing.next_beat = now + interval * standing.patience();
        let broken = standing.broken.take();
        self.timeline.count("line_opened");
        match broken {
            Some(broken) if dialled && broken.local == local => {
                let detail = format!(
                    "the line to the peer's agent broke ({:?}) and opens again after {:.1} s{}",
                    broken.how,
                    now.since(broken.since).as_secs_f64(),
                    if looks_different {
                        ", under another public address"
                    } else {
                        ""
                    },
                );
                self.timeline.note("", "path_changed", detail);
                self.repair_all(pair_id, local, &broken.stood, now);
            }
            _ if dialled && looks_different => {
                self.timeline
                    .note("", "path_changed", "the peer sees another public address");
                self.repair_all(pair_id, local, &HashMap::new(), now);
            }
            _ => {}
        }
        self.awake(pair_id, true, now);
        self.ask_again(pair_id);
        self.enrol_soon(now);
    }

    /// What has to be known about a line that is no more.
    fn line_broke(&mut self, pair_id: Uuid, how: Ending, now: Timestamp) {
        let standing = self.lines.standing(pair_id, now);
        let Some(line) = standing.line.take() else { return };
        standing.beat = None;
        if now.since(standing.opened) > LIVED || how != Ending::Closed {
            standing.tries = 0;
        }
        standing.next_dial = now + wait(standing.tries);
        self.timeline.count(match how {
            Ending::Closed => "line_closed",
            Ending::Reset => "line_reset",
            Ending::Silent => "line_silent",
        });
        tracing::debug!(peer = %line.peer, ?how, "the line to a peer's agent ended");
        if how == Ending::Closed {
            return;
        }
        let stood = self.where_connections_stand(pair_id);
        let standing = self.lines.standing(pair_id, now);
        standing.broken = Some(Break {
            since: now,
            how,
            local: line.local,
            stood,
        });
        standing.next_dial = now;
        if line.dialled {
            self.open_line(pair_id, now);
        }
    }

    fn where_connections_stand(&mut self, pair_id: Uuid) -> HashMap<Tuple, (u32, u32)> {
        let mut stood = HashMap::new();
        for managed in self.sessions.values() {
            if !managed.is_live() || managed.keys().pair_id != pair_id {
                continue;
            }
            if let Ok(Some(tcp)) = self.datapath.read_tcp(&managed.identity) {
                stood.insert(managed.identity, (tcp.snd_una, tcp.rcv_nxt));
            }
        }
        stood
    }

    /// Ten times a second: beats that are due, beats that stay unanswered, lines that are to be opened.
    pub(super) fn beat(&mut self, now: Timestamp) {
        if now >= self.lines.next_census {
            self.lines.next_census = now + CENSUS;
            self.census(now);
        }
        let mut silent = Vec::new();
        let timeout = self.heartbeat.timeout();
        let beats = &mut self.lines.beats;
        for (pair_id, standing) in &mut self.lines.standings {
            let Some(line) = &standing.line else { continue };
            match standing.beat {
                Some((_, sent, patience)) if now.since(sent) > patience => silent.push(*pair_id),
                Some(_) => {}
                None if now >= standing.next_beat => {
                    *beats += 1;
                    line.say(Message::Ping { number: *beats });
                    standing.beat = Some((*beats, now, timeout));
                }
                None => {}
            }
        }
        for pair_id in silent {
            self.line_broke(pair_id, Ending::Silent, now);
        }
        let due: Vec<Uuid> = self
            .lines
            .standings
            .iter()
            .filter(|(_, standing)| standing.line.is_none() && now >= standing.next_dial)
            .map(|(pair_id, _)| *pair_id)
            .collect();
        due.into_iter().for_each(|pair_id| self.open_line(pair_id, now));
    }

    fn beat_answered(&mut self, pair_id: Uuid, number: u64, now: Timestamp) {
        let interval = self.heartbeat.interval();
        let standing = self.lines.standing(pair_id, now);
        if standing.beat.is_some_and(|(sent, ..)| sent == number) {
            standing.beat = None;
            standing.next_beat = now + interval * standing.patience();
            self.peer_is_there(pair_id, now);
        }
    }

    /// Which pairs have connections: theirs are the lines.
    fn census(&mut self, now: Timestamp) {
        // A port may be free by now.
        if std::mem::take(&mut self.ports_short) {
            self.effects.push(Effect::FindWaysOut);
        }
        let needed: HashSet<Uuid> = self
            .sessions
            .values()
            .filter(|managed| managed.is_live())
            .map(|managed| managed.keys().pair_id)
            .collect();
        for pair_id in &needed {
            if !self.lines.standings.contains_key(pair_id) {
                // An earlier agent had it, or it was closed for want of connections.
                let dials = self
                    .pairs
                    .by_id(pair_id)
                    .is_some_and(|pair| pair.established_by == identity::Role::Dialer);
                let patience = self.heartbeat.interval() * 3;
                let standing = self.lines.standing(*pair_id, now);
                standing.dials = dials;
                standing.next_dial = if dials { now } else { now + patience };
            }
            self.lines.standing(*pair_id, now).needed = now;
        }
        self.lines
            .standings
            .retain(|_, standing| now.since(standing.needed) < UNUSED);
    }

    /// Dials the peer's agent where the pair's connections lead.
    fn open_line(&mut self, pair_id: Uuid, now: Timestamp) {
        let Some(pair) = self.pairs.by_id(&pair_id) else {
            return;
        };
        let (port, behind_napt) = (pair.peer_agent_port, pair.peer_behind_napt);
        let patience = self.heartbeat.interval() * 3;
        let standing = self.lines.standing(pair_id, now);
        standing.next_dial = now + wait(standing.tries);
        if port == 0 || (!standing.dials && behind_napt) {
            standing.next_dial = now + patience;
            return;
        }
        standing.tries += 1;
        let peer = self
            .sessions
            .values()
            .find(|managed| managed.is_live() && managed.keys().pair_id == pair_id)
            // A proxy passes on nothing but connections.
            .filter(|managed| !managed.is_relayed())
            .map(|managed| managed.machine.wire().remote.address);
        if let Some(peer) = peer {
            self.effects.push(Effect::DialAgain(SocketAddr::new(peer, port)));
        }
    }

    /// Something about the path may have changed: a beat now, and less patience with it.
    pub(super) fn doubt_paths(&mut self, why: &str, now: Timestamp) {
        let beats = &mut self.lines.beats;
        for standing in self.lines.standings.values_mut() {
            let Some(line) = standing.line.as_ref().filter(|line| line.dialled) else {
                continue;
            };
            match &mut standing.beat {
                Some((_, _, patience)) => *patience = DOUBTFUL.min(*patience),
                None => {
                    *beats += 1;
                    line.say(Message::Ping { number: *beats });
                    standing.beat = Some((*beats, now, DOUBTFUL));
                }
            }
        }
        tracing::debug!(why, "paths are in doubt");
    }

    /// Lines from an address that is gone are gone too; nothing was wrong with the path.
    pub(super) fn lines_lose(&mut self, address: IpAddr, now: Timestamp) {
        for standing in self.lines.standings.values_mut() {
            if let Some(line) = standing.line.take_if(|line| line.local == address) {
                line.forsake();
                standing.beat = None;
                standing.dials = true;
                standing.next_dial = now + LONGEST_WAIT;
            }
        }
    }

    /// Whoever has moved opens the line again.
    pub(super) fn lines_return(&mut self, now: Timestamp) {
        for standing in self.lines.standings.values_mut() {
            if standing.line.is_none() {
                standing.tries = 0;
                standing.next_dial = now + AFTER_A_MOVE;
            }
        }
    }
}

fn wait(tries: u32) -> Duration {
    Duration::from_millis(500)
        .saturating_mul(1 << tries.min(8))
        .min(LONGEST_WAIT)
}

//! The book of leases: who may be relayed, on which port, and how far it is. No IO, no clock.
//!
//! 1. A ticket becomes a [`Lease`] ([`Leases::admit`]): signed for this proxy, in time, not used before, within the
//!    quotas, and a port is free.
//! 2. What the data path hears of it goes through its [`Splice`]; the caller does what that says.
//! 3. It ends ([`Leases::end`]). That its ticket was used is remembered until the ticket would have expired.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datapath::relay::{Knocked, LeaseId, LeaseNote, LegNote, NoteState};
use identity::ticket::{CLOCK_SLACK, Ticket, TicketRefusal, TicketVerifier};
use migration::proxy::{Knock, Leg, Splice};
use sha2::{Digest, Sha256};
use wire::keys::MacKey;
use wire::tuple::{Endpoint, Tuple};

use crate::config::{Config, Limits};
use crate::ports::Ports;

/// One of a lease's agents.
#[derive(Clone, Debug)]
pub struct LegState {
    /// Signs what the agent sends.
    pub to_proxy: MacKey,
    /// Signs what it is answered.
    pub to_agent: MacKey,
    /// A digest of its name.
    pub agent: [u8; 16],
    /// The address that its first MSYN must come from.
    pub expected: Option<IpAddr>,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The pair.
    pub pair: [u8; 16],
    /// Which of the pair's connections.
    pub label: u64,
    /// Until then both ends have to come; Unix seconds.
    pub expires: u64,
    /// A digest of the ticket.
    pub ticket: [u8; 32],
    /// Its agents.
    pub legs: [LegState; 2],
    /// Where each of them knocks.
    pub ends: [Endpoint; 2],
    /// How far it is.
    pub splice: Splice,
    /// Directions in the data path, each with its leg.
    pub installed: BTreeSet<(Tuple, Leg)>,
    /// CLOCK_MONOTONIC of the splice, nanoseconds.
    pub since_ns: u64,
    /// CLOCK_MONOTONIC of the server's release, nanoseconds.
    pub released_ns: Option<u64>,
}

/// Why a ticket is not honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum LeaseRefusal {
    #[error(transparent)]
    Ticket(#[from] TicketRefusal),
    #[error("the ticket was used before")]
    Replayed,
    #[error("an end is expected at an address for which this proxy does not relay (`refuse`)")]
    Target,
    #[error("an agent has as many connections here as it may (`limits.connections_of_agent`)")]
    Quota,
    #[error("no port is free at this proxy, or it has no address of the ends' families")]
    Exhausted,
    #[error("this proxy is being drained")]
    Draining,
}

impl LeaseRefusal {
    /// The stable name under which it is counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Ticket(refusal) => refusal.reason(),
            Self::Replayed => "ticket_replayed",
            Self::Target => "target_refused",
            Self::Quota => "quota",
            Self::Exhausted => "ports_exhausted",
            Self::Draining => "draining",
        }
    }
}

/// All of them.
pub struct Leases {
    held: HashMap<LeaseId, Lease>,
    ended: HashMap<LeaseId, u64>,
    of_agent: HashMap<[u8; 16], usize>,
    /// Their ports.
    pub ports: Ports,
    /// How many anybody may have.
    pub limits: Limits,
    /// Nothing new is taken.
    pub draining: bool,
}

/// What is known of a ticket beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// As the server names the lease.
    pub lease: &'a [u8],
    /// The ticket's bytes.
    pub ticket: &'a [u8],
    /// The signature over them.
    pub signature: &'a [u8],
}

impl Leases {
    /// None yet.
    pub fn new(ports: Ports, limits: Limits) -> Self {
        Self {
            held: HashMap::new(),
            ended: HashMap::new(),
            of_agent: HashMap::new(),
            ports,
            limits,
            draining: false,
        }
    }

    /// Takes a ticket; its lease may be held already, then nothing changes. Whether it is new, and the lease.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(
        &mut self,
        shown: Presented<'_>,
        verifier: &TicketVerifier,
        me: &str,
        config: &Config,
        now: SystemTime,
        seed: u64,
    ) -> Result<(bool, &Lease), LeaseRefusal> {
        let ticket = verifier.verify(shown.ticket, shown.signature, me, now)?;
        if ticket.lease != shown.lease {
            return Err(TicketRefusal::Malformed.into());
        }
        let digest: [u8; 32] = Sha256::digest(shown.ticket).into();
        let id = ticket.lease;
        if let Some(known) = self.held.get(&id) {
            if known.ticket != digest {
                return Err(LeaseRefusal::Replayed);
            }
            return Ok((false, &self.held[&id]));
        }
        if self.ended.contains_key(&id) {
            return Err(LeaseRefusal::Replayed);
        }
        if self.draining {
            return Err(LeaseRefusal::Draining);
        }
        let lease = self.open(ticket, digest, config, seed)?;
        self.count(&lease, true);
        Ok((true, self.held.entry(id).or_insert(lease)))
    }

    fn open(
        &mut self,
        ticket: Ticket,
        digest: [u8; 32],
        config: &Config,
        seed: u64,
    ) -> Result<Lease, LeaseRefusal> {
        let expected = ticket.legs.each_ref().map(|leg| leg.expected);
        let owned = |address: IpAddr| self.ports.addresses().contains(&address);
        if expected
            .iter()
            .flatten()
            .any(|address| config.refuses(*address) || owned(*address))
        {
            return Err(LeaseRefusal::Target);
        }
        let legs = ticket.legs.each_ref().map(|leg| LegState {
            to_proxy: leg.key.to_proxy(),
            to_agent: leg.key.to_agent(),
            agent: short_digest(&leg.agent),
            expected: leg.expected,
        });
        let many = |leg: &LegState| {
            self.of_agent.get(&leg.agent).copied().unwrap_or(0) >= self.limits.connections_of_agent
        };
        if legs.iter().any(many) {
            return Err(LeaseRefusal::Quota);
        }
        if self.held.len() >= self.limits.connections {
            return Err(LeaseRefusal::Exhausted);
        }
        let any = self.ports.addresses().iter().any(IpAddr::is_ipv4);
        let ipv4 = expected.map(|address| address.map_or(any, |address| address.is_ipv4()));
        let ends = self
            .ports
            .take(ipv4, &ticket.pair, seed)
            .ok_or(LeaseRefusal::Exhausted)?;
        Ok(Lease {
            id: ticket.lease,
            pair: ticket.pair,
            label: ticket.label,
            expires: unix(ticket.expires),
            ticket: digest,
            legs,
            ends,
            splice: Splice::new(),
            installed: BTreeSet::new(),
            since_ns: 0,
            released_ns: None,
        })
    }

    fn count(&mut self, lease: &Lease, more: bool) {
        for leg in &lease.legs {
            let count = self.of_agent.entry(leg.agent).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.of_agent.remove(&leg.agent);
            }
        }
    }

    /// What an earlier run has left.
    pub fn adopt(&mut self, id: LeaseId, note: &LeaseNote) {
        if note.state == NoteState::Ended {
            self.ended.insert(id, note.expires_unix_seconds);
            return;
        }
        let heard = note.legs.each_ref().map(|leg| {
            let (knocked, outside) = leg.heard.as_ref()?;
            knock(knocked, *outside)
        });
        let lease = Lease {
            id,
            pair: note.pair,
            label: note.label,
            expires: note.expires_unix_seconds,
            ticket: note.ticket,
            legs: note.legs.each_ref().map(|leg| LegState {
                to_proxy: leg.to_proxy.clone(),
                to_agent: leg.to_agent.clone(),
                agent: leg.agent,
                expected: leg.expected,
            }),
            ends: note.legs.each_ref().map(|leg| leg.wire.local),
            splice: Splice::adopted(heard, note.state == NoteState::Spliced),
            installed: BTreeSet::new(),
            since_ns: note.since_ns,
            released_ns: note.released_ns,
        };
        self.ports.keep(lease.ends);
        self.count(&lease, true);
        self.held.insert(id, lease);
    }

    /// Its port is free again; gives back what it was.
    pub fn end(&mut self, id: &LeaseId) -> Option<Lease> {
        let lease = self.held.remove(id)?;
        self.ports.free(lease.ends);
        self.count(&lease, false);
        self.ended.insert(*id, lease.expires);
        Some(lease)
    }

    /// Tickets that have expired need no remembering; gives the names that are forgotten.
    pub fn forget_expired(&mut self, now: SystemTime) -> Vec<LeaseId> {
        let past = |expires: u64| UNIX_EPOCH + Duration::from_secs(expires) + 2 * CLOCK_SLACK < now;
        let old: Vec<LeaseId> = self
            .ended
            .iter()
            .filter(|(_, expires)| past(**expires))
            .map(|(id, _)| *id)
            .collect();
        for id in &old {
            self.ended.remove(id);
        }
        old
    }

    /// One of them.
    pub fn get(&self, id: &LeaseId) -> Option<&Lease> {
        self.held.get(id)
    }

    /// One of them.
    pub fn get_mut(&mut self, id: &LeaseId) -> Option<&mut Lease> {
        self.held.get_mut(id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.held.values()
    }

    /// The proxy's addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        self.ports.addresses()
    }

    /// The names of all of them.
    pub fn ids(&self) -> Vec<LeaseId> {
        self.held.keys().copied().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many can be held.
    pub fn capacity(&self) -> usize {
        self.ports.room().min(self.limits.connections)
    }
}

impl Lease {
    /// What the next daemon has to know.
    pub fn note(&self, ended: bool) -> LeaseNote {
        let leg = |leg: Leg| {
            let state = &self.legs[leg.index()];
            let here = self.splice.here(leg);
            let end = self.ends[leg.index()];
            LegNote {
                to_proxy: state.to_proxy.clone(),
                to_agent: state.to_agent.clone(),
                agent: state.agent,
                expected: state.expected,
                wire: here.map_or(Tuple::new(end, end), |knock| knock.wire),
                heard: here.map(|knock| (knocked(&knock), knock.outside)),
            }
        };
        LeaseNote {
            pair: self.pair,
            label: self.label,
            expires_unix_seconds: self.expires,
            since_ns: self.since_ns,
            released_ns: self.released_ns,
            ticket: self.ticket,
            state: match (ended, self.splice.is_spliced()) {
                (true, _) => NoteState::Ended,
                (false, true) => NoteState::Spliced,
                (false, false) => NoteState::Waiting,
            },
            legs: [leg(Leg::First), leg(Leg::Second)],
        }
    }
}

/// An MSYN in the rules' terms; none: it lacks what every MSYN has.
pub fn knock(knocked: &Knocked, outside: bool) -> Option<Knock> {
    Some(Knock {
        wire: knocked.wire,
        token: knocked.token,
        req_no: knocked.req_no,
        seq: knocked.seq,
        rcv_nxt: knocked.rcv_nxt,
        window: knocked.window,
        syn: knocked.syn?,
        outside,
    })
}

fn knocked(knock: &Knock) -> Knocked {
    Knocked {
        wire: knock.wire,
        token: knock.token,
        req_no: knock.req_no,
        seq: knock.seq,
        rcv_nxt: knock.rcv_nxt,
        window: knock.window,
        digest: 0,
        syn: Some(knock.syn),
    }
}

fn short_digest(name: &str) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    std::array::from_fn(|at| digest[at])
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

//! The agent's state, and how one event changes it.
//!
//! Nothing here waits: what needs the kernel's answer over netlink or the network leaves as an [`Effect`], which
//! the loop in `drive` carries out. The data path is behind its trait, so that all of this runs against the fake
//! one without privileges.

mod adopting;
mod destinations;
mod enrolling;
mod hearing;
mod heartbeat;
mod keeping;
mod moving;
mod pairing;
mod paths;
mod places;
mod proving;
mod relaying;
mod repairing;
mod reporting;
mod revoking;
mod rewriting;
mod sleeping;
mod talking;

pub use reporting::{Reporting, ServerState};

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use datapath::{Datapath, Path, TcpState as SocketState};
use migration::{Event, Policy, TcpSnapshot, TcpState, Timestamp, step};
use wire::keys::Role;
use wire::tuple::{Endpoint, Tuple};

pub use self::enrolling::Enrolment;
pub use self::heartbeat::Lines;
pub use self::sleeping::{Bedtime, Sleeping};
use crate::config::Heartbeat;
use crate::nat64::Nat64Prefix;
use crate::network::{Network, NetworkEvent};
use crate::pairs::{PairEvent, Pairs};
use crate::ports::WirePorts;
use crate::quality::{Limits, Quality};
use crate::sessions::{HeldReset, KeySet, Managed};
use crate::timeline::Timeline;

/// What has to be done beside the data path. Imperatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Attach the programs to a device.
    Attach {
        ifindex: u32,
        name: String,
        ethernet: bool,
    },
    /// Keep an address on the parking device.
    Retire(IpAddr),
    /// Let go of it.
    Release(IpAddr),
    /// Look for a way out for every connection that has none.
    FindWaysOut,
    /// Give one connection a fresh endpoint.
    FindWayOut(Tuple),
    /// Give one connection an endpoint in the other family. `anew`: although an attempt there is under way.
    FindOtherWay { identity: Tuple, anew: bool },
    /// Ask the network for the prefix of its NAT64.
    SearchNat64,
    /// Give each of these connections a fresh endpoint.
    FindWaysOutOf(Vec<Tuple>),
    /// Run an exchange with an agent whose keys are known, for the line that comes with it.
    DialAgain(SocketAddr),
    /// Look whether connections still leave by the device of their address; `follow`: and move those that would leave
    /// by another one if they were new.
    ReviewRoutes { follow: bool },
    /// Move the connections on this local address to a better one.
    LeavePath(IpAddr),
    /// Run a pair exchange with an agent.
    Dial(SocketAddr),
    /// Dial unless the peer has dialled first.
    DialLater(SocketAddr),
    /// Tell the addresses in later exchanges.
    UpdateFacts,
    /// Look for a way out for one connection, towards where a mobility server says that the peer is.
    FindWayTo(Tuple, Endpoint),
    /// Run a pair exchange through a server's tunnel.
    Tunnel {
        /// The server's URL.
        server: String,
        /// Names the tunnel.
        tunnel: Vec<u8>,
        /// Whether this end dials inside it.
        dial: bool,
        /// The peer's address as the connection knows it.
        peer: IpAddr,
    },
}

pub use paths::{Prefer, Sent};

/// What is asked of a way out that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayOut {
    /// Our address there.
    pub source: IpAddr,
    /// Device and next hop.
    pub path: Path,
}

/// The agent.
pub struct Agent<D> {
    /// What moves segments.
    pub datapath: D,
    /// How patient it is.
    pub policy: Policy,
    /// Links and addresses.
    pub network: Network,
    /// Agents that keys were agreed with.
    pub pairs: Pairs,
    /// Wire ports.
    pub ports: WirePorts,
    /// The connections that can migrate.
    pub sessions: HashMap<Tuple, Managed>,
    /// Connections whose peer offers migration, but with whom there is no pair yet.
    pub unpaired: HashSet<Tuple>,
    /// Connections that got their keys when their address had gone already.
    late: Vec<Tuple>,
    /// Unknown tokens that were compared in vain in this second: since when, and how many.
    compared: (Timestamp, u32),
    /// Addresses that are kept for connections.
    pub retired: BTreeSet<IpAddr>,
    /// Where IPv4 is reached over IPv6.
    pub nat64: Vec<Nat64Prefix>,
    /// What connections do when the default route leads elsewhere.
    pub prefer: Prefer,
    /// How bad a way may be.
    pub limits: Limits,
    /// How good they are.
    pub quality: Quality,
    /// What happened.
    pub timeline: Timeline,
    /// How lines are watched.
    pub heartbeat: Heartbeat,
    /// Which older connections are taken up.
    pub enrolment: Enrolment,
    /// The lines to peers' agents.
    pub lines: Lines,
    /// To be carried out.
    pub effects: Vec<Effect>,
    /// What the mobility servers are told.
    pub reporting: Reporting,
    /// Peers that sleep.
    pub sleeping: Sleeping,
    alarms: BTreeSet<(Timestamp, Tuple)>,
    /// Connections the data path has to do more for than know their keys.
    active: HashSet<Tuple>,
    /// How many connections know each of our addresses as theirs.
    holders: HashMap<IpAddr, usize>,
    /// IPv4 connections that may leave as IPv6.
    growing: HashSet<Tuple>,
    follow_at: Option<Timestamp>,
    judged_at: Option<Timestamp>,
    load: (u32, u32),
    walk: bool,
    /// A connection found every wire port in use.
    ports_short: bool,
    /// Connections of which the data path has not taken everything.
    unwritten: HashSet<Tuple>,
    rewritten_at: Option<Timestamp>,
}

impl<D: Datapath> Agent<D> {
    /// An agent that knows nothing yet but its pairs.
    pub fn new(datapath: D, policy: Policy, parking: u32, pairs: Pairs, ports: WirePorts) -> Self {
        Self {
            datapath,
            policy,
            network: Network::new(parking),
            pairs,
            ports,
            sessions: HashMap::new(),
            unpaired: HashSet::new(),
            late: Vec::new(),
            compared: (Timestamp(std::time::Duration::ZERO), 0),
            retired: BTreeSet::new(),
            nat64: Vec::new(),
            prefer: Prefer::default(),
            limits: Limits {
                loss: 0.0,
                rtt: std::time::Duration::ZERO,
                hold: std::time::Duration::ZERO,
            },
            quality: Quality::default(),
            timeline: Timeline::default(),
            heartbeat: Heartbeat::default(),
            enrolment: Enrolment::default(),
            lines: Lines::default(),
            effects: Vec::new(),
            reporting: Reporting::default(),
            sleeping: Sleeping::default(),
            alarms: BTreeSet::new(),
            active: HashSet::new(),
            holders: HashMap::new(),
            growing: HashSet::new(),
            follow_at: None,
            judged_at: None,
            load: (0, 0),
            walk: false,
            ports_short: false,
            unwritten: HashSet::new(),
            rewritten_at: None,
        }
    }

    /// Destinations of servers that have led to nothing since the last call.
    pub fn take_failed(&mut self) -> Vec<crate::server::Failed> {
        std::mem::take(&mut self.reporting.tries.failed)
    }

    /// When [`Agent::timers`] is due next.
    pub fn next_alarm(&self) -> Option<Timestamp> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Whatever is due now.
    pub fn timers(&mut self, now: Timestamp) {
        while let Some((at, identity)) = self.alarms.first().copied() {
            if at > now {
                break;
            }
            self.alarms.pop_first();
            if let Some(managed) = self.sessions.get_mut(&identity) {
                managed.alarm = None;
            }
            self.advance(identity, Event::TimerFired, now);
        }
        self.walk_if_due();
    }

    /// Ten times a second: new connections, suspects that have recovered, timeouts to restore.
    pub fn tick(&mut self, now: Timestamp) {
        self.take_opened();
        self.follow_late(now);
        self.try_other_families(now);
        self.look_at_paths(now);
        let watched: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| {
                managed.suspected_at.is_some() || managed.restoring.is_some() || managed.stalled.is_some()
            })
            .map(|managed| managed.identity)
            .collect();
        for identity in watched {
            self.look_at(identity, now);
        }
        self.beat(now);
        self.write_again(now);
        self.enrol_due(now);
        self.unpaired
            .retain(|identity| self.datapath.connection(identity).is_some());
        // An exchange that failed is tried again, ever less often, while there is a connection that needs it.
        let waiting: BTreeSet<(IpAddr, u16, bool)> = self
            .unpaired
            .iter()
            .filter_map(|identity| Some((identity, self.datapath.connection(identity)?)))
            .map(|(identity, connection)| {
                // Who accepted and has left cannot be dialled any more.
                let left = self.network.device_of(identity.local.address).is_none();
                (
                    identity.remote.address,
                    connection.peer_agent_port,
                    connection.role == Role::Initiator || left,
                )
            })
            .collect();
        for (peer, agent_port, dials) in waiting {
            if dials && self.pairs.was_dialled(peer, agent_port) {
                self.meet(peer, agent_port, true);
            }
        }
        self.walk_if_due();
    }

    fn look_at(&mut self, identity: Tuple, now: Timestamp) {
        let Ok(tcp) = self.datapath.read_tcp(&identity) else {
            return;
        };
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let Some(tcp) = tcp else {
            managed.suspected_at = None;
            managed.restoring = None;
            managed.stalled = None;
            return;
        };
        if let Some(stalled) = managed.stalled {
            if tcp.packets_out == 0 || tcp.snd_una != stalled.snd_una || managed.machine.is_parked() {
                managed.stalled = None;
            } else if now >= stalled.again {
                self.timeline.count("kicked_again");
                self.kick(identity, now);
            }
        }
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        if let Some(restoring) = managed.restoring {
            let acknowledged = if restoring.outstanding {
                tcp.snd_una != restoring.snd_una
            } else {
                tcp.probes_out == 0
            };
            if acknowledged {
                managed.restoring = None;
                managed.flags.raise = false;
                self.walk = true;
                self.settle(identity);
            }
            return;
        }
        if let Some(before) = managed.suspected_at {
            let idle = tcp.packets_out == 0 && tcp.probes_out == 0;
            if idle || tcp.snd_una != before.snd_una || tcp.rcv_nxt != before.rcv_nxt {
                managed.suspected_at = None;
                managed.suspect_since = None;
                self.advance(identity, Event::Progress, now);
            } else if !managed.machine.is_parked() {
                self.still_suspect(identity, now);
            }
        }
    }

    /// One event for one connection: a step of its machine, and what that asks for.
    pub(crate) fn advance(&mut self, identity: Tuple, event: Event, now: Timestamp) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        tracing::trace!(connection = %identity, ?event, "event");
        let (next, actions) = step(managed.machine.clone(), event, now);
        managed.machine = next;
        for action in actions {
            tracing::trace!(connection = %identity, ?action, "action");
            self.perform(identity, action, now);
        }
        self.settle(identity);
    }
}

/// The kernel's number of a TCP state, in the machine's terms.
fn machine_state(number: u32) -> TcpState {
    match number {
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        7 => TcpState::Closed,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        11 => TcpState::Closing,
        _ => TcpState::Established,
    }
}

fn snapshot(tcp: &SocketState) -> TcpSnapshot {
    TcpSnapshot {
        snd_una: tcp.snd_una,
        snd_nxt: tcp.snd_nxt,
        rcv_nxt: tcp.rcv_nxt,
        rto: std::time::Duration::ZERO,
    }
}

//! Doing what the rules say: doors and directions in the data path, answers on the wire, notes for the next daemon.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use datapath::Path;
use datapath::relay::{Direction, Door, RelayDatapath};
use migration::proxy::{Action, Answer, Leg};
use rtnetlink::Handle;
use wire::handshake::Standing;
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::leases::Lease;

/// For so long a way out is not asked for again.
const FRESH: Duration = Duration::from_secs(5);
/// Ways that are remembered.
const MOST_WAYS: usize = 65_536;

/// The data path, and the ways out of this host.
pub struct Act {
    /// The data path.
    pub datapath: RelayDatapath,
    handle: Handle,
    mark: u32,
    ways: HashMap<IpAddr, (Instant, Option<u32>)>,
}

/// What the loop has to tell of what was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Both ends are there.
    Spliced,
    /// An end was followed.
    Moved(Leg, Endpoint, bool),
    /// An answer was sent.
    Answered,
    /// Nothing was done.
    Refused(&'static str),
}

impl Act {
    /// With this data path.
    pub fn new(datapath: RelayDatapath, handle: Handle, mark: u32) -> Self {
        Self {
            datapath,
            handle,
            mark,
            ways: HashMap::new(),
        }
    }

    /// Where questions about this host go.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Routes have changed.
    pub fn forget_ways(&mut self) {
        self.ways.clear();
    }

    /// A connection leaves by the devices that lead there now.
    pub async fn follow_routes(&mut self, lease: &Lease) {
        let installed: Vec<Tuple> = lease.installed.iter().map(|(from, _)| *from).collect();
        for from in installed {
            let Some(seen) = self.datapath.traffic(&from) else {
                continue;
            };
            let Some(ifindex) = self.way_to(seen.direction.to).await else {
                continue;
            };
            if ifindex != seen.direction.path.ifindex {
                let path = Path {
                    ifindex,
                    next_hop: None,
                };
                let direction = Direction {
                    path,
                    ..seen.direction
                };
                if let Err(error) = self.datapath.install(&from, &direction) {
                    tracing::error!(%error, "a connection keeps a way that leads nowhere");
                }
            }
        }
    }

    /// The sender of a segment hears which size gets through, as from any router.
    pub fn tell_too_big(&self, wire: Tuple, seq: u32, mtu: u32) {
        let sent = wire::unreachable::too_big(Tuple::new(wire.remote, wire.local), seq, mtu)
            .map_err(|error| error.to_string())
            .and_then(|packet| self.datapath.send(&packet).map_err(|error| error.to_string()));
        if let Err(error) = sent {
            tracing::debug!(error, "a sender is not told that its segments are too big");
        }
    }

    /// Opens a lease's doors. An end that has come once may come from anywhere: its key says who it is.
    ///
    /// # Errors
    /// The data path's maps are full; nothing is open then.
    pub fn open_doors(&self, lease: &Lease) -> Result<(), datapath::DatapathError> {
        let leg = |leg: Leg| {
            let state = &lease.legs[leg.index()];
            let expected = state.expected.filter(|_| lease.splice.here(leg).is_none());
            Some((state.to_proxy.clone(), expected))
        };
        let (first, second) = (leg(Leg::First), leg(Leg::Second));
        let door = |legs| Door {
            lease: lease.id,
            legs,
        };
        if lease.ends[0] == lease.ends[1] {
            return self.datapath.open_door(lease.ends[0], &door([first, second]));
        }
        self.datapath.open_door(lease.ends[0], &door([first, None]))?;
        let opened = self.datapath.open_door(lease.ends[1], &door([None, second]));
        opened.inspect_err(|_| self.datapath.close_door(lease.ends[0]))
    }

    /// Takes a lease's doors and directions away.
    pub fn close(&self, lease: &Lease) {
        for end in lease.ends {
            self.datapath.close_door(end);
        }
        for (from, _) in &lease.installed {
            self.datapath.uninstall(from);
        }
    }

    /// Does what the rules say, in their order.
    pub async fn perform(&mut self, lease: &mut Lease, actions: Vec<Action>) -> Vec<Done> {
        let mut done = Vec::new();
        let was_spliced = !lease.installed.is_empty();
        for action in actions {
            match action {
                Action::Install {
                    leg,
                    from,
                    to,
                    pending,
                } => {
                    if let Err(why) = self.install(lease, leg, from, to, pending).await {
                        done.push(Done::Refused(why));
                        // An answer would promise a way that is not there.
                        return done;
                    }
                }
                Action::Turn { leg, to, outside } => {
                    self.turn(lease, leg, to).await;
                    done.push(Done::Moved(leg, to.remote, outside));
                }
                Action::Answer { leg, answer } => done.push(self.answer(lease, leg, answer)),
                Action::Refuse(refusal) => {
                    tracing::debug!(lease = %hex::encode(lease.id), %refusal, "a knock");
                    done.push(Done::Refused("knock"));
                }
            }
        }
        if !was_spliced && lease.splice.is_spliced() {
            done.push(Done::Spliced);
        }
        done
    }

    async fn install(
        &mut self,
        lease: &mut Lease,
        leg: Leg,
        from: Tuple,
        to: Tuple,
        pending: bool,
    ) -> Result<(), &'static str> {
        let ifindex = self.way_to(to).await.ok_or("no_route")?;
        let direction = Direction {
            lease: lease.id,
            leg: leg.index(),
            to,
            // Routes may change while a connection is relayed: the kernel knows the way.
            path: Path {
                ifindex,
                next_hop: None,
            },
            pending,
        };
        self.datapath.install(&from, &direction).map_err(|error| {
            tracing::error!(%error, "a connection cannot be relayed");
            "map_full"
        })?;
        lease.installed.insert((from, leg));
        Ok(())
    }

    /// All that the other end sends goes to `to`, and nothing comes from where the end was before.
    async fn turn(&mut self, lease: &mut Lease, leg: Leg, to: Tuple) {
        let others: Vec<Tuple> = lease
            .installed
            .iter()
            .filter(|(_, sender)| *sender == leg.other())
            .map(|(from, _)| *from)
            .collect();
        for from in others {
            let pending = self
                .datapath
                .traffic(&from)
                .is_some_and(|seen| seen.direction.pending);
            let _ = self.install(lease, leg.other(), from, to, pending).await;
        }
        if let Some(other) = lease.splice.here(leg.other()) {
            let _ = self.install(lease, leg, to, other.wire, false).await;
        }
        let before: Vec<Tuple> = lease
            .installed
            .iter()
            .filter(|(from, sender)| *sender == leg && *from != to)
            .map(|(from, _)| *from)
            .collect();
        for from in before {
            self.datapath.uninstall(&from);
            lease.installed.remove(&(from, leg));
        }
    }

    fn answer(&self, lease: &Lease, leg: Leg, answer: Answer) -> Done {
        let standing = Standing {
            token: answer.token,
            req_no: answer.req_no,
            seq: answer.seq,
            rcv_nxt: answer.rcv_nxt,
            window: answer.window,
        };
        let mut segment = Segment::msyn_ack(answer.wire, standing, answer.ack, answer.syn);
        let key = &lease.legs[leg.index()].to_agent;
        let sent = segment
            .sign(key, ReqNo::UNMOVED)
            .map_err(|error| error.to_string())
            .and_then(|()| segment.emit().map_err(|error| error.to_string()))
            .and_then(|packet| self.datapath.send(&packet).map_err(|error| error.to_string()));
        match sent {
            Ok(()) => Done::Answered,
            Err(error) => {
                tracing::debug!(error, "an answer is not sent; the end will knock again");
                Done::Refused("unsent")
            }
        }
    }

    /// The device over which a leg is reached.
    async fn way_to(&mut self, to: Tuple) -> Option<u32> {
        let peer = to.remote.address;
        if let Some((since, way)) = self.ways.get(&peer)
            && since.elapsed() < FRESH
        {
            return *way;
        }
        let route =
            datapath::parking::route_to(&self.handle, self.mark, peer, Some(to.local.address), None).await;
        let way = route.map(|route| route.ifindex);
        if self.ways.len() >= MOST_WAYS {
            self.ways.clear();
        }
        self.ways.insert(peer, (Instant::now(), way));
        way
    }
}

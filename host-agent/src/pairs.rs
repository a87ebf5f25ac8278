//! Pairs with other agents: who listens on the agent port, who is dialled, and which pair a connection belongs to.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{AgentId, Credentials, Local, Pair, PairStore, Session};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use uuid::Uuid;
use wire::tuple::Endpoint;

use crate::lines::{self, Line, LineEvent};

/// Exchanges that run at once; more wait for their turn.
const MAX_EXCHANGES: usize = 256;
/// Of those, from one IPv4 address or one IPv6 /64: silent strangers there keep nobody else waiting.
const MAX_FROM_ONE_ADDRESS: usize = 64;
/// How many may wait; beyond it they stay in the listen queue.
const MOST_WAITING: usize = 512;
/// How long an exchange may take: on a full link segments of it get lost more than once.
const LIMIT: Duration = Duration::from_secs(15);

/// What became of an exchange. Past facts.
#[derive(Debug)]
pub enum PairEvent {
    /// Both ends hold a key.
    Agreed(Box<Pair>),
    /// It came to nothing: the connections with that host stay plain.
    Failed {
        /// Where the peer was.
        peer: SocketAddr,
        /// Whether this end dialled.
        dialled: bool,
        /// Short name of the reason, for counters.
        reason: &'static str,
        /// For people.
        detail: String,
    },
}

/// What the tasks beside the loop tell it.
#[derive(Debug)]
pub enum Told {
    /// Of an exchange.
    Pair(PairEvent),
    /// Of a line.
    Line(LineEvent),
}

impl From<LineEvent> for Told {
    fn from(event: LineEvent) -> Self {
        Self::Line(event)
    }
}

/// What is told in every exchange; kept up to date by the driver.
pub type Facts = watch::Receiver<Arc<Local>>;

/// Accepts exchanges for ever.
pub async fn listen(
    listener: TcpListener,
    credentials: watch::Receiver<Credentials>,
    facts: Facts,
    events: mpsc::Sender<Told>,
) {
    let slots = Arc::new(Semaphore::new(MAX_EXCHANGES));
    let rooms = Arc::new(Semaphore::new(MAX_EXCHANGES + MOST_WAITING));
    let mut guests = Guests::default();
    loop {
        let Ok(room) = rooms.clone().acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => {
                // An exchange is a handful of small messages, each waiting for the one before.
                let _ = stream.set_nodelay(true);
                (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()))
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the agent port");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (guest, slots) = (guests.of(peer.ip()), slots.clone());
        if Arc::strong_count(&guest) > 2 * MAX_FROM_ONE_ADDRESS {
            tracing::debug!(%peer, "refused: too many exchanges from this address wait for their turn");
            continue;
        }
        let (credentials, events) = (credentials.borrow().clone(), events.clone());
        let local = facts_for(&facts, peer);
        tokio::spawn(async move {
            let here = here(&stream);
            let turn = (guest.acquire_owned().await, slots.acquire_owned().await);
            let outcome = identity::accept(stream, &credentials, &local, LIMIT)
                .await
                .map_err(|error| (error.reason(), error.to_string()));
            drop((turn, room));
            tell(outcome, here, peer, false, events).await;
        });
    }
}

/// Dials a peer's agent, from the address that the connections to it have.
pub async fn dial(
    peer: SocketAddr,
    mark: u32,
    credentials: Credentials,
    facts: Facts,
    events: mpsc::Sender<Told>,
) {
    let local = facts_for(&facts, peer);
    let mut own = None;
    let outcome = async {
        let stream = tokio::time::timeout(LIMIT, connect(peer, mark))
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))
            .and_then(|result| result)
            .map_err(|error| ("unreachable", format!("the agent port does not answer: {error}")))?;
        own = here(&stream);
        identity::dial(stream, &credentials, &local, LIMIT)
            .await
            .map_err(|error| (error.reason(), error.to_string()))
    };
    let outcome = outcome.await;
    tell(outcome, own, peer, true, events).await;
}

/// Tells what became of an exchange, and carries its line from then on.
async fn tell(
    outcome: Result<Session<TcpStream>, (&'static str, String)>,
    here: Option<Here>,
    peer: SocketAddr,
    dialled: bool,
    events: mpsc::Sender<Told>,
) {
    let Session { pair, channel } = match outcome {
        Ok(session) => session,
        Err((reason, detail)) => {
            let failed = PairEvent::Failed {
                peer,
                dialled,
                reason,
                detail,
            };
            let _ = events.send(Told::Pair(failed)).await;
            return;
        }
    };
    let pair_id = pair.pair_id;
    let agreed = Told::Pair(PairEvent::Agreed(Box::new(pair)));
    if events.send(agreed).await.is_err() {
        return;
    }
    if let Some((address, socket)) = here {
        let (line, outgoing) = Line::new(dialled, address, peer);
        lines::carry(channel, pair_id, line.over(socket), outgoing, events).await;
    }
}

/// Our address on a connection, and the connection.
type Here = (IpAddr, Option<OwnedFd>);

fn here(stream: &TcpStream) -> Option<Here> {
    let address = stream.local_addr().ok()?.ip().to_canonical();
    Some((address, stream.as_fd().try_clone_to_owned().ok()))
}

/// The turns of each address.
#[derive(Default)]
struct Guests(HashMap<IpAddr, Arc<Semaphore>>);

impl Guests {
    fn of(&mut self, address: IpAddr) -> Arc<Semaphore> {
        // Addresses with nobody under way are forgotten.
        self.0.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = || Arc::new(Semaphore::new(MAX_FROM_ONE_ADDRESS));
        self.0.entry(neighbourhood(address)).or_insert_with(turns).clone()
    }
}

/// An IPv4 address, or the network of an IPv6 address: a host there has 2^64 of them.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

async fn connect(peer: SocketAddr, mark: u32) -> std::io::Result<TcpStream> {
    let socket = match peer {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket2::SockRef::from(&socket).set_mark(mark)?;
    let stream = socket.connect(peer).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn facts_for(facts: &Facts, peer: SocketAddr) -> Local {
    let mut local = Local::clone(&facts.borrow());
    local.peer_observed = Some(Endpoint::from(peer));
    local
}

/// The pairs that are known, and what is under way.
pub struct Pairs {
    store: PairStore,
    /// Peers that were dialled: when, and how often in vain.
    dialled: HashMap<(IpAddr, u16), (Instant, u32)>,
    /// Peers that the deployment has revoked while this agent ran. One that is revoked and has a new key is another.
    revoked: HashSet<AgentId>,
    /// Peers that are being dialled: a second exchange beside the first would only make another epoch.
    under_way: HashSet<(IpAddr, u16)>,
}

impl Pairs {
    /// With what the store remembers.
    pub fn new(store: PairStore) -> Self {
        Self {
            store,
            dialled: HashMap::new(),
            revoked: HashSet::new(),
            under_way: HashSet::new(),
        }
    }

    /// Takes up a finished exchange; an error means that it will be forgotten when the agent restarts.
    pub fn agreed(&mut self, pair: Pair) -> Result<(), identity::StoreError> {
        self.finished(pair.peer_observed.address);
        self.dialled
            .retain(|(address, _), _| *address != pair.peer_observed.address);
        self.store.insert(pair);
        self.store.save()
    }

    /// Forgets the keys agreed with a peer, and agrees none any more. An error means that they come back when the agent
    /// restarts, until it is told again.
    pub fn revoke(&mut self, peer: &AgentId) -> Result<(), identity::StoreError> {
        self.revoked.insert(peer.clone());
        self.store.forget(peer);
        self.store.save()
    }

    /// Whether a peer was revoked.
    pub fn is_revoked(&self, peer: &AgentId) -> bool {
        self.revoked.contains(peer)
    }

    /// The exchanges with the peers who may have this address and agent port, the newest first: of each peer that was
    /// seen or lives there by one of its newest two, both. The peer may have taken a connection up just before or just
    /// after an exchange, and who has moved in between knows the other by another address.
    pub fn of(&self, peer: IpAddr, agent_port: u16) -> Vec<&Pair> {
        let there = |pair: &Pair| {
            pair.peer_agent_port == agent_port
                && (pair.peer_observed.address == peer || pair.peer_direct_addresses.contains(&peer))
        };
        let mut found: Vec<&Pair> = self
            .store
            .iter()
            .filter(|epochs| epochs.pairs().take(2).any(there))
            .flat_map(|epochs| epochs.pairs().take(2))
            .collect();
        found.sort_by_key(|pair| std::cmp::Reverse(pair.established_at));
        found
    }

    /// The newest two exchanges of a pair, wherever its peer was then.
    pub fn newest(&self, pair_id: &Uuid) -> impl Iterator<Item = &Pair> {
        let epochs = self.store.by_pair_id(pair_id);
        epochs.into_iter().flat_map(|epochs| epochs.pairs().take(2))
    }

    /// Every exchange of a pair that is remembered, the newest first.
    pub fn remembered(&self, pair_id: &Uuid) -> impl Iterator<Item = &Pair> {
        let epochs = self.store.by_pair_id(pair_id);
        epochs.into_iter().flat_map(|epochs| epochs.pairs())
    }

    /// The exchange from which a connection has its keys.
    pub fn under(&self, pair_id: uuid::Uuid, epoch: u32) -> Option<&Pair> {
        let mut pairs = self.store.by_pair_id(&pair_id)?.pairs();
        pairs.find(|pair| pair.epoch == epoch)
    }

    /// Every pair's newest exchange.
    pub fn all(&self) -> impl Iterator<Item = &Pair> {
        self.store.iter().map(|epochs| epochs.current())
    }

    /// What is remembered of earlier exchanges, for the next one.
    pub fn known(&self) -> identity::Known {
        self.store.known()
    }

    /// Whether a peer may be dialled now; if so it is noted. After failures the wait grows, up to five minutes.
    pub fn may_dial(&mut self, peer: IpAddr, agent_port: u16) -> bool {
        if self.under_way.contains(&(peer, agent_port)) {
            return false;
        }
        let now = Instant::now();
        let (last, tries) = self.dialled.get(&(peer, agent_port)).copied().unwrap_or((now, 0));
        let wait = match tries {
            0 => Duration::ZERO,
            tries => Duration::from_secs(2u64.saturating_pow(tries.min(8)).min(300)),
        };
        if now.duration_since(last) < wait {
            return false;
        }
        self.dialled.insert((peer, agent_port), (now, tries + 1));
        self.under_way.insert((peer, agent_port));
        true
    }

    /// The newest two exchanges of each pair whose peer is behind this address now.
    pub fn seen_at(&self, address: IpAddr) -> impl Iterator<Item = &Pair> {
        let there = move |pair: &&Pair| pair.peer_observed.address == address;
        let here = self.store.iter().filter(move |epochs| there(&epochs.current()));
        here.flat_map(|epochs| epochs.pairs().take(2))
    }

    /// The newest exchange of a pair.
    pub fn by_id(&self, pair_id: &Uuid) -> Option<&Pair> {
        self.store.by_pair_id(pair_id).map(|epochs| epochs.current())
    }

    /// The one ID of a pair: two first exchanges that crossed made one each, and the one of the exchange that counts
    /// is the pair's at both ends.
    pub fn name(&self, pair_id: Uuid) -> Uuid {
        self.by_id(&pair_id).map_or(pair_id, |pair| pair.pair_id)
    }

    /// Whether exchanges with the peer of this pair made more than one ID.
    pub fn has_aliases(&self, pair_id: &Uuid) -> bool {
        self.store
            .by_pair_id(pair_id)
            .is_some_and(|epochs| epochs.pairs().any(|pair| pair.pair_id != *pair_id))
    }

    /// Whether an exchange with a peer may be begun whose keys are known: the line to it is to be opened again.
    pub fn may_dial_again(&mut self, peer: SocketAddr) -> bool {
        self.under_way.insert((peer.ip(), peer.port()))
    }

    /// No exchange with a peer at this address is under way any more.
    pub fn finished(&mut self, peer: IpAddr) {
        self.under_way.retain(|(address, _)| *address != peer);
    }

    /// Whether a peer was dialled and has not answered yet.
    pub fn was_dialled(&self, peer: IpAddr, agent_port: u16) -> bool {
        self.dialled.contains_key(&(peer, agent_port))
    }

    /// The network is another one: whoever could not be reached may be reached now. What is still under way from an
    /// address of before leads to nothing.
    pub fn forgive(&mut self) {
        self.dialled.values_mut().for_each(|(_, tries)| *tries = 0);
        self.under_way.clear();
    }
}

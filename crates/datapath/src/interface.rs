//! What the agent may ask of a data path.

use std::net::IpAddr;

use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::Tuple;

use crate::event::Event;
use crate::types::{Arrival, Connection, Heads, Leg, Path, Session, Source, TcpState, WireState};

/// Why the data path could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A map has no room.
    #[error("the map `{map}` is full; raise the limit or close connections")]
    MapFull {
        /// Name of the map.
        map: &'static str,
    },
    /// The kernel refused an operation.
    #[error("{what}: {error}")]
    Kernel {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        error: String,
    },
    /// A packet could not be sent.
    #[error("cannot send to {to}: {error}")]
    Send {
        /// Where to.
        to: IpAddr,
        /// The kernel's answer.
        error: std::io::Error,
    },
}

/// The data path as the agent drives it. Every call is short and does not wait for the network.
pub trait Datapath {
    /// What happened since the last call, oldest first.
    fn events(&mut self) -> Vec<Event>;
    /// Connections set up since the last call that have no keys yet.
    fn opened(&mut self) -> Vec<Tuple>;
    /// A connection both of whose ends offered migration.
    fn connection(&self, identity: &Tuple) -> Option<Connection>;
    /// All of them.
    fn connections(&self) -> Vec<(Tuple, Connection)>;
    /// Open connections of this network namespace, by their identity tuples, that are neither: they are older than the
    /// data path, or their options got lost. A walk over all sockets: not for every day.
    fn plain(&mut self) -> Vec<Tuple>;
    /// Lets the next connection with this agent be reported as its first again.
    fn forget_peer(&mut self, address: IpAddr, agent_port: u16);

    /// Stores a session, new or changed.
    fn put_session(&mut self, identity: &Tuple, session: &Session) -> Result<(), DatapathError>;
    /// Every stored session.
    fn sessions(&self) -> Vec<(Tuple, Session)>;
    /// Forgets one.
    fn remove_session(&mut self, identity: &Tuple);
    /// Stores what this end shares with the proxy of a relayed connection.
    fn put_leg(&mut self, identity: &Tuple, leg: &Leg) -> Result<(), DatapathError>;
    /// What was stored.
    fn leg(&self, identity: &Tuple) -> Option<Leg>;
    /// It is not relayed any more.
    fn remove_leg(&mut self, identity: &Tuple);
    /// Lets a token name a connection; `candidate` comes back with what is heard under it.
    fn put_token(
        &mut self,
        token: Token,
        identity: &Tuple,
        key_in: &MacKey,
        candidate: u32,
    ) -> Result<(), DatapathError>;
    /// Whether the token names the connection.
    fn knows_token(&self, token: Token, identity: &Tuple) -> bool;
    /// The token no longer names it.
    fn remove_token(&mut self, token: Token, identity: &Tuple);

    /// What to do with segments on a wire tuple.
    fn put_arrival(&mut self, wire: &Tuple, arrival: &Arrival) -> Result<(), DatapathError>;
    /// What is done with them.
    fn arrival(&self, wire: &Tuple) -> Option<Arrival>;
    /// Every one.
    fn arrivals(&self) -> Vec<(Tuple, Arrival)>;
    /// Nothing for this connection any more. The tuple may have come to another since.
    fn remove_arrival(&mut self, wire: &Tuple, identity: &Tuple);
    /// Makes an attempt the wire tuple, if no later one is.
    fn commit(
        &mut self,
        identity: &Tuple,
        wire: &Tuple,
        path: &Path,
        req_no: ReqNo,
    ) -> Result<(), DatapathError>;
    /// Takes the way out from a connection whose wire tuple is that of `req_no`: its segments are parked until an
    /// attempt commits. Nothing happens when a later attempt has committed meanwhile.
    fn park(&mut self, identity: &Tuple, wire: &Tuple, req_no: ReqNo) -> Result<(), DatapathError>;
    /// Where a moved connection's segments go.
    fn wire(&self, identity: &Tuple) -> Option<WireState>;
    /// It is unmoved again, or gone.
    fn remove_wire(&mut self, identity: &Tuple);

    /// Says whether segments may leave from a local address.
    fn put_source(&mut self, address: IpAddr, source: Source) -> Result<(), DatapathError>;
    /// The address is nothing to us.
    fn remove_source(&mut self, address: IpAddr);

    /// What the live socket knows; `None`: there is none.
    fn read_tcp(&mut self, identity: &Tuple) -> Result<Option<TcpState>, DatapathError>;
    /// What to send first after an outage.
    fn heads(&self, identity: &Tuple) -> Heads;
    /// Forgets them.
    fn remove_heads(&mut self, identity: &Tuple);
    /// Brings every socket to what its session's flags ask for; may go on after the call returns.
    fn reconcile(&mut self);
    /// How many sessions exist and how many of them are moved or detached; 0 keeps the data path idle.
    fn set_load(&mut self, sessions: u32, moved: u32) -> Result<(), DatapathError>;
    /// Says that the agent lives.
    fn beat(&mut self);
    /// Sends an IP packet, by the given device if one is given.
    fn send(&mut self, packet: &[u8], ifindex: Option<u32>) -> Result<(), DatapathError>;
    /// Hands an IP packet with identity addresses to the local stack, as if it had arrived.
    fn deliver(&mut self, packet: &[u8]) -> Result<(), DatapathError>;
    /// Counters by name.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}

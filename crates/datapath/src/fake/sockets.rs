//! The kernel's TCP as far as the data path sees it: sockets come up, time out, change their state and close.

use std::net::IpAddr;

use wire::keys::Role;
use wire::tuple::Tuple;

use super::FakeDatapath;
use crate::event::Event;
use crate::types::{Connection, TcpState};

/// The kernel's number of the state that is no socket any more.
pub(super) const CLOSE: u32 = 7;

/// A live socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// What it knows.
    pub tcp: TcpState,
    /// Its segments are routed to the parking device.
    pub marked: bool,
    /// Its own timeouts are suspended.
    pub raised: bool,
    pub(super) suspect: bool,
}

impl FakeDatapath {
    /// A socket comes up whose peer offered migration too.
    pub fn establish(&mut self, identity: Tuple, connection: Connection, tcp: TcpState) {
        self.sockets.insert(
            identity,
            Socket {
                tcp,
                ..Socket::default()
            },
        );
        self.connections.insert(identity, connection);
        self.count("permitted");
        self.opened.push_back(identity);
        let peer: (IpAddr, u16) = (identity.remote.address, connection.peer_agent_port);
        if self.peers.insert(peer) {
            let initiated_here = connection.role == Role::Initiator;
            self.tell(Event::Peer {
                identity,
                agent_port: connection.peer_agent_port,
                initiated_here,
            });
        }
    }

    /// A socket comes up whose peer did not offer migration.
    pub fn establish_plain(&mut self, identity: Tuple, tcp: TcpState) {
        self.sockets.insert(
            identity,
            Socket {
                tcp,
                ..Socket::default()
            },
        );
    }

    /// The live socket of a connection.
    pub fn socket(&self, identity: &Tuple) -> Option<Socket> {
        self.sockets.get(identity).copied()
    }

    /// What a live socket knows, to be changed.
    pub fn tcp_mut(&mut self, identity: &Tuple) -> Option<&mut TcpState> {
        self.sockets.get_mut(identity).map(|socket| &mut socket.tcp)
    }

    /// A socket changes its state (numbers as the kernel's); one that closes is gone.
    pub fn change_state(&mut self, identity: &Tuple, new: u32) {
        let Some(socket) = self.sockets.get_mut(identity) else {
            return;
        };
        let old = std::mem::replace(&mut socket.tcp.tcp_state, new);
        let tcp = socket.tcp;
        if new == CLOSE {
            self.sockets.remove(identity);
            self.connections.remove(identity);
        }
        if self
            .sessions
            .get(identity)
            .is_some_and(|session| session.flags.watch)
        {
            self.tell(Event::TcpState {
                identity: *identity,
                old,
                new,
                snd_nxt: tcp.snd_nxt,
                rcv_nxt: tcp.rcv_nxt,
            });
        }
    }

    /// Lets a socket close in the very moment in which its session is about to be stored: nobody tells the agent.
    pub fn close_before_it_is_stored(&mut self, identity: Tuple) {
        self.closing.insert(identity);
    }

    /// A socket's retransmission timer runs out: it is marked and its timeouts are raised at once.
    pub fn retransmission_timeout(&mut self, identity: &Tuple) {
        let known =
            self.sessions.contains_key(identity) && self.sources.contains_key(&identity.local.address);
        let Some(socket) = self.sockets.get_mut(identity) else {
            return;
        };
        socket.tcp.backoff += 1;
        if !known || socket.suspect {
            return;
        }
        socket.suspect = true;
        socket.raised = true;
        socket.marked = true;
        self.tell(Event::Suspect { identity: *identity });
    }

    /// Brings every socket to what its session asks for.
    pub(super) fn walk(&mut self) {
        self.walks += 1;
        for (identity, socket) in &mut self.sockets {
            let Some(session) = self.sessions.get(identity) else {
                continue;
            };
            socket.marked = session.flags.mark;
            socket.raised = session.flags.raise;
            socket.suspect &= session.flags.raise;
        }
    }
}

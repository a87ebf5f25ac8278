//! What each subflow of each connection is for: events in, commands out, and nothing else.
//!
//! Unless somebody chooses, all subflows carry data as the kernel's scheduler likes. Once a primary path is chosen, its
//! subflows are active and all others are backups, those that join later too; when its last subflow has ended, the choice
//! ends with it and the others are active again. Only this side says what is a backup: what the terminal has asked for,
//! only the terminal can take back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use mptcp_pm::{Announced, Event, SubflowEvent, Token};

/// Both ends of a subflow: this one's and the terminal's.
pub type Ends = (SocketAddr, SocketAddr);

/// What the kernel is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// A subflow is to be a backup, or active.
    SetBackup {
        /// The connection.
        token: Token,
        /// This end.
        local: SocketAddr,
        /// The terminal's.
        remote: SocketAddr,
        /// Which of the two.
        backup: bool,
    },
    /// A subflow is too many.
    End {
        /// The connection.
        token: Token,
        /// This end.
        local: SocketAddr,
        /// The terminal's.
        remote: SocketAddr,
    },
    /// One more subflow, from this address.
    Open {
        /// The connection.
        token: Token,
        /// This end.
        local: IpAddr,
        /// The peer's.
        to: SocketAddr,
    },
    /// Terminals are told of an address.
    Announce {
        /// The connection.
        token: Token,
        /// Number of the address.
        id: u8,
        /// The address and port.
        address: SocketAddr,
    },
}

/// One subflow, as the policy sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subflow {
    /// Whether this side has made it a backup.
    pub backup: bool,
}

#[derive(Clone, Debug, Default)]
struct Connection {
    /// By both ends: this one's and the terminal's.
    subflows: BTreeMap<Ends, Subflow>,
    primary: Option<IpAddr>,
    opened_here: bool,
    established: bool,
}

/// A choice that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoChoice {
    /// There is no such connection.
    #[error("no connection has the token {0}; see `mptcp-relay sessions`")]
    Connection(Token),
    /// It has no subflow there.
    #[error("connection {token} has no subflow from {path}; it has some from {}", list(.has))]
    Path {
        /// The connection.
        token: Token,
        /// What was asked for.
        path: IpAddr,
        /// What there is.
        has: Vec<IpAddr>,
    },
}

fn list(addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    addresses.join(", ")
}

/// Which subflows a connection has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Its first one.
    None,
    /// Whatever joins, and one to every address that the peer announces.
    #[default]
    Fullmesh,
    /// So many between the same two addresses, where this host has opened the connection.
    Ports(u8),
}

/// All connections.
#[derive(Clone, Debug)]
pub struct Policy {
    announce: Vec<SocketAddr>,
    mode: Mode,
    most: usize,
    connections: HashMap<Token, Connection>,
}

impl Policy {
    /// Terminals are told of these addresses.
    pub fn new(announce: Vec<SocketAddr>) -> Self {
        Self {
            announce,
            mode: Mode::Fullmesh,
            most: usize::MAX,
            connections: HashMap::new(),
        }
    }

    /// A connection may have so many subflows. The kernel has no such limit of its own when it is told what to do.
    pub fn at_most(self, subflows: usize) -> Self {
        Self {
            most: subflows,
            ..self
        }
    }

    /// How subflows come to be.
    pub fn by(self, mode: Mode) -> Self {
        let most = if mode == Mode::None { 1 } else { self.most };
        Self { mode, most, ..self }
    }

    /// Something has happened to a connection of this host.
    pub fn hear(&mut self, event: &Event) -> Vec<Command> {
        match event {
            Event::Created(made) | Event::Established(made) => {
                let connection = self.connections.entry(made.token).or_default();
                connection.opened_here = !made.accepted;
                connection.established |= matches!(event, Event::Established(_));
                let first = (made.local, made.remote);
                connection
                    .subflows
                    .entry(first)
                    .or_insert(Subflow { backup: false });
                match (event, self.mode) {
                    (Event::Created(_), _) | (_, Mode::None) => Vec::new(),
                    _ if made.accepted => self.announcements(made.token, made.remote),
                    (_, Mode::Ports(ports)) => {
                        let open = Command::Open {
                            token: made.token,
                            local: made.local.ip(),
                            to: made.remote,
                        };
                        vec![open; usize::from(ports).saturating_sub(1)]
                    }
                    _ => Vec::new(),
                }
            }
            Event::SubflowEstablished(subflow) => self.joined(subflow.token, (subflow.local, subflow.remote)),
            Event::SubflowClosed(subflow) => self.left(subflow),
            Event::AddressAnnounced(announced) => self.announced(announced),
            Event::Closed(token) => {
                self.connections.remove(token);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn announcements(&self, token: Token, terminal: SocketAddr) -> Vec<Command> {
        let reachable = self
            .announce
            .iter()
            .filter(|address| address.is_ipv4() == terminal.is_ipv4());
        let numbered = (1..).zip(reachable);
        numbered
            .map(|(id, address)| Command::Announce {
                token,
                id,
                address: *address,
            })
            .collect()
    }

    /// Whoever opens a connection opens its subflows: where this host has, what the peer announces is one more path.
    fn announced(&self, event: &Announced) -> Vec<Command> {
        let Some(connection) = self.connections.get(&event.token) else {
            return Vec::new();
        };
        let first = connection.subflows.keys().next();
        let wanted = connection.opened_here && self.mode == Mode::Fullmesh;
        let Some((local, remote)) = first.filter(|_| wanted) else {
            return Vec::new();
        };
        let to = SocketAddr::new(event.address, event.port.unwrap_or(remote.port()));
        let joined = connection.subflows.keys().any(|(_, remote)| *remote == to);
        if joined || to.is_ipv4() != local.is_ipv4() || connection.subflows.len() >= self.most {
            return Vec::new();
        }
        vec![Command::Open {
            token: event.token,
            local: local.ip(),
            to,
        }]
    }

    fn joined(&mut self, token: Token, ends: Ends) -> Vec<Command> {
        let Some(connection) = self.connections.get_mut(&token) else {
            return Vec::new();
        };
        if connection.subflows.len() >= self.most && !connection.subflows.contains_key(&ends) {
            let (local, remote) = ends;
            return vec![Command::End { token, local, remote }];
        }
        connection.subflows.insert(ends, Subflow { backup: false });
        connection.settle(token)
    }

    fn left(&mut self, event: &SubflowEvent) -> Vec<Command> {
        let Some(connection) = self.connections.get_mut(&event.token) else {
            return Vec::new();
        };
        connection.subflows.remove(&(event.local, event.remote));
        connection.lose_choice();
        connection.settle(event.token)
    }

    /// Chooses the terminal's address whose subflows carry data; none: all do.
    ///
    /// # Errors
    /// [`NoChoice`]; nothing has changed then.
    pub fn prefer(&mut self, token: Token, path: Option<IpAddr>) -> Result<Vec<Command>, NoChoice> {
        let connection = self
            .connections
            .get_mut(&token)
            .ok_or(NoChoice::Connection(token))?;
        if let Some(path) = path
            && !connection.subflows.keys().any(|(_, remote)| remote.ip() == path)
        {
            let mut has: Vec<IpAddr> = connection
                .subflows
                .keys()
                .map(|(_, remote)| remote.ip())
                .collect();
            has.dedup();
            return Err(NoChoice::Path { token, path, has });
        }
        connection.primary = path;
        Ok(connection.settle(token))
    }

    /// The chosen path of a connection.
    pub fn primary(&self, token: Token) -> Option<IpAddr> {
        self.connections.get(&token)?.primary
    }

    /// The subflows of a connection.
    pub fn subflows(&self, token: Token) -> impl Iterator<Item = (SocketAddr, SocketAddr, Subflow)> + '_ {
        let connection = self.connections.get(&token).into_iter();
        connection
            .flat_map(|connection| &connection.subflows)
            .map(|((local, remote), subflow)| (*local, *remote, *subflow))
    }

    /// Whether subflows may join a connection; None: nothing is known of it. The kernel resets what joins one that was opened
    /// here before its peer has acknowledged anything in MPTCP's terms.
    pub fn is_ready(&self, token: Token) -> Option<bool> {
        let connection = self.connections.get(&token)?;
        Some(connection.established || !connection.opened_here)
    }

    /// Takes stock: some events were missed, and these connections and subflows exist now. All may be ready.
    pub fn take_stock(&mut self, exist: impl Fn(Token) -> bool, flows: &[(Token, Ends)]) -> Vec<Command> {
        let mut commands = Vec::new();
        let stand: HashSet<&(Token, Ends)> = flows.iter().collect();
        self.connections.retain(|token, _| exist(*token));
        for (token, connection) in &mut self.connections {
            connection.established = true;
            connection
                .subflows
                .retain(|ends, _| stand.contains(&(*token, *ends)));
            connection.lose_choice();
            commands.extend(connection.settle(*token));
        }
        for (token, ends) in flows.iter().filter(|(token, _)| exist(*token)) {
            let connection = self.connections.entry(*token).or_default();
            connection.established = true;
            if !connection.subflows.contains_key(ends) {
                commands.extend(self.joined(*token, *ends));
            }
        }
        commands
    }
}

impl Connection {
    /// A chosen path without a subflow is chosen no longer.
    fn lose_choice(&mut self) {
        let stands = |path: IpAddr| self.subflows.keys().any(|(_, remote)| remote.ip() == path);
        if self.primary.is_some_and(|path| !stands(path)) {
            self.primary = None;
        }
    }

    /// Commands for every subflow that is not what it should be. What is to carry data comes first: there is never
    /// a moment without an active subflow.
    fn settle(&mut self, token: Token) -> Vec<Command> {
        let mut commands = Vec::new();
        for ((local, remote), subflow) in &mut self.subflows {
            let backup = self.primary.is_some_and(|path| path != remote.ip());
            if subflow.backup != backup {
                subflow.backup = backup;
                commands.push(Command::SetBackup {
                    token,
                    local: *local,
                    remote: *remote,
                    backup,
                });
            }
        }
        commands.sort_by_key(|command| matches!(command, Command::SetBackup { backup: true, .. }));
        commands
    }
}

//! What is waited for and expected.
use super::Name;
use crate::language::lexer::Sign;

/// Something that can be asked of the world.
#[derive(Clone, Debug)]
pub struct Condition {
    pub text: String,
    pub subject: Subject,
    pub terms: Vec<Term>,
}

#[derive(Clone, Debug)]
pub enum Subject {
    Program(Name),
    /// `HOST agent connections …` or `HOST agent status …`.
    Agent {
        host: Name,
        list: AgentList,
    },
    /// `RELAY relay subflows …` or `PROXY proxy relays …`.
    Relay {
        relay: Name,
        list: RelayList,
    },
    /// `SERVER server sessions …`: a list of a mobility server.
    Server {
        server: Name,
        list: ServerList,
    },
    /// The run as a whole.
    Run,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentList {
    Connections,
    Pairs,
    Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayList {
    Sessions,
    Subflows,
    Status,
    /// What a symmetric proxy relays.
    Relays,
}

impl RelayList {
    pub fn word(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Subflows => "subflows",
            Self::Status => "status",
            Self::Relays => "relays",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerList {
    Sessions,
    Agents,
    Pairs,
    Relays,
    Status,
}

impl ServerList {
    pub const ALL: [ServerList; 5] = [
        ServerList::Sessions,
        ServerList::Agents,
        ServerList::Pairs,
        ServerList::Relays,
        ServerList::Status,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Agents => "agents",
            Self::Pairs => "pairs",
            Self::Relays => "relays",
            Self::Status => "status",
        }
    }
}

#[derive(Clone, Debug)]
pub enum Term {
    /// Ended well.
    Done,
    /// Has not ended.
    Running,
    /// All its connections are established.
    Connected,
    /// Ended with one of these errors, as errno names without the leading E.
    Error(Vec<String>),
    Exit(i32),
    /// Regular expression over its output so far.
    Output(String),
    /// The bytes that arrived are the bytes that were sent.
    Same,
    /// Hex digest of what arrived.
    Digest(String),
    Compare {
        measure: Measure,
        sign: Sign,
        value: f64,
    },
    /// A field of the agent's answer.
    Field {
        key: String,
        sign: Sign,
        value: String,
    },
}

/// What can be counted or timed.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// Of a program.
    Bytes,
    Answers,
    /// Longest time between two answers, or between two portions of data, in seconds.
    Gap,
    /// Time from question to answer, in seconds: the median, and what 99 of 100 stay below.
    Rtt,
    Rtt99,
    Connections,
    Reconnects,
    Elapsed,
    /// Of an agent's list: how many entries match the other terms.
    Count,
    /// Of the run: applications that saw a reset, and that failed in any way.
    Resets,
    Errors,
    /// Packets with a source that their host does not own.
    Leaks,
    /// Packets a NAPT dropped because connection tracking calls them invalid.
    Invalid(Name),
    /// Reset segments that reached a host.
    Rst(Name),
}

//! What happens, and when.
use std::net::IpAddr;
use std::time::Duration;

use super::{Condition, Name, Ports, ShapeChange};
use crate::language::units::Prefix;

/// One line of the story.
#[derive(Clone, Debug)]
pub struct Step {
    pub line: usize,
    /// The line without indentation and comment.
    pub text: String,
    pub when: When,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum When {
    /// As soon as the line before is done.
    Next,
    /// This long after the beginning of the story.
    At(Duration),
    /// Once the condition holds; it must within `limit` (60 s if not said).
    After {
        condition: Condition,
        limit: Option<Duration>,
    },
}

#[derive(Clone, Debug)]
pub enum What {
    Do(Action),
    /// The condition must come true within this time after the line before.
    Within(Duration, Condition),
    /// The conditions must hold now.
    Expect(Vec<Condition>),
}

#[derive(Clone, Debug)]
pub enum Action {
    Link {
        link: Name,
        change: LinkChange,
    },
    Host {
        host: Name,
        change: HostChange,
    },
    Napt {
        napt: Name,
        change: NaptChange,
    },
    Program {
        name: Name,
        change: ProgramChange,
    },
    Start(ProgramStart),
    Agent {
        change: AgentChange,
        hosts: Vec<Name>,
    },
    Server {
        change: AgentChange,
        server: Name,
    },
    /// A command of `host-agent` or `mobility-server`, at the one that runs there.
    Tell {
        whom: Addressee,
        words: Vec<String>,
    },
    /// One master of the cluster is killed.
    RedisKill {
        redis: Name,
    },
    Relay {
        relay: Name,
        change: RelayChange,
    },
}

#[derive(Clone, Debug)]
pub enum LinkChange {
    Up,
    /// The cable is pulled. `keep`: the hosts keep address and routes, as without a DHCP client.
    Down {
        keep: bool,
    },
    /// Frames vanish, the carrier stays; of one sender only if `from` is given.
    Blackhole {
        from: Option<Name>,
    },
    Heal,
    Shape(ShapeChange),
    Interfere(Interference),
    /// A recorded segment is sent once more, with one bit flipped if asked.
    Replay {
        recording: Name,
        from: Option<Name>,
        flip: Option<Flip>,
    },
    /// Resets that fit exactly behind a recorded segment, evenly spread over a time.
    Storm {
        recording: Name,
        resets: u32,
        over: Duration,
    },
}

/// What happens to chosen segments that pass a link after this line.
#[derive(Clone, Debug)]
pub struct Interference {
    pub segments: Segments,
    /// Ordinals of the segments meant, counting from 1 at this line; the end `None` is "all that follow".
    pub first: u64,
    pub last: Option<u64>,
    pub from: Option<Name>,
    pub deed: Deed,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    Drop,
    Delay(Duration),
    Duplicate,
    Flip(Flip),
    Record(Name),
}

/// One bit of the TCP header, counted from its first, or of the Migrate option. The checksum is repaired unless
/// `stale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    pub bit: u32,
    pub in_option: bool,
    pub stale: bool,
}

/// Which segments are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    Any,
    Syn,
    SynAck,
    Fin,
    Rst,
    /// Carries payload.
    Data,
    /// Migrate-Request of each type.
    Msyn,
    MsynAck,
    MigrateAck,
    MigrateReset,
}

impl Segments {
    pub const ALL: [(&'static str, Segments); 10] = [
        ("any", Segments::Any),
        ("syn", Segments::Syn),
        ("syn-ack", Segments::SynAck),
        ("fin", Segments::Fin),
        ("rst", Segments::Rst),
        ("data", Segments::Data),
        ("msyn", Segments::Msyn),
        ("msyn-ack", Segments::MsynAck),
        ("migrate-ack", Segments::MigrateAck),
        ("migrate-reset", Segments::MigrateReset),
    ];

    pub fn word(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, segments)| *segments == self)
            .map_or("any", |(word, _)| word)
    }
}

#[derive(Clone, Debug)]
pub enum HostChange {
    /// Leaves one link (address and routes go) and joins another, `gap` later.
    Move { from: Name, to: Name, gap: Duration },
    /// Addresses that go and come on one link.
    Address {
        link: Name,
        remove: Vec<Prefix>,
        add: Vec<Prefix>,
    },
    /// The host sleeps: nothing on it runs, its timers stand still, its clock goes on. The story goes on meanwhile.
    Sleep(Duration),
    /// `via` none: the route goes.
    Route { to: Option<Prefix>, via: Option<IpAddr> },
}

#[derive(Clone, Debug)]
pub enum NaptChange {
    /// Connection tracking forgets everything.
    Flush,
    /// Forwards nothing for this long, and has forgotten everything afterwards.
    Reboot { outage: Duration },
    /// New connections get other ports from now on.
    Ports(Ports),
}

#[derive(Clone, Debug)]
pub enum ProgramChange {
    Kill,
    /// Sends this text to its standard input.
    Type(String),
    /// Idle connections say something and wait for the answer.
    Speak,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentChange {
    Start,
    Stop,
    Kill,
    Restart,
}

#[derive(Clone, Debug)]
pub enum Addressee {
    Agent(Name),
    Server(Name),
}

#[derive(Clone, Debug)]
pub enum RelayChange {
    Process(AgentChange),
    /// Its connections carry data on one path only.
    Prefer(PreferredPath),
}

#[derive(Clone, Debug)]
pub enum PreferredPath {
    All,
    Address(IpAddr),
    /// The address there that is not the relay's.
    Link(Name),
}

#[derive(Clone, Debug)]
pub struct ProgramStart {
    pub host: Name,
    pub name: Name,
    pub program: Program,
    /// What is expected of it when the line waits for its end.
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Debug)]
pub enum Program {
    /// Any command; words in braces are replaced.
    Exec(Vec<String>),
    /// The lab's own server for `fetch`, `push`, `exchange`, `echo` and `idle`.
    Serve {
        port: u16,
        options: SocketOptions,
    },
    Talk(Talk),
    /// One connection, step by step.
    Dialog(String),
    Sshd {
        port: u16,
    },
    Httpd {
        directory: Option<String>,
        port: u16,
    },
    Iperf3d {
        port: u16,
    },
    Ssh {
        to: Name,
        port: u16,
        ipv6: bool,
        command: Vec<String>,
    },
}

/// A client of the lab's own server.
#[derive(Clone, Debug)]
pub struct Talk {
    pub what: Talking,
    pub to: Name,
    /// The address dialled instead of the host's first one.
    pub address: Option<IpAddr>,
    pub ipv6: bool,
    pub port: u16,
    pub connections: u32,
    pub options: SocketOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talking {
    /// Receives this many bytes.
    Fetch(u64),
    /// Sends this many bytes.
    Push(u64),
    /// Both at once on one connection.
    Exchange(u64),
    /// Sends `size` bytes every `every` and waits for them to come back.
    Echo {
        size: u32,
        every: Duration,
        count: Option<u64>,
    },
    /// Connects and stays silent until told to speak.
    Idle,
    /// So many connections one after the other, each with one question.
    Visits(u64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    pub user_timeout: Option<Duration>,
    pub keepalive: Option<Keepalive>,
    pub nodelay: bool,
    /// The program's sockets speak MPTCP.
    pub mptcp: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub exit: Option<i32>,
    /// Regular expressions over standard output and standard error.
    pub output: Vec<String>,
    pub within: Option<Duration>,
}

//! A scenario as values: the network first, then the story.
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::diagnostic::Place;
use super::lexer::Sign;
use super::units::Prefix;

/// A name and where it stands. Two names are equal when their texts are.
#[derive(Clone, Debug, Default)]
pub struct Name {
    pub text: String,
    pub place: Place,
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.text == other.text
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Scenario {
    pub file: String,
    pub title: Option<String>,
    pub nodes: Vec<Node>,
    pub links: Vec<Link>,
    pub routes: Vec<Route>,
    pub sysctls: Vec<Sysctl>,
    pub agents: Vec<AgentStart>,
    /// The captures are wanted although the run succeeds.
    pub capture: bool,
    /// The run is given up after this time.
    pub limit: Option<Duration>,
    pub steps: Vec<Step>,
}

impl Scenario {
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name.text == name)
    }

    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name.text == name)
    }

    /// The links of a node in the order of the file, with the index of its end.
    pub fn links_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (&'a Link, usize)> + 'a {
        self.links.iter().filter_map(move |link| link.end_at(node).map(|end| (link, end)))
    }

    /// The first address of a node, in the order of the file.
    pub fn address_of(&self, node: &str, ipv6: bool) -> Option<IpAddr> {
        self.links_of(node)
            .flat_map(|(link, end)| &link.ends[end].addresses)
            .find(|prefix| prefix.is_ipv6() == ipv6)
            .map(|prefix| prefix.address)
    }

    /// The link on which a NAPT hides its inside: the one named, else its only link to a router.
    pub fn outside_of<'a>(&'a self, node: &'a Node) -> Option<&'a Link> {
        let Kind::Napt(rule) = &node.kind else { return None };
        if let Some(outside) = &rule.outside {
            return self.link(&outside.text);
        }
        let mut routers = self.links_of(&node.name.text).filter(|(link, end)| {
            self.node(&link.ends[1 - end].node.text).is_some_and(|far| far.kind == Kind::Router)
        });
        match (routers.next(), routers.next()) {
            (Some((link, _)), None) => Some(link),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub name: Name,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Host,
    Router,
    Napt(NaptRule),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NaptRule {
    pub ports: Ports,
    pub outside: Option<Name>,
    /// Strangers from outside are dropped silently; otherwise the NAPT answers as a plain kernel does (RST).
    pub silent: bool,
}

/// Which port a NAPT gives to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// The inside port, when it is free.
    #[default]
    Kept,
    Random,
    FullyRandom,
}

#[derive(Clone, Debug)]
pub struct Link {
    pub name: Name,
    pub ends: [End; 2],
    pub shape: Shape,
    /// The cable is pulled at first.
    pub down: bool,
    /// Asked to be a bare pair of devices that no event can touch.
    pub plain: bool,
}

impl Link {
    pub fn end_at(&self, node: &str) -> Option<usize> {
        self.ends.iter().position(|end| end.node.text == node)
    }
}

#[derive(Clone, Debug)]
pub struct End {
    pub node: Name,
    pub addresses: Vec<Prefix>,
}

/// What a link does to every frame; equal in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// Bits per second on the wire.
    pub rate: Option<u64>,
    /// One way.
    pub delay: Duration,
    /// Share of frames lost, 0 to 1.
    pub loss: f64,
    /// Bytes of an IP packet.
    pub mtu: Option<u32>,
    /// Bytes that may wait for their turn on a link with a rate.
    pub queue: Option<u64>,
}

/// The part of a [`Shape`] that one line sets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ShapeChange {
    pub rate: Option<u64>,
    pub delay: Option<Duration>,
    pub loss: Option<f64>,
    pub mtu: Option<u32>,
    pub queue: Option<u64>,
}

impl Shape {
    pub fn changed(mut self, change: &ShapeChange) -> Shape {
        self.rate = change.rate.or(self.rate);
        self.delay = change.delay.unwrap_or(self.delay);
        self.loss = change.loss.unwrap_or(self.loss);
        self.mtu = change.mtu.or(self.mtu);
        self.queue = change.queue.or(self.queue);
        self
    }
}

#[derive(Clone, Debug)]
pub struct Route {
    pub node: Name,
    /// `None` is the default route.
    pub to: Option<Prefix>,
    pub via: IpAddr,
}

#[derive(Clone, Debug)]
pub struct Sysctl {
    /// `None`: on every node.
    pub node: Option<Name>,
    pub key: String,
    pub value: String,
}

/// An agent that runs on a host before the story begins.
#[derive(Clone, Debug)]
pub struct AgentStart {
    pub host: Name,
    /// Keys for its configuration file, as written: value read as TOML if it can be, else as a string.
    pub settings: BTreeMap<String, String>,
}

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
    After { condition: Condition, limit: Option<Duration> },
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
    Link { link: Name, change: LinkChange },
    Host { host: Name, change: HostChange },
    Napt { napt: Name, change: NaptChange },
    Program { name: Name, change: ProgramChange },
    Start(ProgramStart),
    Agent { change: AgentChange, hosts: Vec<Name> },
}

#[derive(Clone, Debug)]
pub enum LinkChange {
    Up,
    /// The cable is pulled. `keep`: the hosts keep address and routes, as without a DHCP client.
    Down { keep: bool },
    /// Frames vanish, the carrier stays; of one sender only if `from` is given.
    Blackhole { from: Option<Name> },
    Heal,
    Shape(ShapeChange),
    Interfere(Interference),
    Replay { recording: Name, from: Option<Name> },
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
    /// Flips one bit of the TCP header, counted from its first, or of the Migrate option; the checksum is
    /// repaired unless `stale`.
    Flip { bit: u32, in_option: bool, stale: bool },
    Record(Name),
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
        Self::ALL.iter().find(|(_, segments)| *segments == self).map_or("any", |(word, _)| word)
    }
}

#[derive(Clone, Debug)]
pub enum HostChange {
    /// Leaves one link (address and routes go) and joins another, `gap` later.
    Move { from: Name, to: Name, gap: Duration },
    /// Addresses that go and come on one link.
    Address { link: Name, remove: Vec<Prefix>, add: Vec<Prefix> },
    /// `via` none: the route goes.
    Route { to: Option<Prefix>, via: Option<IpAddr> },
}

#[derive(Clone, Debug)]
pub enum NaptChange {
    /// Connection tracking forgets everything.
    Flush,
    /// Forwards nothing for this long, and has forgotten everything afterwards.
    Reboot { outage: Duration },
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
    Serve { port: u16, options: SocketOptions },
    Talk(Talk),
    Sshd { port: u16 },
    Httpd { directory: Option<String>, port: u16 },
    Iperf3d { port: u16 },
    Ssh { to: Name, port: u16, ipv6: bool, command: Vec<String> },
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
    Echo { size: u32, every: Duration, count: Option<u64> },
    /// Connects and stays silent until told to speak.
    Idle,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    pub user_timeout: Option<Duration>,
    pub keepalive: Option<Keepalive>,
    pub nodelay: bool,
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
    Agent { host: Name, list: AgentList },
    /// The run as a whole.
    Run,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentList {
    Connections,
    Pairs,
    Status,
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
    Compare { measure: Measure, sign: Sign, value: f64 },
    /// A field of the agent's answer.
    Field { key: String, sign: Sign, value: String },
}

/// What can be counted or timed.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// Of a program.
    Bytes,
    Answers,
    /// Longest time between two answers, or between two portions of data, in seconds.
    Gap,
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

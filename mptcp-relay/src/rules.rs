//! What the kernel is told to do with packets: an nft table of the relay's own, one rule of the older tables where the
//! kernel's nft cannot queue, and a routing table that delivers diverted packets here.
//!
//! A packet meets the chains in this order:
//!
//! 1. `sort`, before everything: a SYN with MP_CAPABLE or MP_JOIN from a terminal gets the mark "held".
//! 2. The queue takes what is held. While nobody reads the queue, the SYN passes, as if there were no relay.
//! 3. `released`: a SYN that the relay has released is not for connection tracking, nor is anything of a socket of the
//!    relay's: both of its connections have the same addresses and ports.
//! 4. `divert`: a released SYN goes to a listener here; what belongs to a socket of the relay's goes to that.
//!
//! In a deployment, `hand_over` and `handed_over` send a join that is another relay's to that one.
//!
//! The table is replaced as a whole, in one transaction, and no other table is touched.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};

use operator::prefix::Prefix;

use crate::config::Config;
use crate::syn::Ends;
use crate::sysctl;

/// Where the listeners are: an address of the loopback device that nobody else uses.
pub const LISTENERS_V4: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
/// And for IPv6, which has but one.
pub const LISTENERS_V6: Ipv6Addr = Ipv6Addr::LOCALHOST;

/// The bits of packets' marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// A SYN for the queue.
    pub held: u32,
    /// A SYN that the relay has released.
    pub released: u32,
    /// Delivered here, whatever its destination.
    pub local: u32,
    /// Sent by a socket of the relay's.
    pub own: u32,
}

impl Marks {
    /// Four bits from this one on.
    pub fn from(lowest: u32) -> Self {
        Self {
            held: lowest,
            released: lowest << 1,
            local: lowest << 2,
            own: lowest << 3,
        }
    }

    /// A server's SYN for the queue, and what a terminal answers to a probe.
    pub fn down(self) -> u32 {
        self.held | self.own
    }

    /// The socket that asks a terminal whether it speaks MPTCP.
    pub fn probe(self) -> u32 {
        self.own | self.held
    }

    /// A server's SYN that is released to this host, since the terminal has answered.
    pub fn answered(self) -> u32 {
        self.released | self.own
    }

    /// All bits.
    pub fn all(self) -> u32 {
        self.held | self.released | self.local | self.own
    }
}

/// Who holds packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// nft's own queue statement.
    Nft,
    /// The NFQUEUE target of the older tables.
    Xtables,
}

/// A command that could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// It is not there.
    #[error("cannot start {program}: {error}; install the package that has it ({package})")]
    Missing {
        /// What was to be started.
        program: &'static str,
        /// The cause.
        error: std::io::Error,
        /// Who has it.
        package: &'static str,
    },
    /// It says no.
    #[error("{line}: {said}")]
    Refused {
        /// What was asked.
        line: String,
        /// What it said.
        said: String,
    },
    /// Nothing on this kernel can hold packets.
    #[error(
        "this kernel can hold no packets for a program (nft queue: {nft}; NFQUEUE: {xtables}); it needs CONFIG_NFT_QUEUE or \
         CONFIG_NETFILTER_XT_TARGET_NFQUEUE"
    )]
    NoQueue {
        /// What nft says.
        nft: String,
        /// What iptables says.
        xtables: String,
    },
}

fn package(program: &str) -> &'static str {
    match program {
        "nft" => "nftables",
        "ip" => "iproute2",
        _ => "iptables",
    }
}

fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<(), RulesError> {
    let missing = |error| RulesError::Missing {
        program,
        error,
        package: package(program),
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(missing)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(RulesError::Refused {
            line: format!("{program} {}", arguments.join(" ")),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// Everything the relay has in the kernel's tables.
#[derive(Clone, Debug)]
pub struct Rules {
    marks: Marks,
    table: String,
    queue: u16,
    interfaces: Vec<String>,
    terminals: Vec<Prefix>,
    downlink: bool,
    refuse: Vec<Prefix>,
    reverse_path: bool,
    listen_port: u16,
    announce: Vec<SocketAddr>,
    /// Whether joins are handed to other relays, and taken from them.
    deployed: bool,
    route_table: String,
    priority: String,
    holder: Holder,
}

fn family(prefix: &Prefix) -> &'static str {
    if prefix.is_ipv6() { "ip6" } else { "ip" }
}

/// A condition for each prefix; none: the condition that always holds.
fn addresses(prefixes: &[Prefix], side: &'static str) -> impl Iterator<Item = String> {
    let any = prefixes.is_empty().then(String::new);
    let each = prefixes
        .iter()
        .map(move |prefix| format!("{} {side} {prefix} ", family(prefix)));
    any.into_iter().chain(each)
}

/// How long what is handed over is remembered, in seconds: from then on connection tracking knows it.
const HANDED: u64 = 60;

/// The programs of the older tables: some distributions have one name, some the other.
const XTABLES: [[&str; 2]; 2] = [["iptables-legacy", "ip6tables-legacy"], ["iptables", "ip6tables"]];

impl Rules {
    /// As configured, for a kernel with this holder.
    pub fn new(config: &Config, holder: Holder) -> Self {
        Self {
            marks: Marks::from(config.mark),
            table: config.nft_table.clone(),
            queue: config.queue,
            interfaces: config.interfaces.clone(),
            terminals: config.terminals.clone(),
            downlink: config.has_downlink(),
            refuse: config.refuse.clone(),
            reverse_path: config.reverse_path,
            listen_port: config.listen_port,
            announce: config.announce.clone(),
            deployed: false,
            route_table: config.table.to_string(),
            priority: config.rule_priority.to_string(),
            holder,
        }
    }

    /// With the chains by which joins are handed to other relays of a deployment, and taken from them.
    pub fn deployed(self, deployed: bool) -> Self {
        Self { deployed, ..self }
    }

    /// Finds out who can hold packets here; changes nothing that stays.
    ///
    /// # Errors
    /// [`RulesError::NoQueue`], and missing programs.
    pub fn probe(config: &Config) -> Result<Holder, RulesError> {
        let nft = match Self::new(config, Holder::Nft).check() {
            Ok(()) => return Ok(Holder::Nft),
            Err(error @ RulesError::Missing { .. }) => return Err(error),
            Err(error) => error,
        };
        let rules = Self::new(config, Holder::Xtables);
        rules.check()?;
        rules.xtables("-A").map_err(|xtables| RulesError::NoQueue {
            nft: nft.to_string(),
            xtables: xtables.to_string(),
        })?;
        let _ = rules.xtables("-D");
        Ok(Holder::Xtables)
    }

    /// Whether the kernel would take the table.
    fn check(&self) -> Result<(), RulesError> {
        run("nft", &["-c", "-f", "-"], &self.script())
    }

    /// The whole table, as one transaction that replaces what was there under its name.
    pub fn script(&self) -> String {
        let Marks {
            held,
            released,
            local,
            own,
        } = self.marks;
        let table = &self.table;
        let mut text = format!("table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
        if self.deployed {
            for (map, kind) in [("handed4", "ipv4_addr"), ("handed6", "ipv6_addr")] {
                let _ = writeln!(
                    text,
                    "  map {map} {{\n    type {kind} . inet_service . {kind} . inet_service : {kind}\n    \
                     timeout {HANDED}s\n  }}"
                );
            }
        }
        let mut chain = |name: &str, lines: &[String]| {
            let _ = writeln!(text, "  chain {name} {{");
            for line in lines {
                let _ = writeln!(text, "    {line}");
            }
            let _ = writeln!(text, "  }}");
        };
        let queue = match self.holder {
            Holder::Nft => format!(" queue flags bypass to {}", self.queue),
            Holder::Xtables => String::new(),
        };
        let (probe, down) = (self.marks.probe(), self.marks.down());
        let mut sort = vec![
            "type filter hook prerouting priority -301; policy accept;".to_owned(),
            "tcp flags & (fin | syn | rst | ack) == syn jump suspects".into(),
        ];
        if self.downlink {
            sort.push(format!(
                "tcp flags & (fin | syn | rst | ack) == (syn | ack) socket mark & {probe:#x} == {probe:#x} \
                 meta mark set meta mark | {down:#x}{queue}"
            ));
        }
        chain("sort", &sort);
        let mut suspects = Vec::new();
        if self.deployed {
            // Another relay of the deployment hands a join over: it comes to an address of this host's own.
            for address in &self.announce {
                let family = if address.is_ipv6() { "ip6" } else { "ip" };
                let (ip, port) = (address.ip(), address.port());
                suspects.push(format!("{family} daddr {ip} tcp dport {port} return"));
            }
            suspects.push(format!(
                "fib daddr type local tcp option mptcp subtype 1 meta mark set meta mark | {held:#x}{queue}"
            ));
        }
        suspects.push("fib daddr type != unicast return".to_owned());
        if self.reverse_path {
            suspects.push("fib saddr . iif oif missing return".into());
        }
        let devices = (!self.interfaces.is_empty()).then(|| {
            let names: Vec<String> = self.interfaces.iter().map(|name| format!("{name:?}")).collect();
            format!("{{ {} }} ", names.join(", "))
        });
        let device = |side: &str| match &devices {
            Some(names) => format!("{side} {names}"),
            None => String::new(),
        };
        suspects.extend(
            addresses(&self.terminals, "saddr").map(|from| format!("{}{from}goto up", device("iifname"))),
        );
        if self.downlink {
            let to = addresses(&self.terminals, "daddr");
            suspects.extend(to.map(|to| format!("{}{to}goto down", device("fib daddr oifname"))));
        }
        let refused = |side: &'static str| {
            let prefixes = self.refuse.iter();
            prefixes.map(move |prefix| format!("{} {side} {prefix} return", family(prefix)))
        };
        let mut up: Vec<String> = refused("daddr").collect();
        up.push(format!(
            "tcp option mptcp subtype {{ 0, 1 }} meta mark set meta mark | {held:#x}{queue}"
        ));
        chain("up", &up);
        if self.downlink {
            let mut lines: Vec<String> = refused("saddr").collect();
            // Such a server needs no relay.
            lines.push("tcp option mptcp exists return".into());
            lines.push(format!("meta mark set meta mark | {down:#x}{queue}"));
            chain("down", &lines);
        }
        chain("suspects", &suspects);
        chain(
            "released",
            &[
                "type filter hook prerouting priority -299; policy accept;".into(),
                format!("meta mark & {released:#x} == {released:#x} notrack accept"),
                "meta l4proto tcp socket transparent 1 notrack".into(),
            ],
        );
        let deliver = format!("meta mark set meta mark | {local:#x} accept");
        let mut divert = vec!["type filter hook prerouting priority -140; policy accept;".to_owned()];
        let port = self.listen_port;
        for (family, proxy, address) in [
            ("ipv4", "ip", LISTENERS_V4.to_string()),
            ("ipv6", "ip6", format!("[{LISTENERS_V6}]")),
        ] {
            if self.downlink {
                let down = self.marks.answered();
                divert.push(format!(
                    "meta nfproto {family} meta l4proto tcp meta mark & {down:#x} == {down:#x} \
                     tproxy {proxy} to {address}:{} {deliver}",
                    port + 1
                ));
            }
            // The listener on the service's own port, else the one for all.
            for to in [address.clone(), format!("{address}:{port}")] {
                divert.push(format!(
                    "meta nfproto {family} meta l4proto tcp meta mark & {released:#x} == {released:#x} \
                     tproxy {proxy} to {to} {deliver}"
                ));
            }
        }
        divert.push(format!("meta l4proto tcp socket transparent 1 {deliver}"));
        chain("divert", &divert);
        chain(
            "own",
            &[
                "type filter hook output priority -301; policy accept;".into(),
                format!("meta mark & {own:#x} == {own:#x} notrack"),
            ],
        );
        if self.deployed {
            self.hand_over_chains(&mut chain);
        }
        text += "}\n";
        text
    }

    /// A join that this relay hands over is sent to the owner's address, from one of this host's: its answers come back
    /// this way, and connection tracking does the rest, with or without a relay.
    fn hand_over_chains(&self, chain: &mut impl FnMut(&str, &[String])) {
        let handed = format!("meta mark & {0:#x} == {0:#x}", self.marks.own);
        let to = |family: &str, map: &str| {
            format!(
                "{handed} dnat {family} to {family} saddr . tcp sport . {family} daddr . tcp dport map @{map}"
            )
        };
        chain(
            "hand_over",
            &[
                "type nat hook prerouting priority -100; policy accept;".into(),
                to("ip", "handed4"),
                to("ip6", "handed6"),
            ],
        );
        chain(
            "handed_over",
            &[
                "type nat hook postrouting priority 100; policy accept;".into(),
                format!("{handed} ct status dnat masquerade"),
            ],
        );
    }

    /// A join between these ends is another relay's: what follows its SYN goes to that one.
    ///
    /// # Errors
    /// The kernel refuses; or the addresses are of two families.
    pub fn hand_over(&self, ends: Ends, owner: IpAddr) -> Result<(), RulesError> {
        let map = if owner.is_ipv4() { "handed4" } else { "handed6" };
        let (terminal, server) = (ends.terminal, ends.server);
        let element = format!(
            "add element inet {} {map} {{ {} . {} . {} . {} : {owner} }}\n",
            self.table,
            terminal.ip(),
            terminal.port(),
            server.ip(),
            server.port()
        );
        run("nft", &["-f", "-"], &element)
    }

    fn xtables(&self, what: &str) -> Result<(), RulesError> {
        let mark = format!("{0:#x}/{0:#x}", self.marks.held);
        let queue = self.queue.to_string();
        let arguments = [
            "-w",
            "-t",
            "raw",
            what,
            "PREROUTING",
            "-p",
            "tcp",
            "-m",
            "mark",
            "--mark",
            &mark,
            "-m",
            "comment",
            "--comment",
            &self.table,
            "-j",
            "NFQUEUE",
            "--queue-num",
            &queue,
            "--queue-bypass",
        ];
        let mut last = None;
        for names in XTABLES {
            let outcome = names.iter().try_for_each(|program| run(program, &arguments, ""));
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) => last = last.or(Some(error)),
            }
        }
        last.map_or(Ok(()), Err)
    }

    fn routes(&self, add: bool) -> Result<(), RulesError> {
        let mark = format!("{0:#x}/{0:#x}", self.marks.local);
        for family in ["-4", "-6"] {
            if family == "-6" && !sysctl::has_ipv6() {
                continue;
            }
            let everything = if family == "-4" { "0.0.0.0/0" } else { "::/0" };
            let rule = [
                family,
                "rule",
                if add { "add" } else { "del" },
                "fwmark",
                &mark,
                "lookup",
                &self.route_table,
                "priority",
                &self.priority,
            ];
            let route = [
                family,
                "route",
                if add { "replace" } else { "del" },
                "local",
                everything,
                "dev",
                "lo",
                "table",
                &self.route_table,
            ];
            run("ip", &rule, "")?;
            run("ip", &route, "")?;
        }
        Ok(())
    }

    /// Installs everything; what sends packets here comes last. What an earlier run has left is replaced.
    ///
    /// # Errors
    /// What could not be done; what was done before is taken back.
    pub fn install(&self) -> Result<(), RulesError> {
        self.remove();
        let outcome = self.routes(true).and_then(|()| {
            if self.holder == Holder::Xtables {
                self.xtables("-A")?;
            }
            run("nft", &["-f", "-"], &self.script())
        });
        if outcome.is_err() {
            self.remove();
        }
        outcome
    }

    /// Removes whatever is there; what it was.
    pub fn remove(&self) -> Vec<String> {
        let mut removed = Vec::new();
        let table = self.table.as_str();
        if run("nft", &["delete", "table", "inet", table], "").is_ok() {
            removed.push(format!("nft table inet {table}"));
        }
        let mut holds = 0;
        while holds < 8 && self.xtables("-D").is_ok() {
            holds += 1;
        }
        if holds > 0 {
            removed.push(format!("NFQUEUE rule of queue {}", self.queue));
        }
        let mark = format!("{0:#x}/{0:#x}", self.marks.local);
        let mut rules = 0;
        for family in ["-4", "-6"] {
            let everything = if family == "-4" { "0.0.0.0/0" } else { "::/0" };
            let rule = [
                family,
                "rule",
                "del",
                "fwmark",
                &mark,
                "lookup",
                &self.route_table,
                "priority",
                &self.priority,
            ];
            while rules < 16 && run("ip", &rule, "").is_ok() {
                rules += 1;
            }
            let route = [
                family,
                "route",
                "del",
                "local",
                everything,
                "dev",
                "lo",
                "table",
                &self.route_table,
            ];
            let _ = run("ip", &route, "");
        }
        if rules > 0 {
            removed.push(format!("routing table {} and its rules", self.route_table));
        }
        removed
    }
}

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
//! For `anchor`, SYNs that offer migration are held like those with MP_CAPABLE, and what terminals' agents say to the servers'
//! goes to the one on this host.
//!
//! In a deployment, `hand_over` and `handed_over` send a join that is another relay's to that one.
//!
//! The table (`table`) is replaced as a whole, in one transaction, and no other table is touched.

mod table;

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

    /// The SYN of a terminal without MPTCP whose connection is anchored here.
    pub fn anchored(self) -> u32 {
        self.released | self.held
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
    anchor: Vec<Prefix>,
    anchor_port: u16,
    reverse_path: bool,
    listen_port: u16,
    announce: Vec<SocketAddr>,
    /// Whether joins are handed to other relays, and taken from them.
    deployed: bool,
    route_table: String,
    priority: String,
    holder: Holder,
}

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
            anchor: config.anchor.clone(),
            anchor_port: config.anchor_port,
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

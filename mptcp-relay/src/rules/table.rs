//! The nft table, as a script: which segments are marked, held, tracked, and delivered here.

use std::fmt::Write as _;

use operator::prefix::Prefix;

use super::{Holder, LISTENERS_V4, LISTENERS_V6, Marks, Rules};

/// How long what is handed over is remembered, in seconds: from then on connection tracking knows it.
const HANDED: u64 = 60;

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

impl Rules {
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
        let anchors = addresses(&self.anchor, "daddr").filter(|_| !self.anchor.is_empty());
        up.extend(anchors.map(|to| {
            format!("{to}tcp option mptcp missing tcp option 253 exists meta mark set meta mark | {held:#x}{queue}")
        }));
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
            if !self.anchor.is_empty() {
                let anchored = self.marks.anchored();
                divert.push(format!(
                    "meta nfproto {family} meta l4proto tcp meta mark & {anchored:#x} == {anchored:#x} \
                     tproxy {proxy} to {address}:{} {deliver}",
                    port + 2
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
        if !self.anchor.is_empty() {
            let agent = self.anchor_port;
            let mut lines = vec!["type nat hook prerouting priority -100; policy accept;".to_owned()];
            lines.extend(
                addresses(&self.anchor, "daddr")
                    .map(|to| format!("{}{to}tcp dport {agent} redirect to :{agent}", device("iifname"))),
            );
            chain("anchor", &lines);
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
}

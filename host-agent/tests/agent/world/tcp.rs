//! As much of a kernel's TCP as the agent depends on: numbers that grow, acknowledgements, retransmission, resets.

use std::collections::BTreeMap;

use wire::flags::Flags;
use wire::segment::Segment;
use wire::tuple::Tuple;

use super::{Host, Side, seen_by};

const CLOSE: u32 = 7;

/// What the sockets of a host hold beside what the data path knows.
#[derive(Default)]
pub struct Stack {
    received: BTreeMap<Tuple, Vec<u8>>,
    unacknowledged: BTreeMap<Tuple, Vec<Segment>>,
    /// Connections that ended with a reset, as their applications see it.
    pub reset: Vec<Tuple>,
    /// Segments for which there is no socket.
    pub strays: Vec<Segment>,
}

impl Host {
    /// What an application has received; the tuple is A's.
    pub fn received(&self, identity: Tuple) -> Vec<u8> {
        self.stack
            .received
            .get(&self.own(identity))
            .cloned()
            .unwrap_or_default()
    }

    /// A's tuple as this host's socket knows it.
    pub fn own(&self, identity: Tuple) -> Tuple {
        let side = if self.name == "a" { Side::A } else { Side::B };
        seen_by(side, identity)
    }

    pub(super) fn write(&mut self, identity: Tuple, bytes: &[u8]) {
        let identity = self.own(identity);
        let Some(tcp) = self.agent.datapath.tcp_mut(&identity) else {
            return;
        };
        let mut segment = Segment::pure_ack(identity, tcp.snd_nxt, tcp.rcv_nxt, tcp.window_field(), None);
        segment.payload = bytes.to_vec();
        tcp.snd_nxt = tcp.snd_nxt.wrapping_add(bytes.len() as u32);
        tcp.packets_out += 1;
        self.stack
            .unacknowledged
            .entry(identity)
            .or_default()
            .push(segment.clone());
        self.send_from_socket(segment);
    }

    pub(super) fn time_out(&mut self, identity: Tuple) {
        let identity = self.own(identity);
        self.agent.datapath.retransmission_timeout(&identity);
        let head = self
            .stack
            .unacknowledged
            .get(&identity)
            .and_then(|waiting| waiting.first())
            .cloned();
        head.into_iter()
            .for_each(|segment| self.send_from_socket(segment));
    }

    /// The kernel's socket goes away; `reset`: with an RST.
    pub fn abort(&mut self, identity: Tuple) {
        let identity = self.own(identity);
        if let Some(socket) = self.agent.datapath.socket(&identity) {
            let reset = Segment::bare(
                identity,
                Flags::RST | Flags::ACK,
                socket.tcp.snd_nxt,
                socket.tcp.rcv_nxt,
                0,
            );
            self.agent.datapath.change_state(&identity, CLOSE);
            self.send_from_socket(reset);
        }
    }

    /// What arrives at the local stack, with the tuple that sockets know.
    pub(super) fn hand_to_stack(&mut self, segment: &Segment) {
        let identity = segment.tuple().reversed();
        let Some(tcp) = self.agent.datapath.tcp_mut(&identity) else {
            self.stack.strays.push(segment.clone());
            return;
        };
        if segment.flags.contains(Flags::RST) {
            if segment.seq == tcp.rcv_nxt {
                self.stack.reset.push(identity);
                self.agent.datapath.change_state(&identity, CLOSE);
            }
            return;
        }
        if segment.flags.contains(Flags::SYN) {
            return;
        }
        let newly = segment.ack.wrapping_sub(tcp.snd_una);
        if newly <= tcp.snd_nxt.wrapping_sub(tcp.snd_una) {
            tcp.snd_una = segment.ack;
            tcp.probes_out = 0;
            tcp.backoff = 0;
            let waiting = self.stack.unacknowledged.entry(identity).or_default();
            waiting.retain(|sent| {
                let end = sent.seq.wrapping_add(sent.payload.len() as u32);
                (end.wrapping_sub(segment.ack) as i32) > 0
            });
            tcp.packets_out = waiting.len() as u32;
        }
        if segment.payload.is_empty() {
            return;
        }
        if segment.seq == tcp.rcv_nxt {
            tcp.rcv_nxt = tcp.rcv_nxt.wrapping_add(segment.payload.len() as u32);
            self.stack
                .received
                .entry(identity)
                .or_default()
                .extend(&segment.payload);
        }
        let ack = Segment::pure_ack(identity, tcp.snd_nxt, tcp.rcv_nxt, tcp.window_field(), None);
        self.send_from_socket(ack);
    }
}

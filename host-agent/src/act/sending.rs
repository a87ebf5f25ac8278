//! Composing and sending: the handshake, and what lets data flow at once after it.

use std::time::Duration;

use super::*;
use crate::sessions::Stalled;

/// What is sent at once may be lost in the first crowd on a new path: it is sent again after this ...
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// ... doubling up to this; then the kernel's own timer is as good.
const LAST_WAIT: Duration = Duration::from_millis(1600);

impl<D: Datapath> Agent<D> {
    /// Composes, signs and sends a segment with a Migrate-Request; `answers`: to the peer's last.
    pub(super) fn send_request(
        &mut self,
        identity: Tuple,
        answers: bool,
        tuple: Tuple,
        token_of: ReqNo,
        req_no: ReqNo,
        compose: impl Fn(Tuple, Standing, SynOptions) -> Segment,
    ) {
        let tcp = self
            .datapath
            .read_tcp(&identity)
            .ok()
            .flatten()
            .unwrap_or_default();
        let Some(managed) = self.sessions.get(&identity) else {
            return;
        };
        let ifindex = managed.paths.get(&tuple.local).map(|path| path.ifindex);
        let mtu = ifindex
            .and_then(|ifindex| self.network.mtu(ifindex))
            .unwrap_or(1500);
        let headers = if tuple.is_ipv4() { 40 } else { 60 };
        let syn = SynOptions {
            window_scale: tcp.receive_scale.unwrap_or(0),
            mss: mtu.saturating_sub(headers).min(u32::from(u16::MAX)) as u16,
        };
        let sign = |set: &KeySet| {
            let standing = Standing {
                token: set.keys.token(token_of),
                req_no,
                seq: tcp.snd_nxt,
                rcv_nxt: tcp.rcv_nxt,
                window: tcp.window_field(),
            };
            let mut segment = compose(tuple, standing, syn);
            if segment.flags.contains(Flags::SYN) {
                segment.window = tcp.receive_window.min(u32::from(u16::MAX)) as u16;
            }
            // What only the proxy has to believe, it knows by its own key.
            let leg = managed.leg_towards(tuple.remote);
            let knocks = leg.filter(|_| segment.flags.contains(Flags::SYN));
            let proxys = knocks.map(|leg| leg.key.to_proxy());
            let key = proxys.as_ref().unwrap_or_else(|| set.keys.outgoing(managed.role));
            segment.sign(key, ReqNo::UNMOVED).map(|()| segment)
        };
        let signed: Vec<_> = managed.signers(answers).into_iter().map(sign).collect();
        for segment in signed {
            match segment {
                Ok(segment) => self.emit(identity, &segment),
                Err(error) => tracing::error!(%error, "cannot sign a segment"),
            }
        }
    }

    pub(super) fn emit(&mut self, identity: Tuple, segment: &Segment) {
        let ifindex = self.path(identity, segment.source).ifindex;
        tracing::trace!(connection = %identity, %segment, "send");
        match segment.emit() {
            Ok(packet) => self.send(&packet, ifindex),
            Err(error) => tracing::error!(%error, "cannot compose a segment"),
        }
    }

    pub(super) fn send(&mut self, packet: &[u8], ifindex: u32) {
        if let Err(error) = self.datapath.send(packet, (ifindex != 0).then_some(ifindex)) {
            // The path went away again, or the neighbour is not resolved yet: retries follow.
            self.timeline.count("send_failed");
            tracing::debug!(%error, "not sent");
        }
    }

    /// What lets data flow at once: a pure ACK that says where we stand, then the head of the line, or a probe.
    pub(crate) fn kick(&mut self, identity: Tuple, now: Timestamp) {
        let Ok(Some(tcp)) = self.datapath.read_tcp(&identity) else {
            return;
        };
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let wire = managed.machine.wire();
        if let Some(detached) = managed.detached_at.take() {
            managed.last_outage = Some(now.since(detached));
        }
        managed.stalled = managed.stalled.filter(|stalled| stalled.snd_una == tcp.snd_una);
        if tcp.packets_out > 0 {
            let wait = managed.stalled.map_or(FIRST_WAIT, |stalled| stalled.wait * 2);
            managed.stalled = (wait <= LAST_WAIT).then_some(Stalled {
                snd_una: tcp.snd_una,
                again: now + wait,
                wait,
            });
        }
        let first = managed.usable_at.take().map(|usable| now.since(usable));
        if let Some(took) = first {
            managed.last_resumption = Some(took);
        }
        let ifindex = self.path(identity, wire.local).ifindex;
        let window = tcp.window_field();
        // What we would echo is as old as the outage, and would pass for the round-trip time: echo nothing.
        let tcp = TcpState {
            timestamps: tcp.timestamps.map(|(value, _)| (value, 0)),
            ..tcp
        };
        let ack = Segment::pure_ack(wire, tcp.snd_nxt, tcp.rcv_nxt, window, tcp.timestamps);
        self.emit_by(&ack, ifindex);
        let frames = self.head_of_line(identity, wire, &tcp);
        if frames.is_empty() && tcp.packets_out == 0 {
            let probe = Segment::probe(wire, tcp.snd_una, tcp.rcv_nxt, window, tcp.timestamps);
            self.emit_by(&probe, ifindex);
        } else if frames.is_empty() {
            self.hurry(identity, &tcp);
        }
        frames.iter().for_each(|frame| self.send(frame, ifindex));
    }

    /// Data is outstanding and no cached segment of it is at hand: the kernel is told to take back the doublings
    /// of its retransmission timer.
    pub(super) fn hurry(&mut self, identity: Tuple, tcp: &TcpState) {
        self.timeline.count("no_head");
        for _ in 0..tcp.backoff {
            match wire::unreachable::unreachable(identity, tcp.snd_una) {
                Ok(packet) => self.write(|datapath| datapath.deliver(&packet)),
                Err(error) => tracing::error!(%error, "cannot compose an ICMP error"),
            }
        }
    }

    pub(super) fn emit_by(&mut self, segment: &Segment, ifindex: u32) {
        match segment.emit() {
            Ok(packet) => self.send(&packet, ifindex),
            Err(error) => tracing::error!(%error, "cannot compose a segment"),
        }
    }

    /// The cached segment at SND.UNA, and the last one that was parked, whose arrival makes the peer say what is
    /// missing in between. Whole, in as many pieces as the path needs: the kernel takes a segment that is
    /// acknowledged in part for one still in flight, and waits.
    pub(super) fn head_of_line(&self, identity: Tuple, wire: Tuple, tcp: &TcpState) -> Vec<Vec<u8>> {
        if tcp.packets_out == 0 {
            return Vec::new();
        }
        let heads = self.datapath.heads(&identity);
        let in_flight = |seq: u32| seq.wrapping_sub(tcp.snd_una) < tcp.snd_nxt.wrapping_sub(tcp.snd_una);
        let head = heads.head.filter(|frame| frame.seq == tcp.snd_una);
        let last = heads.last.filter(|frame| in_flight(frame.seq));
        let mtu = self
            .network
            .mtu(self.path(identity, wire.local).ifindex)
            .unwrap_or(1500) as usize;
        head.into_iter()
            .chain(last)
            .filter_map(|frame| wire::frame::cut_frame(&frame.bytes, wire, mtu, tcp.timestamps).ok())
            .flatten()
            .collect()
    }
}

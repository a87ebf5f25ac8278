//! What a NAPT on the new path must have seen of a connection before it lets the connection pass.
//!
//! A NAPT that tracks windows knows the handshake's numbers and no others. It drops what acknowledges more than it has seen
//! of the other end here, and takes no notice of what acknowledges less by more than the window that it has seen: what comes
//! with it is then unknown, too. Two kinds of connections would stand still on such a path, each end waiting for the other
//! to be let through: those that went on elsewhere in both directions while the handshake was under way, and those
//! with more in flight than a window without scaling holds. Segments that no TCP hears, with the numbers of the
//! handshake and of now, bring the NAPT up to date.

use super::*;

/// What a window field holds without scaling, with some room for what is sent meanwhile.
const UNSCALED: i32 = 60_000;

impl<D: Datapath> Agent<D> {
    /// Shows this end's window and where it stands. `seq` and `ack` are what this end's first segment after the handshake
    /// has; `first`: with these numbers nothing has shown the scaled window yet.
    pub(crate) fn bridge(
        &mut self,
        identity: Tuple,
        tuple: Tuple,
        req_no: ReqNo,
        (seq, ack): (u32, u32),
        first: bool,
    ) {
        let Ok(Some(tcp)) = self.datapath.read_tcp(&identity) else {
            return;
        };
        let managed = self.sessions.get(&identity);
        // A proxy passes on what it knows, and no more.
        let Some(managed) = managed.filter(|managed| managed.leg_towards(tuple.remote).is_none()) else {
            return;
        };
        let known = managed.machine.known();
        let ahead = |number: u32, of: u32| number.wrapping_sub(of) as i32;
        let both_went_on = ahead(tcp.snd_nxt, seq) > 0 && ahead(tcp.rcv_nxt, ack) > 0;
        let far = ahead(tcp.rcv_nxt, ack).saturating_abs() > UNSCALED;
        let mut show = |seq| {
            self.send_request(identity, false, tuple, known, req_no, |tuple, standing, _| {
                Segment::migrate_ack(tuple, Standing { seq, ..standing }, ack)
            });
        };
        if first && (both_went_on || far) {
            show(seq);
        }
        if both_went_on {
            show(tcp.snd_nxt);
        }
    }
}

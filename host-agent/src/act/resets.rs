//! Whose reset is it: asking, answering, delivering.

use super::*;

impl<D: Datapath> Agent<D> {
    pub(super) fn query(&mut self, identity: Tuple) {
        self.ask_about_reset(identity);
        let Some(managed) = self.sessions.get(&identity) else {
            return;
        };
        let (wire, known) = (managed.machine.wire(), managed.machine.known());
        self.timeline
            .note(identity, "reset_held", "asking the peer's agent");
        self.send_request(
            identity,
            false,
            wire,
            known,
            ReqNo::UNMOVED,
            |tuple, standing, _| Segment::query(tuple, standing, standing.rcv_nxt),
        );
    }

    /// "Is the reset I hold yours?" — the connection lives if its socket does.
    pub(crate) fn answer_query(&mut self, heard: datapath::event::Heard) {
        let alive = self.datapath.read_tcp(&heard.identity).ok().flatten().is_some();
        let Some(managed) = self.sessions.get_mut(&heard.identity) else {
            return;
        };
        let known = managed.machine.known();
        let tuple = heard.wire;
        managed.paths.entry(tuple.local).or_insert(Path {
            ifindex: heard.ifindex,
            next_hop: None,
        });
        self.send_request(
            heard.identity,
            true,
            tuple,
            known,
            ReqNo::UNMOVED,
            |tuple, standing, _| {
                if alive {
                    Segment::answer(tuple, standing, standing.rcv_nxt)
                } else {
                    // No socket knows the numbers any more: the question has them.
                    let standing = Standing {
                        seq: heard.ack,
                        rcv_nxt: heard.seq,
                        ..standing
                    };
                    Segment::migrate_reset(tuple, standing, heard.seq)
                }
            },
        );
    }

    /// Gives our kernel a reset that fits exactly, as if the peer's had come through.
    pub(super) fn deliver_reset(&mut self, identity: Tuple) {
        let tcp = self.datapath.read_tcp(&identity).ok().flatten();
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let held = managed.held_reset.take();
        let Some(tcp) = tcp else { return };
        let flags = Flags(held.map_or(Flags::RST.0 | Flags::ACK.0, |held| held.flags));
        let reset = Segment::bare(identity.reversed(), flags, tcp.rcv_nxt, tcp.snd_nxt, 0);
        self.timeline.note(identity, "reset_delivered", "");
        match reset.emit() {
            Ok(packet) => self.write(|datapath| datapath.deliver(&packet)),
            Err(error) => tracing::error!(%error, "cannot compose a reset"),
        }
    }
}

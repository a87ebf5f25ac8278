//! A symmetric proxy with one port, for one connection: the rules are those of the real one, the data path is a match.

use identity::ticket::LegKey;
use migration::proxy::{Action, Event, Knock, Leg, Splice};
use wire::handshake::{Standing, SynOptions};
use wire::reqno::ReqNo;
use wire::request::RequestType;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

pub struct Proxy {
    /// Its port, the same for both ends.
    pub at: Endpoint,
    /// Of the first and of the second leg.
    pub keys: [LegKey; 2],
    splice: Splice,
    /// From where to where; both as the proxy sees them.
    ways: Vec<(Tuple, Tuple)>,
}

impl Proxy {
    pub fn new(at: Endpoint) -> Self {
        let key = |filler| LegKey::from_bytes(&[filler; 32]).expect("32 bytes");
        Self {
            at,
            keys: [key(1), key(2)],
            splice: Splice::new(),
            ways: Vec::new(),
        }
    }

    /// What it sends when this arrives.
    pub fn arrive(&mut self, segment: &Segment) -> Vec<Segment> {
        let wire = segment.tuple().reversed();
        let is_msyn = |segment: &Segment| {
            segment
                .migrate
                .is_some_and(|request| request.r#type == RequestType::Msyn)
        };
        if !is_msyn(segment) {
            let way = self.ways.iter().find(|(from, _)| *from == wire);
            let passed = way.map(|(_, to)| Segment {
                source: to.local,
                destination: to.remote,
                ..segment.clone()
            });
            return passed.into_iter().collect();
        }
        let leg = Leg::BOTH.into_iter().find(|leg| {
            segment
                .verify(&self.keys[leg.index()].to_proxy(), ReqNo::UNMOVED)
                .is_ok()
        });
        let (Some(leg), Some(request)) = (leg, segment.migrate) else {
            return Vec::new();
        };
        let knock = Knock {
            wire,
            token: request.token,
            req_no: request.req_no,
            seq: segment.seq,
            rcv_nxt: request.rcv_nxt,
            window: segment.window,
            syn: SynOptions {
                window_scale: segment.window_scale.expect("an MSYN has a scale"),
                mss: segment.mss.expect("an MSYN has a segment size"),
            },
            outside: false,
        };
        let committed = [false; 2];
        let actions = self.splice.step(Event::Knocked {
            leg,
            knock,
            committed,
        });
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Install { from, to, .. } => self.ways.push((from, to)),
                Action::Answer { leg, answer } => {
                    let standing = Standing {
                        token: answer.token,
                        req_no: answer.req_no,
                        seq: answer.seq,
                        rcv_nxt: answer.rcv_nxt,
                        window: answer.window,
                    };
                    let mut segment = Segment::msyn_ack(answer.wire, standing, answer.ack, answer.syn);
                    let key = self.keys[leg.index()].to_agent();
                    segment.sign(&key, ReqNo::UNMOVED).expect("it has a request");
                    sent.push(segment);
                }
                Action::Turn { .. } | Action::Refuse(_) => {}
            }
        }
        sent
    }
}

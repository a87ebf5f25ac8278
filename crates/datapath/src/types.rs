//! What the maps hold, as values: conversions between the C layout and the field's terms.

use std::net::IpAddr;
use std::time::Duration;

use wire::keys::{MacKey, Role};
use wire::reqno::ReqNo;
use wire::tuple::{Endpoint, Tuple, address_bytes, address_from_bytes};

use crate::skeleton::types as raw;

/// Bits of `arrival.confirm`, as in `enum first_segments` of intf.h.
const FIRST_CONFIRMS: u32 = 1;
const FIRST_MENDED: u32 = 2;
pub(crate) const ARRIVES_BOUND: u32 = 4;

/// A connection both of whose ends offered migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who opened it.
    pub role: Role,
    /// Initial sequence number of this end.
    pub isn_local: u32,
    /// Initial sequence number of the peer.
    pub isn_remote: u32,
    /// Nanoseconds of CLOCK_MONOTONIC at set-up.
    pub opened_ns: u64,
    /// The port that the peer's own socket has.
    pub peer_direct_port: u16,
    /// Where the peer's agent listens.
    pub peer_agent_port: u16,
    /// The peer's address and port are its own: no NAPT in between.
    pub peer_unmapped: bool,
}

/// What the agent asks of a session's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionFlags {
    /// Route the socket's segments through the parking device.
    pub mark: bool,
    /// Suspend the kernel's own timeouts.
    pub raise: bool,
    /// Hold incoming resets until they are confirmed.
    pub hold_reset: bool,
    /// Report changes of the socket's state.
    pub watch: bool,
    /// The socket offered nothing when it was set up: its callbacks have to be switched on.
    pub enrolled: bool,
    /// The wire tuple leads to a symmetric proxy: nothing is asked for, a restarted agent knows it by this.
    pub relayed: bool,
}

/// A connection with keys, as it outlives the agent.
#[derive(Clone, Debug)]
pub struct Session {
    /// MAC key of what this end sends.
    pub key_out: MacKey,
    /// MAC key of what the peer sends.
    pub key_in: MacKey,
    /// Key from which tokens are made.
    pub key_token: MacKey,
    /// The pair's UUID.
    pub pair_id: [u8; 16],
    /// The pair key's epoch.
    pub epoch: u32,
    /// Initial sequence number of the end that opened the connection.
    pub isn_initiator: u32,
    /// Initial sequence number of the other end.
    pub isn_acceptor: u32,
    /// Highest ReqNo both ends committed.
    pub req_committed: ReqNo,
    /// Highest ReqNo that may have been sent.
    pub req_stored: ReqNo,
    /// What the socket should be brought to.
    pub flags: SessionFlags,
    /// This end's role.
    pub role: Role,
}

/// Where a relayed connection's proxy is, and the keys that this end shares with it, as they outlive the agent.
#[derive(Clone, Debug)]
pub struct Leg {
    /// The proxy's endpoint for this end.
    pub proxy: Endpoint,
    /// MAC key of what this end says to the proxy.
    pub to_proxy: MacKey,
    /// MAC key of what the proxy says to this end.
    pub to_agent: MacKey,
}

/// The way out of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Path {
    /// Index of the device.
    pub ifindex: u32,
    /// The gateway, or the peer itself when it is on-link; `None`: as the kernel's routing says.
    pub next_hop: Option<IpAddr>,
}

/// Where a moved connection's segments go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireState {
    /// The attempt that was committed.
    pub req_no: ReqNo,
    /// The tuple on the wire.
    pub wire: Tuple,
    /// The way out.
    pub path: Path,
}

/// What is known of a tuple on which segments may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrivalState {
    /// Our MSYN left from here.
    Attempted,
    /// We answered an MSYN that came here.
    Answered,
    /// It carries the connection.
    Committed,
    /// It carried the connection before.
    Linger,
}

/// What to do with segments that arrive on a wire tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The connection.
    pub identity: Tuple,
    /// The way out, should this tuple be committed by the data path.
    pub path: Path,
    /// The attempt.
    pub req_no: ReqNo,
    /// What is proven.
    pub state: ArrivalState,
    /// Sequence number of the Migrate-Ack that commits.
    pub expect_seq: u32,
    /// Acknowledgement number of the Migrate-Ack that commits.
    pub expect_ack: u32,
    /// Tell of the first ordinary segment.
    pub confirm: bool,
}

/// A local address that can be used as source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Index of the device that has it.
    pub ifindex: u32,
    /// Whether segments may leave from it now.
    pub usable: bool,
}

/// What a live socket knows (sequence numbers are absolute).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpState {
    /// Number of the TCP state as the kernel counts (1 is ESTABLISHED).
    pub tcp_state: u32,
    /// Oldest byte not acknowledged.
    pub snd_una: u32,
    /// Next byte to send.
    pub snd_nxt: u32,
    /// Next byte expected.
    pub rcv_nxt: u32,
    /// What the peer may still send, in bytes.
    pub receive_window: u32,
    /// What we may still send, in bytes.
    pub send_window: u32,
    /// Current maximum segment size in bytes.
    pub mss: u32,
    /// Segments in flight.
    pub packets_out: u32,
    /// Keepalives or window probes that were not answered yet.
    pub probes_out: u32,
    /// How often the retransmission timer has been doubled.
    pub backoff: u32,
    /// Shift of our window field, if the connection scales.
    pub receive_scale: Option<u8>,
    /// Smoothed round-trip time; zero: not measured yet.
    pub rtt: Duration,
    /// Segments with data that were sent so far, those sent again among them; wraps.
    pub data_segments_out: u32,
    /// Segments that were sent again so far; wraps.
    pub retransmitted: u32,
    /// Index of the device that the socket is bound to; 0: none.
    pub bound: u32,
    /// TSval of the last thing sent and TSecr to echo, if the connection has timestamps.
    pub timestamps: Option<(u32, u32)>,
}

impl TcpState {
    /// The window field of a segment that is no SYN.
    pub fn window_field(&self) -> u16 {
        let scaled = self.receive_window >> self.receive_scale.unwrap_or(0);
        scaled.min(u32::from(u16::MAX)) as u16
    }
}

/// A segment as it left its socket, from the IP header on, with identity addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Sequence number of its first byte.
    pub seq: u32,
    /// IP packet; may be cut short.
    pub bytes: Vec<u8>,
}

/// What to send first after an outage.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Heads {
    /// The segment that was at SND.UNA when it was last sent.
    pub head: Option<Frame>,
    /// The last segment that was parked.
    pub last: Option<Frame>,
}

pub(crate) fn tuple_to_raw(tuple: &Tuple) -> raw::tuple {
    raw::tuple {
        local: tuple.local.address_bytes(),
        remote: tuple.remote.address_bytes(),
        local_port: tuple.local.port.to_be(),
        remote_port: tuple.remote.port.to_be(),
    }
}

pub(crate) fn tuple_from_raw(tuple: &raw::tuple) -> Tuple {
    Tuple::new(
        Endpoint::new(address_from_bytes(tuple.local), u16::from_be(tuple.local_port)),
        Endpoint::new(address_from_bytes(tuple.remote), u16::from_be(tuple.remote_port)),
    )
}

fn role_to_raw(role: Role) -> u8 {
    match role {
        Role::Initiator => 0,
        Role::Acceptor => 1,
    }
}

fn role_from_raw(role: u8) -> Role {
    if role == 0 {
        Role::Initiator
    } else {
        Role::Acceptor
    }
}

impl From<&raw::connection> for Connection {
    fn from(value: &raw::connection) -> Self {
        Self {
            role: role_from_raw(value.role),
            isn_local: value.isn_local,
            isn_remote: value.isn_remote,
            opened_ns: value.opened_ns,
            peer_direct_port: value.peer_direct_port,
            peer_agent_port: value.peer_agent_port,
            peer_unmapped: value.peer_unmapped != 0,
        }
    }
}

impl SessionFlags {
    fn to_raw(self) -> u32 {
        u32::from(self.mark)
            | u32::from(self.raise) << 1
            | u32::from(self.hold_reset) << 2
            | u32::from(self.watch) << 3
            | u32::from(self.enrolled) << 4
            | u32::from(self.relayed) << 5
    }

    fn from_raw(flags: u32) -> Self {
        Self {
            mark: flags & 1 != 0,
            raise: flags & 2 != 0,
            hold_reset: flags & 4 != 0,
            watch: flags & 8 != 0,
            enrolled: flags & 16 != 0,
            relayed: flags & 32 != 0,
        }
    }
}

impl From<&Session> for raw::session {
    fn from(value: &Session) -> Self {
        Self {
            key_out: *value.key_out.as_bytes(),
            key_in: *value.key_in.as_bytes(),
            key_token: *value.key_token.as_bytes(),
            pair_id: value.pair_id,
            epoch: value.epoch,
            isn_initiator: value.isn_initiator,
            isn_acceptor: value.isn_acceptor,
            req_committed: value.req_committed.0,
            req_stored: value.req_stored.0,
            flags: value.flags.to_raw(),
            role: role_to_raw(value.role),
            pad: [0; 3],
        }
    }
}

impl From<&raw::session> for Session {
    fn from(value: &raw::session) -> Self {
        Self {
            key_out: MacKey::new(value.key_out),
            key_in: MacKey::new(value.key_in),
            key_token: MacKey::new(value.key_token),
            pair_id: value.pair_id,
            epoch: value.epoch,
            isn_initiator: value.isn_initiator,
            isn_acceptor: value.isn_acceptor,
            req_committed: ReqNo(value.req_committed),
            req_stored: ReqNo(value.req_stored),
            flags: SessionFlags::from_raw(value.flags),
            role: role_from_raw(value.role),
        }
    }
}

impl From<&Leg> for raw::leg {
    fn from(value: &Leg) -> Self {
        Self {
            proxy: address_bytes(value.proxy.address),
            port: value.proxy.port.to_be(),
            pad: [0; 6],
            to_proxy: *value.to_proxy.as_bytes(),
            to_agent: *value.to_agent.as_bytes(),
        }
    }
}

impl From<&raw::leg> for Leg {
    fn from(value: &raw::leg) -> Self {
        Self {
            proxy: Endpoint::new(address_from_bytes(value.proxy), u16::from_be(value.port)),
            to_proxy: MacKey::new(value.to_proxy),
            to_agent: MacKey::new(value.to_agent),
        }
    }
}

impl From<&Path> for raw::path {
    fn from(value: &Path) -> Self {
        let (family, hop) = match value.next_hop {
            None => (0, [0; 16]),
            Some(hop @ IpAddr::V4(_)) => (libc::AF_INET as u32, address_bytes(hop)),
            Some(hop @ IpAddr::V6(_)) => (libc::AF_INET6 as u32, address_bytes(hop)),
        };
        Self {
            ifindex: value.ifindex,
            next_hop_family: family,
            next_hop: hop,
        }
    }
}

impl From<&raw::path> for Path {
    fn from(value: &raw::path) -> Self {
        let next_hop = (value.next_hop_family != 0).then(|| address_from_bytes(value.next_hop));
        Self {
            ifindex: value.ifindex,
            next_hop,
        }
    }
}

impl From<&raw::wire_state> for WireState {
    fn from(value: &raw::wire_state) -> Self {
        Self {
            req_no: ReqNo(value.req_no),
            wire: tuple_from_raw(&value.wire),
            path: (&value.path).into(),
        }
    }
}

impl From<&Arrival> for raw::arrival {
    fn from(value: &Arrival) -> Self {
        Self {
            identity: tuple_to_raw(&value.identity),
            path: (&value.path).into(),
            req_no: value.req_no.0,
            state: match value.state {
                ArrivalState::Attempted => 1,
                ArrivalState::Answered => 2,
                ArrivalState::Committed => 3,
                ArrivalState::Linger => 4,
            },
            expect_seq: value.expect_seq,
            expect_ack: value.expect_ack,
            confirm: if value.confirm {
                FIRST_CONFIRMS | FIRST_MENDED
            } else {
                0
            },
        }
    }
}

impl From<&raw::arrival> for Arrival {
    fn from(value: &raw::arrival) -> Self {
        Self {
            identity: tuple_from_raw(&value.identity),
            path: (&value.path).into(),
            req_no: ReqNo(value.req_no),
            state: match value.state {
                1 => ArrivalState::Attempted,
                2 => ArrivalState::Answered,
                3 => ArrivalState::Committed,
                _ => ArrivalState::Linger,
            },
            expect_seq: value.expect_seq,
            expect_ack: value.expect_ack,
            confirm: value.confirm & FIRST_CONFIRMS != 0,
        }
    }
}

impl TcpState {
    pub(crate) fn from_raw(value: &raw::tcp_state) -> Option<Self> {
        if value.found == 0 {
            return None;
        }
        let offered = value
            .rcv_wup
            .wrapping_add(value.rcv_wnd)
            .wrapping_sub(value.rcv_nxt);
        Some(Self {
            tcp_state: value.tcp_state,
            snd_una: value.snd_una,
            snd_nxt: value.snd_nxt,
            rcv_nxt: value.rcv_nxt,
            receive_window: if (offered as i32) < 0 { 0 } else { offered },
            send_window: value.snd_wnd,
            mss: value.mss,
            packets_out: value.packets_out,
            probes_out: u32::from(value.probes_out),
            backoff: u32::from(value.backoff),
            rtt: Duration::from_micros(u64::from(value.rtt)),
            data_segments_out: value.data_segments_out,
            retransmitted: value.retransmitted,
            bound: value.bound,
            receive_scale: (value.scale_ok != 0).then_some(value.receive_scale),
            timestamps: (value.timestamps_ok != 0).then_some((value.timestamp_value, value.timestamp_recent)),
        })
    }
}

impl Heads {
    pub(crate) fn from_raw(value: &raw::heads) -> Self {
        let frame = |frame: &raw::frame| {
            let length = (frame.length as usize).min(frame.bytes.len());
            (length > 0).then(|| Frame {
                seq: frame.seq,
                bytes: frame.bytes[..length].to_vec(),
            })
        };
        Self {
            head: frame(&value.head),
            last: frame(&value.last),
        }
    }
}

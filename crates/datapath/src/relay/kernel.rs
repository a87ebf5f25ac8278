//! The relay in the kernel: loading or adopting it, and its maps.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{ErrorKind, MapCore, MapFlags, ProgramInput, RingBuffer, RingBufferBuilder};
use wire::handshake::SynOptions;
use wire::option::Options;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::{Endpoint, Tuple, address_bytes};

use super::{
    Direction, Door, Knocked, LeaseId, LeaseNote, RelayEvent, RelayOptions, Traffic,
    adopt::{path, path_back, tuple, tuple_back},
};
use crate::attach::{Link, RELAY, attach_ingress};
use crate::interface::DatapathError;
use crate::kernel::maps::{all, find, refused, remove, update};
use crate::kernel::{OpenError, on_bpf_fs, quiet_libbpf};
use crate::send::Sender;
use crate::skeleton::{Plain, RelaySkel, RelaySkelBuilder, relay_types as raw};
use crate::types::{tuple_from_raw, tuple_to_raw};

const FIN: u32 = 1;
const RESET: u32 = 2;
const ORDINARY: u32 = 8;
const PENDING: u32 = 16;
const KNOCKED: u32 = 1;
const TOO_BIG: u32 = 3;
/// Option kinds of RFC 9293 and RFC 7323.
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;

/// The relay's data path in the kernel of this network namespace.
pub struct RelayDatapath {
    skeleton: RelaySkel<'static>,
    knocks: RingBuffer<'static>,
    queue: Rc<RefCell<VecDeque<RelayEvent>>>,
    sender: Sender,
    adopted: bool,
}

impl RelayDatapath {
    /// Loads the programs, adopting the maps that an earlier daemon pinned.
    ///
    /// # Errors
    /// [`OpenError`]; the text says what to do.
    pub fn open(options: &RelayOptions) -> Result<Self, OpenError> {
        let pin_error = |error: String| OpenError::PinDirectory {
            path: options.pin_dir.clone(),
            error,
        };
        std::fs::create_dir_all(&options.pin_dir).map_err(|error| pin_error(error.to_string()))?;
        if !on_bpf_fs(&options.pin_dir) {
            return Err(pin_error("not on a BPF file system".into()));
        }
        let adopted = std::fs::read_dir(&options.pin_dir).is_ok_and(|mut entries| entries.next().is_some());
        quiet_libbpf();
        let load = |error: libbpf_rs::Error| OpenError::Load {
            error: format!("{error:#}"),
        };
        let mut builder = RelaySkelBuilder::default();
        builder
            .obj_builder
            .pin_root_path(&options.pin_dir)
            .map_err(load)?;
        // The skeleton borrows the object for as long as the process lives.
        let object = Box::leak(Box::new(MaybeUninit::uninit()));
        let open = builder.open(object).map_err(load)?;
        let skeleton = open.load().map_err(|error| match error.kind() {
            ErrorKind::InvalidInput if adopted => OpenError::OtherVersion {
                path: options.pin_dir.clone(),
                error: format!("{error:#}"),
            },
            _ => load(error),
        })?;
        let kernel = |what, error: &dyn std::fmt::Display| OpenError::Kernel {
            what,
            error: format!("{error:#}"),
        };
        let queue = Rc::new(RefCell::new(VecDeque::new()));
        let into = Rc::clone(&queue);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&skeleton.maps.knocks, move |bytes| {
                into.borrow_mut()
                    .extend(raw::relay_event::from_bytes(bytes).map(|event| read_event(&event)));
                0
            })
            .map_err(|error| kernel("cannot open a ring buffer", &error))?;
        let knocks = builder
            .build()
            .map_err(|error| kernel("cannot open a ring buffer", &error))?;
        let mut relay = Self {
            knocks,
            queue,
            sender: Sender::new(options.mark).map_err(|error| kernel("cannot open raw sockets", &error))?,
            skeleton,
            adopted,
        };
        relay
            .own(&options.addresses)
            .and_then(|()| relay.own_ports(options.ports, true))
            .map_err(|error| kernel("cannot write the relay's addresses", &error))?;
        Ok(relay)
    }

    /// More addresses that are the relay's. Those of an earlier run stay until [`Self::disown_others`].
    ///
    /// # Errors
    /// The map is full: 64 addresses are owned.
    pub fn own(&mut self, addresses: &[IpAddr]) -> Result<(), DatapathError> {
        for &address in addresses {
            self.skeleton
                .maps
                .owned
                .update(&address_bytes(address), &1u32.to_ne_bytes(), MapFlags::ANY)
                .map_err(|error| refused("cannot write an address", error))?;
        }
        Ok(())
    }

    /// No address but these is the relay's.
    pub fn disown_others(&mut self, addresses: &[IpAddr]) {
        let kept: Vec<[u8; 16]> = addresses.iter().map(|&address| address_bytes(address)).collect();
        let owned: Vec<Vec<u8>> = self.skeleton.maps.owned.keys().collect();
        for key in owned {
            if !kept.iter().any(|address| key == address) {
                remove(&self.skeleton.maps.owned, &key);
            }
        }
    }

    /// Which ports are the relay's. `others`: an open door outside of them counts too.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn own_ports(&self, ports: (u16, u16), others: bool) -> Result<(), DatapathError> {
        self.set(raw::relay_config {
            first_port: ports.0.into(),
            last_port: ports.1.into(),
            others: others.into(),
            ..self.settings()
        })
    }

    /// Whether an operator has had this relay drained, in this run or an earlier one.
    pub fn is_draining(&self) -> bool {
        self.settings().draining != 0
    }

    /// Notes that it is drained, for the next daemon too.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_draining(&self, draining: bool) -> Result<(), DatapathError> {
        self.set(raw::relay_config {
            draining: draining.into(),
            ..self.settings()
        })
    }

    fn settings(&self) -> raw::relay_config {
        find(&self.skeleton.maps.relay_settings, &0u32.to_ne_bytes()).unwrap_or_else(Plain::zeroed)
    }

    fn set(&self, settings: raw::relay_config) -> Result<(), DatapathError> {
        let map = &self.skeleton.maps.relay_settings;
        update(map, "relay_settings", &0u32.to_ne_bytes(), &settings)
    }

    /// Whether an earlier daemon's maps were found.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Puts the program on a device over which agents come; in the place of an earlier daemon's, in one step.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_device(&self, ifindex: u32, link: Link) -> Result<(), DatapathError> {
        let programs = &self.skeleton.progs;
        let program = match link {
            Link::Ethernet => programs.relay_ethernet.as_fd(),
            Link::Raw => programs.relay_raw.as_fd(),
        };
        attach_ingress(program, ifindex, RELAY)
    }

    /// Readable when [`Self::events`] has something to say.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn event_fd(&self) -> std::io::Result<OwnedFd> {
        // SAFETY: the ring buffer owns the descriptor and outlives this borrow.
        unsafe { BorrowedFd::borrow_raw(self.knocks.epoll_fd()) }.try_clone_to_owned()
    }

    /// What happened since the last call, oldest first.
    pub fn events(&mut self) -> Vec<RelayEvent> {
        if let Err(error) = self.knocks.consume() {
            tracing::warn!(%error, "cannot read the ring buffer");
        }
        self.queue.borrow_mut().drain(..).collect()
    }

    /// Opens a port to a lease's agents. Who knocks too often there stays known.
    ///
    /// # Errors
    /// The map is full.
    pub fn open_door(&self, at: Endpoint, door: &Door) -> Result<(), DatapathError> {
        let mut value = raw::door::zeroed();
        value.lease = door.lease;
        for (index, leg) in door.legs.iter().enumerate() {
            let Some((key, expected)) = leg else { continue };
            value.legs[index].key = *key.as_bytes();
            value.legs[index].expected = expected.map_or([0; 16], address_bytes);
            value.open |= 1 << index;
        }
        let key = door_key(at);
        if let Some(known) = find::<raw::door>(&self.skeleton.maps.doors, key.bytes())
            && known.lease == value.lease
        {
            value.due_ns = known.due_ns;
            if known.bytes() == value.bytes() {
                return Ok(());
            }
        }
        update(&self.skeleton.maps.doors, "doors", key.bytes(), &value)
    }

    /// Nobody is heard at this port any more.
    pub fn close_door(&self, at: Endpoint) {
        remove(&self.skeleton.maps.doors, door_key(at).bytes());
    }

    /// Installs one direction; `from` as the relay sees it. What has passed there already stays counted.
    ///
    /// # Errors
    /// The map is full.
    pub fn install(&self, from: &Tuple, direction: &Direction) -> Result<(), DatapathError> {
        let key = tuple(&tuple_to_raw(from));
        let mut value: raw::relay =
            find(&self.skeleton.maps.relays, key.bytes()).unwrap_or_else(Plain::zeroed);
        value.to = tuple(&tuple_to_raw(&Tuple::new(
            direction.to.remote,
            direction.to.local,
        )));
        value.path = path(&(&direction.path).into());
        value.lease = direction.lease;
        value.leg = direction.leg as u32;
        value.seen = match direction.pending {
            true => value.seen | PENDING,
            false => value.seen & !PENDING,
        };
        update(&self.skeleton.maps.relays, "relays", key.bytes(), &value)
    }

    /// Nothing passes there any more.
    pub fn uninstall(&self, from: &Tuple) {
        remove(&self.skeleton.maps.relays, tuple(&tuple_to_raw(from)).bytes());
    }

    /// What has passed in one direction.
    pub fn traffic(&self, from: &Tuple) -> Option<Traffic> {
        let key = tuple(&tuple_to_raw(from));
        let value: raw::relay = find(&self.skeleton.maps.relays, key.bytes())?;
        Some(read_traffic(&value))
    }

    /// What has passed in all of them. One by one: reading in batches would end at the first batch that is not full, and
    /// those of a hash map seldom are.
    pub fn all_traffic(&self) -> Vec<(Tuple, Traffic)> {
        let entries = all::<raw::tuple, raw::relay>(&self.skeleton.maps.relays);
        let read = |(key, value): (raw::tuple, raw::relay)| {
            (tuple_from_raw(&tuple_back(&key)), read_traffic(&value))
        };
        entries.map(read).collect()
    }

    /// Notes what a daemon that comes back has to know of a lease.
    ///
    /// # Errors
    /// The map is full.
    pub fn note(&self, lease: &LeaseId, note: &LeaseNote) -> Result<(), DatapathError> {
        update(
            &self.skeleton.maps.leases,
            "leases",
            lease,
            &raw::lease_note::from(note),
        )
    }

    /// Forgets a lease.
    pub fn forget(&self, lease: &LeaseId) {
        remove(&self.skeleton.maps.leases, lease);
    }

    /// What was noted.
    pub fn notes(&self) -> Vec<(LeaseId, LeaseNote)> {
        let map = &self.skeleton.maps.leases;
        map.keys()
            .filter_map(|key| {
                let note: raw::lease_note = find(map, &key)?;
                Some((key.try_into().ok()?, LeaseNote::from(&note)))
            })
            .collect()
    }

    /// Sends a complete IP packet.
    ///
    /// # Errors
    /// No route, or a full queue.
    pub fn send(&self, packet: &[u8]) -> Result<(), DatapathError> {
        self.sender.send(packet, None)
    }

    /// What was counted since the maps exist.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        crate::kernel::sums(&self.skeleton.maps.relay_counters, &COUNTERS)
    }

    /// Runs a packet through the program of Ethernet devices; returns its verdict. For tests.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run_ingress(&self, frame: &[u8]) -> Result<u32, DatapathError> {
        let input = ProgramInput {
            data_in: Some(frame),
            ..Default::default()
        };
        let output = self
            .skeleton
            .progs
            .relay_ethernet
            .test_run(input)
            .map_err(|error| refused("test run", error))?;
        Ok(output.return_value)
    }
}

fn door_key(at: Endpoint) -> raw::door_key {
    let mut key = raw::door_key::zeroed();
    key.address = at.address_bytes();
    key.port = at.port.to_be();
    key
}

fn read_traffic(value: &raw::relay) -> Traffic {
    let to = tuple_from_raw(&tuple_back(&value.to));
    Traffic {
        direction: Direction {
            lease: value.lease,
            leg: value.leg as usize & 1,
            to: Tuple::new(to.remote, to.local),
            path: (&path_back(&value.path)).into(),
            pending: value.seen & PENDING != 0,
        },
        packets: value.packets,
        bytes: value.bytes,
        last_ns: value.last_ns,
        fin: value.seen & FIN != 0,
        reset: value.seen & RESET != 0,
        ordinary: value.seen & ORDINARY != 0,
    }
}

fn read_event(event: &raw::relay_event) -> RelayEvent {
    let wire = tuple_from_raw(&tuple_back(&event.wire));
    let (lease, leg) = (event.lease, event.leg as usize & 1);
    if event.kind == TOO_BIG {
        return RelayEvent::TooBig {
            wire,
            seq: event.seq,
            mtu: event.rcv_nxt,
        };
    }
    if event.kind != KNOCKED {
        return RelayEvent::ThirdPassed {
            lease,
            leg,
            from: wire.remote,
            req_no: ReqNo(event.req_no),
        };
    }
    RelayEvent::Knocked {
        lease,
        leg,
        knocked: Knocked {
            wire,
            token: Token(event.token),
            req_no: ReqNo(event.req_no),
            seq: event.seq,
            rcv_nxt: event.rcv_nxt,
            window: event.window,
            digest: event.digest,
            syn: syn_options(&event.options),
        },
    }
}

/// Without a window scale the NAPTs on the way would judge every later window wrongly: such an MSYN is none.
fn syn_options(bytes: &[u8]) -> Option<SynOptions> {
    let (mut scale, mut mss) = (None, 536);
    for option in Options::of(bytes) {
        let option = option.ok()?;
        match (option.kind(), option.data()) {
            (WINDOW_SCALE, &[shift]) => scale = Some(shift.min(14)),
            (MSS, &[high, low]) => mss = u16::from_be_bytes([high, low]),
            _ => {}
        }
    }
    scale.map(|window_scale| SynOptions { window_scale, mss })
}

/// In the order of `enum relay_counter` in relay_intf.h.
const COUNTERS: [&str; 17] = [
    "relayed",
    "msyn",
    "unknown_port",
    "bad_mac",
    "wrong_address",
    "malformed",
    "stray_syn",
    "stray_reset",
    "stray",
    "fragment",
    "event_lost",
    "unwritable",
    "too_often",
    "hops",
    "too_big",
    "extension_header",
    "icmp_relayed",
];

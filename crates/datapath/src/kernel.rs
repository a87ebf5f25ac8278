//! The data path in the kernel: loading or adopting it, and its maps.
//!
//! Every map and the program on the cgroup are pinned below [`Options::pin_dir`]; the programs on devices stay
//! by themselves. A second [`KernelDatapath::open`] with the same directory finds all of it, puts its own
//! programs in the place of the old ones without a gap, and reads what is there.

pub mod layout;
pub(crate) mod maps;
mod operations;

pub(crate) use self::operations::{COUNTERS, sums};

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{ErrorKind, Link, MapCore, MapFlags, ProgramInput, RingBuffer, RingBufferBuilder};
use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::{Endpoint, Tuple, address_bytes};

use self::layout::{Carried, LAYOUT, OLDEST_LAYOUT, Plan};
use self::maps::{refused, remove, update};
use crate::event::Event;
use crate::interface::{Datapath, DatapathError};
use crate::send::{Injector, Sender};
use crate::skeleton::{MobilitySkel, MobilitySkelBuilder, Plain, types as raw};
use crate::types::{
    Arrival, Connection, Heads, Path, Session, SessionFlags, Source, TcpState, WireState, tuple_from_raw,
    tuple_to_raw,
};
use crate::walker::{Walker, walk};

/// The bit on segments that have their wire tuple already, as in `translate.h`; not for other uses.
pub const MARK_TRANSLATED: u32 = 0x0080_0000;

/// How the data path is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory on a BPF file system; made if missing.
    pub pin_dir: PathBuf,
    /// The cgroup (version 2) whose sockets take part.
    pub cgroup: PathBuf,
    /// Bit that marks segments for the parking device.
    pub mark: u32,
    /// Bit that marks the agent's own segments.
    pub agent_mark: u32,
    /// Index of the parking device.
    pub parking_ifindex: u32,
    /// Its hardware address.
    pub parking_mac: [u8; 6],
    /// Where peers find this host's agent.
    pub agent_port: u16,
    /// Offer migration to destinations that no prefix names.
    pub offer_all: bool,
    /// Prefixes to offer to (true) or not (false); the longest match counts.
    pub offer: Vec<(IpAddr, u8, bool)>,
    /// How long after the agent's last sign of life resets are still held.
    pub heartbeat_limit: std::time::Duration,
    /// `TCP_USER_TIMEOUT` of a socket whose peer or path is away, at most 24 days: longer than the agent waits, and what
    /// a program waits whose agent is gone for good.
    pub raised_timeout: std::time::Duration,
    /// How many connections the maps hold.
    pub max_connections: u32,
    /// Bytes by which the values of some maps are longer than this version needs, as those of a later layout are. For
    /// tests.
    #[doc(hidden)]
    pub padding: u32,
}

/// Why the data path could not be set up. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The pin directory is unusable.
    #[error(
        "cannot use {path} for pinned maps: {error}; it must lie on a BPF file system (mount -t bpf bpf /sys/fs/bpf)"
    )]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        error: String,
    },
    /// The programs were refused.
    #[error(
        "cannot load the BPF programs: {error}; run as root or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (see \"host-agent doctor\")"
    )]
    Load {
        /// The cause.
        error: String,
    },
    /// What an earlier agent pinned does not fit.
    #[error(
        "cannot adopt the maps in {path}: {error}; they are another version's: go back to it until its connections have ended, or give them up by \"host-agent cleanup\""
    )]
    OtherVersion {
        /// The pin directory.
        path: PathBuf,
        /// The cause.
        error: String,
    },
    /// The cgroup is unusable.
    #[error("cannot use cgroup {path}: {error}; it must be a directory of the cgroup version 2 hierarchy")]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// The cause.
        error: String,
    },
    /// Something else the kernel refused.
    #[error("{what}: {error}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The cause.
        error: String,
    },
}

/// The data path in the kernel of this network namespace.
pub struct KernelDatapath {
    pub(crate) skeleton: MobilitySkel<'static>,
    events: RingBuffer<'static>,
    event_queue: Rc<RefCell<VecDeque<Event>>>,
    opened: RingBuffer<'static>,
    opened_queue: Rc<RefCell<VecDeque<Tuple>>>,
    config: raw::config,
    sender: Sender,
    injector: Injector,
    sockops: Link,
    walker: Walker,
    adopted: bool,
    carried: Vec<Carried>,
    /// Where peers are reached, by index.
    pub(crate) devices: RefCell<BTreeSet<u32>>,
}

impl KernelDatapath {
    /// Loads the programs, adopting the maps that an earlier agent pinned.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left attached then that was not before.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let pin_error = |error: String| OpenError::PinDirectory {
            path: options.pin_dir.clone(),
            error,
        };
        std::fs::create_dir_all(&options.pin_dir).map_err(|error| pin_error(error.to_string()))?;
        if !on_bpf_fs(&options.pin_dir) {
            return Err(pin_error("not on a BPF file system".into()));
        }
        let link_path = options.pin_dir.join("offer_link");
        let adopted = link_path.exists();
        quiet_libbpf();
        let load = |error: libbpf_rs::Error| OpenError::Load {
            error: format!("{error:#}"),
        };

        let mut builder = MobilitySkelBuilder::default();
        builder
            .obj_builder
            .pin_root_path(&options.pin_dir)
            .map_err(load)?;
        // The skeleton borrows the object for as long as the process lives.
        let object = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = builder.open(object).map_err(load)?;
        let plan = Plan::make(
            open.open_object_mut(),
            &options.pin_dir,
            options.max_connections,
            options.padding,
        )?;
        let pinned = std::fs::read_dir(&options.pin_dir).is_ok_and(|mut entries| entries.next().is_some());
        let skeleton = open.load().map_err(|error| match error.kind() {
            ErrorKind::InvalidInput if pinned => OpenError::OtherVersion {
                path: options.pin_dir.clone(),
                error: format!("{error:#}"),
            },
            _ => load(error),
        })?;
        let carried = plan.carry_over(skeleton.object().maps())?;

        // What an earlier agent's connections need goes on without a gap.
        let before = layout::settings_before(&skeleton.maps.agent_config);
        let config = raw::config {
            netns_cookie: netns_cookie()
                .map_err(|error| kernel("cannot identify the network namespace", error))?,
            heartbeat_ns: monotonic_ns(),
            heartbeat_limit_ns: options.heartbeat_limit.as_nanos() as u64,
            mark: options.mark,
            agent_mark: options.agent_mark,
            parking_ifindex: options.parking_ifindex,
            offer_all: u32::from(options.offer_all),
            sessions: before.sessions,
            moved: before.moved,
            agent_port: options.agent_port,
            parking_mac: options.parking_mac,
            layout: LAYOUT,
            layout_oldest: OLDEST_LAYOUT,
            forwards: u32::from(forwards()),
            raised_timeout_ms: u32::try_from(options.raised_timeout.as_millis())
                .unwrap_or(u32::MAX)
                .min(i32::MAX as u32),
        };
        write_offers(&skeleton, options)?;

        let event_queue = Rc::new(RefCell::new(VecDeque::new()));
        let opened_queue = Rc::new(RefCell::new(VecDeque::new()));
        let queue = Rc::clone(&event_queue);
        let events = ring(&skeleton.maps.events, move |bytes| {
            queue.borrow_mut().extend(Event::from_bytes(bytes));
        })?;
        let queue = Rc::clone(&opened_queue);
        let opened = ring(&skeleton.maps.opened, move |bytes| {
            queue
                .borrow_mut()
                .extend(raw::tuple::from_bytes(bytes).map(|tuple| tuple_from_raw(&tuple)));
        })?;

        let cgroup_error = |error: String| OpenError::Cgroup {
            path: options.cgroup.clone(),
            error,
        };
        let cgroup = std::fs::File::open(&options.cgroup).map_err(|error| cgroup_error(error.to_string()))?;
        let mut datapath = Self {
            sender: Sender::new(options.agent_mark)
                .map_err(|error| kernel("cannot open raw sockets", error))?,
            injector: Injector::new(options.parking_ifindex, options.parking_mac, options.agent_mark)
                .map_err(|error| kernel("cannot open a packet socket on the parking device", error))?,
            sockops: {
                // The configuration stands before the first program runs.
                update(
                    &skeleton.maps.agent_config,
                    "agent_config",
                    &0u32.to_ne_bytes(),
                    &config,
                )
                .map_err(|error| kernel("cannot write the configuration", error))?;
                attach_offer(&skeleton, &link_path, cgroup.as_raw_fd())
                    .map_err(|error| cgroup_error(format!("{error:#}")))?
            },
            walker: Walker::start(
                skeleton
                    .progs
                    .reconcile
                    .attach()
                    .map_err(|error| kernel("cannot attach the walk", error))?,
            )
            .map_err(|error| kernel("cannot start the walker", error))?,
            skeleton,
            events,
            event_queue,
            opened,
            opened_queue,
            config,
            adopted,
            carried,
            devices: RefCell::default(),
        };
        datapath
            .teach_listeners()
            .map_err(|error| kernel("cannot walk the listeners", error))?;
        Ok(datapath)
    }

    /// Whether an earlier agent's maps were found.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Every program of the agent before is replaced: what it wrote meanwhile is taken over, and its maps go. Says which
    /// maps had another layout.
    pub fn settle(&mut self) -> Vec<String> {
        let carried = std::mem::take(&mut self.carried);
        let mut names = Vec::new();
        for one in carried {
            let name = one.name().to_owned();
            let queue = Rc::clone(&self.event_queue);
            let opened = Rc::clone(&self.opened_queue);
            match name.as_str() {
                "events" => layout::drain(one.old(), move |bytes| {
                    queue.borrow_mut().extend(Event::from_bytes(bytes));
                }),
                "opened" => layout::drain(one.old(), move |bytes| {
                    let tuple = raw::tuple::from_bytes(bytes);
                    opened
                        .borrow_mut()
                        .extend(tuple.map(|tuple| tuple_from_raw(&tuple)));
                }),
                _ => {}
            }
            if let Some(new) = self
                .skeleton
                .object()
                .maps()
                .find(|map| map.name() == name.as_str())
            {
                one.finish(&new);
            }
            names.push(name);
        }
        names
    }

    /// Gives every socket its own mark and timeout back, for an agent that will not return: what has a path goes on, what has
    /// none ends as TCP ends it. Says how many connections an agent had in hand.
    pub fn let_go(&mut self) -> usize {
        let mut held = self.sessions();
        held.retain(|(_, session)| session.flags.mark || session.flags.raise);
        for (identity, session) in &mut held {
            session.flags = SessionFlags::default();
            // The entry exists: there is room for it.
            let _ = self.put_session(identity, session);
        }
        self.reconcile();
        held.len()
    }

    /// Readable when [`Datapath::events`] has something to say.
    pub fn event_fd(&self) -> std::io::Result<OwnedFd> {
        // SAFETY: the ring buffer owns the descriptor and outlives this borrow.
        unsafe { BorrowedFd::borrow_raw(self.events.epoll_fd()) }.try_clone_to_owned()
    }

    /// The path of the pinned link, for the record.
    pub fn offer_link(&self) -> Option<PathBuf> {
        self.sockops.pin_path()
    }

    /// Makes listeners that are older than this data path answer offers.
    pub fn teach_listeners(&mut self) -> Result<(), libbpf_rs::Error> {
        walk(&self.skeleton.progs.listeners.attach()?)
    }

    /// Changes to whom migration is offered.
    pub fn set_offer(&mut self, options: &Options) -> Result<(), OpenError> {
        self.config.offer_all = u32::from(options.offer_all);
        write_offers(&self.skeleton, options)?;
        self.write_config()
            .map_err(|error| kernel("cannot write the configuration", error))
    }

    /// Runs the data path's SipHash over a 32 byte message, so that it can be compared with the wire crate's.
    pub fn mac(&self, key: &MacKey, message: [u8; 32]) -> Result<u64, DatapathError> {
        let mut request = raw::request::zeroed();
        request.kind = 3;
        request.key = *key.as_bytes();
        request.message = message;
        Ok(self.ask(request)?.mac)
    }

    /// Runs the data path's digest of an endpoint, so that it can be compared with the wire crate's.
    pub fn digest(&self, endpoint: Endpoint, seq: u32) -> Result<u16, DatapathError> {
        let mut request = raw::request::zeroed();
        request.kind = 4;
        request.identity.local = endpoint.address_bytes();
        request.identity.local_port = endpoint.port.to_be();
        request.req_no = seq;
        Ok(self.ask(request)?.mac as u16)
    }

    /// Runs a packet through the ingress program of Ethernet devices; returns its verdict. For tests.
    pub fn run_ingress(&self, frame: &[u8]) -> Result<u32, DatapathError> {
        self.through_ingress(frame).map(|(verdict, _)| verdict)
    }

    /// As [`Self::run_ingress`], with what became of the packet.
    pub fn through_ingress(&self, frame: &[u8]) -> Result<(u32, Vec<u8>), DatapathError> {
        let mut out = vec![0u8; frame.len() + 64];
        let input = ProgramInput {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..Default::default()
        };
        let output = self
            .skeleton
            .progs
            .ingress_ethernet
            .test_run(input)
            .map_err(|error| refused("test run", error))?;
        let length = output.data.as_ref().map_or(0, |data| data.len());
        let verdict = output.return_value;
        out.truncate(length);
        Ok((verdict, out))
    }

    fn ask(&self, request: raw::request) -> Result<raw::request, DatapathError> {
        self.ask_on(request, 0)
    }

    /// As if the question had come from this device; 0: the loopback device.
    fn ask_on(&self, request: raw::request, ifindex: u32) -> Result<raw::request, DatapathError> {
        // The kernel takes the beginning of a `struct __sk_buff`; what is left out is zero.
        const IFINDEX: usize = 40;
        let mut context = [0; IFINDEX + 4];
        context[IFINDEX..].copy_from_slice(&ifindex.to_ne_bytes());
        const ETHERNET: usize = 14;
        let mut packet = vec![0u8; ETHERNET + size_of::<raw::request>()];
        // The kernel wants a frame that it could route: say IPv4.
        packet[12] = 8;
        packet[ETHERNET..].copy_from_slice(request.bytes());
        let mut out = vec![0u8; packet.len()];
        let input = ProgramInput {
            data_in: Some(&packet),
            data_out: Some(&mut out),
            context_in: (ifindex != 0).then_some(&mut context[..]),
            ..Default::default()
        };
        self.skeleton
            .progs
            .ask
            .test_run(input)
            .map_err(|error| refused("cannot ask the data path", error))?;
        raw::request::from_bytes(&out[ETHERNET..])
            .ok_or_else(|| refused("cannot ask the data path", "short answer".to_string()))
    }

    fn write_config(&self) -> Result<(), DatapathError> {
        update(
            &self.skeleton.maps.agent_config,
            "agent_config",
            &0u32.to_ne_bytes(),
            &self.config,
        )
    }
}

fn attach_offer(
    skeleton: &MobilitySkel<'static>,
    path: &FilePath,
    cgroup: RawFd,
) -> Result<Link, libbpf_rs::Error> {
    if path.exists() {
        let mut link = Link::open(path)?;
        if link.update_prog(&skeleton.progs.offer).is_ok() {
            return Ok(link);
        }
        // The cgroup it was attached to is gone.
        let _ = link.unpin();
    }
    let mut link = skeleton.progs.offer.attach_cgroup(cgroup)?;
    link.pin(path)?;
    Ok(link)
}

fn write_offers(skeleton: &MobilitySkel<'static>, options: &Options) -> Result<(), OpenError> {
    let map = &skeleton.maps.offer_to;
    for key in map.keys().collect::<Vec<_>>() {
        remove(map, &key);
    }
    for &(address, length, offer) in &options.offer {
        let length = u32::from(length) + if address.is_ipv4() { 96 } else { 0 };
        let key = raw::prefix_key {
            length,
            address: address_bytes(address),
        };
        map.update(key.bytes(), &u32::from(offer).to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| kernel("cannot write the prefixes to offer migration to", error))?;
    }
    Ok(())
}

fn ring<F>(map: &dyn MapCore, mut take: F) -> Result<RingBuffer<'static>, OpenError>
where
    F: FnMut(&[u8]) + 'static,
{
    let error = |error| kernel("cannot open a ring buffer", error);
    let mut builder = RingBufferBuilder::new();
    builder
        .add(map, move |bytes| {
            take(bytes);
            0
        })
        .map_err(error)?;
    builder.build().map_err(error)
}

fn kernel(what: &'static str, error: impl std::fmt::Display) -> OpenError {
    OpenError::Kernel {
        what,
        error: format!("{error:#}"),
    }
}

/// Sends what libbpf says to the log, at its lowest level: its errors come back as values anyhow.
pub fn quiet_libbpf() {
    fn log(_: libbpf_rs::PrintLevel, text: String) {
        tracing::debug!(target: "libbpf", "{}", text.trim_end());
    }
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, log)));
}

/// Nanoseconds of CLOCK_MONOTONIC, the clock of the data path.
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Whether this network namespace is a router for others. Containers may make it one at any time.
fn forwards() -> bool {
    let switches = [
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv6/conf/all/forwarding",
    ];
    switches
        .iter()
        .any(|path| std::fs::read_to_string(path).is_ok_and(|value| value.trim() != "0"))
}

fn netns_cookie() -> std::io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(std::io::Error::last_os_error())
    }
}

pub(crate) fn on_bpf_fs(path: &FilePath) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

impl KernelDatapath {
    pub(crate) fn program_fds(&self) -> Programs<'_> {
        let programs = &self.skeleton.progs;
        Programs {
            parking_egress: programs.parking_egress.as_fd(),
            egress_ethernet: programs.egress_ethernet.as_fd(),
            egress_raw: programs.egress_raw.as_fd(),
            ingress_ethernet: programs.ingress_ethernet.as_fd(),
            ingress_raw: programs.ingress_raw.as_fd(),
        }
    }
}

/// The programs that go on devices.
pub(crate) struct Programs<'a> {
    pub(crate) parking_egress: BorrowedFd<'a>,
    pub(crate) egress_ethernet: BorrowedFd<'a>,
    pub(crate) egress_raw: BorrowedFd<'a>,
    pub(crate) ingress_ethernet: BorrowedFd<'a>,
    pub(crate) ingress_raw: BorrowedFd<'a>,
}

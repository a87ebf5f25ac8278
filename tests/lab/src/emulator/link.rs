//! The thread that is the cable.
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use super::capture::Way;
use super::interference::{Orders, Recording, Recordings};
use super::lane::{Fate, Lane};
use super::segment::Packet;
use super::tap::{LARGEST, OFFLOAD_HEADER, Tap};
use super::watch::Watch;
use crate::language::ast::{Interference, Shape};
use crate::machine::MachineError;

/// Frames taken from one end before the other end and the clock are looked at again.
const BATCH: usize = 64;

/// What the story asks of a link.
pub enum Order {
    Shape(Shape),
    /// Frames sent by this end vanish; by both if `None`.
    Blackhole(Option<usize>),
    Heal,
    /// Whether the cable is plugged in, and at which ends that shows.
    Carrier {
        plugged: bool,
        ends: [bool; 2],
    },
    Interfere(Interference, Option<usize>),
    /// The recorded frame is sent once more by this end, to the other end's card.
    Replay {
        recording: Recording,
        end: usize,
        to: [u8; 6],
    },
}

/// Called with what happened to a segment the story asked about.
pub type Teller = Arc<dyn Fn(String) + Send + Sync>;

/// An order, and where to say that it is in force.
type Letter = (Order, Sender<Result<(), String>>);

/// A running link. Dropping it unplugs it.
pub struct EmulatedLink {
    orders: Option<Sender<Letter>>,
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl EmulatedLink {
    pub fn start(
        name: &str,
        taps: [Tap; 2],
        shape: Shape,
        watch: Watch,
        recordings: Recordings,
        seed: u64,
        tell: Teller,
    ) -> Result<EmulatedLink, MachineError> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(MachineError::io("create an eventfd"))?;
        let bell = Arc::new(bell);
        let (orders, inbox) = channel();
        let mut cable = Cable {
            name: name.to_owned(),
            taps,
            lanes: [Lane::new(seed), Lane::new(seed ^ 0x5555_5555_5555_5555)],
            shape,
            plugged: true,
            swallowed: [false; 2],
            interference: Orders::default(),
            recordings,
            watch,
            inbox,
            bell: Arc::clone(&bell),
            tell,
        };
        cable.fit_offloads()?;
        let thread = std::thread::Builder::new()
            .name(format!("link {name}"))
            .spawn(move || cable.run())
            .map_err(MachineError::io("start the thread of a link"))?;
        Ok(EmulatedLink {
            orders: Some(orders),
            bell,
            thread: Some(thread),
        })
    }

    /// Gives an order and returns once it is in force.
    pub fn order(&self, order: Order) -> Result<(), String> {
        const GONE: &str = "the link's thread has ended";
        let (done, answer) = channel();
        self.orders
            .as_ref()
            .ok_or(GONE)?
            .send((order, done))
            .map_err(|_| GONE)?;
        let _ = self.bell.write(1);
        answer.recv().map_err(|_| GONE)?
    }
}

impl Drop for EmulatedLink {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.bell.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Cable {
    name: String,
    taps: [Tap; 2],
    /// What end 0 sends flies on lane 0 and arrives at end 1.
    lanes: [Lane; 2],
    shape: Shape,
    plugged: bool,
    swallowed: [bool; 2],
    interference: Orders,
    recordings: Recordings,
    watch: Watch,
    inbox: Receiver<Letter>,
    bell: Arc<EventFd>,
    tell: Teller,
}

impl Cable {
    fn run(&mut self) {
        be_punctual(&self.shape);
        let mut buffer = vec![0; LARGEST];
        loop {
            if !self.take_orders() {
                return;
            }
            let mut busy = false;
            for end in 0..2 {
                busy |= self.deliver_due(end)
                    && self.lanes[end]
                        .next_due()
                        .is_some_and(|due| due <= Instant::now());
                busy |= self.accept(end, &mut buffer);
            }
            if !busy {
                self.wait();
            }
        }
    }

    /// Sleeps until a frame, an order or a due time.
    fn wait(&self) {
        let due = self.lanes.iter().filter_map(Lane::next_due).min();
        let timeout = due.map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
        let mut ready = [
            PollFd::new(self.taps[0].as_fd(), PollFlags::POLLIN),
            PollFd::new(self.taps[1].as_fd(), PollFlags::POLLIN),
            PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
        ];
        // An interrupted wait is a short one.
        let _ = ppoll(&mut ready, timeout, None);
        if ready[2].any() == Some(true) {
            let _ = self.bell.read();
        }
    }

    /// Takes frames from one host; true if there may be more.
    fn accept(&mut self, end: usize, buffer: &mut [u8]) -> bool {
        for _ in 0..BATCH {
            match self.taps[end].receive(buffer) {
                Ok(Some(length)) if length > OFFLOAD_HEADER => self.sent(end, &mut buffer[..length]),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return false,
            }
        }
        true
    }

    /// A host has sent a frame.
    fn sent(&mut self, end: usize, frame: &mut [u8]) {
        let now = Instant::now();
        let bare = &frame[OFFLOAD_HEADER..];
        let packet = Packet::read(bare);
        self.watch
            .passes(end, Way::Out, bare, bare.len(), packet.as_ref(), now);
        if !self.plugged || self.swallowed[end] {
            return;
        }
        let (mut late, mut copies) = (Duration::ZERO, 0);
        if !self.interference.is_empty() {
            let treatment =
                self.interference
                    .treat(frame, packet.as_ref(), end, &self.name, &self.recordings);
            for said in treatment.said {
                (self.tell)(said);
            }
            if treatment.drop {
                return;
            }
            (late, copies) = (treatment.delay, treatment.copies);
        }
        for _ in 0..=copies {
            if let Fate::Arrives(due) = self.lanes[end].fate(&self.shape, frame.len() - OFFLOAD_HEADER, now) {
                self.travel(end, frame, due + late, now);
            }
        }
    }

    fn travel(&mut self, end: usize, frame: &[u8], due: Instant, now: Instant) {
        if due <= now && self.lanes[end].is_empty() {
            self.deliver(1 - end, frame);
        } else {
            self.lanes[end].put(due, frame);
        }
    }

    /// Hands over what end `end` sent and is due; true if anything was.
    fn deliver_due(&mut self, end: usize) -> bool {
        let now = Instant::now();
        for delivered in 0..BATCH {
            match self.lanes[end].take_due(now) {
                Some(frame) => self.deliver(1 - end, &frame),
                None => return delivered > 0,
            }
        }
        true
    }

    fn deliver(&mut self, to: usize, frame: &[u8]) {
        let bare = &frame[OFFLOAD_HEADER..];
        self.watch.passes(
            to,
            Way::In,
            bare,
            bare.len(),
            Packet::read(bare).as_ref(),
            Instant::now(),
        );
        if let Err(error) = self.taps[to].send(frame) {
            (self.tell)(format!("cannot deliver a frame: {error}"));
        }
    }

    /// False when the link is to end.
    fn take_orders(&mut self) -> bool {
        use std::sync::mpsc::TryRecvError;
        loop {
            match self.inbox.try_recv() {
                Ok((order, done)) => {
                    let outcome = self.obey(order).map_err(|error| error.to_string());
                    let _ = done.send(outcome);
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), MachineError> {
        match order {
            Order::Shape(shape) => {
                self.shape = shape;
                self.fit_offloads()?;
                be_punctual(&shape);
            }
            Order::Blackhole(None) => self.swallowed = [true; 2],
            Order::Blackhole(Some(end)) => self.swallowed[end] = true,
            Order::Heal => self.swallowed = [false; 2],
            Order::Carrier { plugged, ends } => {
                self.plugged = plugged;
                if !plugged {
                    self.lanes.iter_mut().for_each(Lane::clear);
                }
                for (tap, shows) in self.taps.iter().zip(ends) {
                    if shows {
                        tap.carrier(plugged)?;
                    }
                }
            }
            Order::Interfere(interference, end) => self.interference.add(&interference, end),
            Order::Replay {
                mut recording,
                end,
                to,
            } => {
                recording.frame[OFFLOAD_HEADER..OFFLOAD_HEADER + 6].copy_from_slice(&to);
                let now = Instant::now();
                let length = recording.frame.len() - OFFLOAD_HEADER;
                if let Fate::Arrives(due) = self.lanes[end].fate(&self.shape, length, now) {
                    self.travel(end, &recording.frame, due, now);
                }
            }
        }
        Ok(())
    }

    fn fit_offloads(&self) -> Result<(), MachineError> {
        let whole = self.shape.rate.is_none() && self.shape.loss == 0.0;
        self.taps
            .iter()
            .try_for_each(|tap| tap.pass_large_segments(whole))
    }
}

/// Timers of this thread fire when they are due, and ahead of programs that compute: a late cable would look like
/// a slow network.
///
/// A link that promises times goes ahead of one that only carries: the latter may be busy all the time.
fn be_punctual(shape: &Shape) {
    let _ = nix::sys::prctl::set_timerslack(1);
    let promises = shape.rate.is_some() || !shape.delay.is_zero();
    let priority = libc::sched_param {
        sched_priority: 1 + libc::c_int::from(promises),
    };
    // SAFETY: thread 0 is the calling one; the parameter outlives the call.
    unsafe {
        if libc::sched_setscheduler(0, libc::SCHED_RR, &raw const priority) != 0 {
            libc::setpriority(libc::PRIO_PROCESS, 0, -15);
        }
    }
}

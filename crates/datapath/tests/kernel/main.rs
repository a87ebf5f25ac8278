//! The BPF programs in this kernel. Every test runs as root in a place of its own (`place`), which takes all it
//! made with it. In the order of a segment's way: loading, reading, stealing, offering, adopting, upgrading.

mod adopting;
mod damage;
mod echo;
mod equality;
mod fidelity;
mod loading;
mod offering;
mod parking;
mod place;
mod relaying;
mod sockets;
mod stealing;
mod upgrading;

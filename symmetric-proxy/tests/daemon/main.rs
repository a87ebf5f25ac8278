//! The daemon as it runs: the real program and the real data path in namespaces of their own, before it a server that
//! gives tickets as the test likes (`desk`), and around it a network that says whatever the test says (`world`).

mod desk;
mod knocks;
mod operating;
mod place;
mod tickets;
mod world;

//! Options, frames, keys and their text: one program, so that it is linked once.

mod common;
mod damage;
mod frames;
mod fuzz;
mod keys;
mod pretty;
mod reading;
mod round_trips;
mod vectors;

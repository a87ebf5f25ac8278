//! What needs no network: the language of scenarios, lanes, segments, reports, and the simulation.

mod lane;
mod language;
mod report;
mod segments;
mod sim;
mod small_story;

//! The lab's own applications: ordinary TCP programs that know nothing of migration and tell what they saw.
//!
//! The runner starts itself inside a host as `lab app JSON`. An application prints one JSON line whenever its
//! [`Report`] changed, so that the story can wait for bytes, answers and errors without asking.
//!
//! 1. [`serve`] waits for clients; [`talk`] connects and fetches, pushes, exchanges, echoes or idles.
//! 2. [`stream`] is the data: pseudo-random from a seed, so that both ends know every byte.
//! 3. [`dialog`] is one connection led step by step, for what few programs do.
//! 4. [`httpd`] is a tiny web server over the same stream and a directory.
pub mod dialog;
mod dialog_kernel;
pub mod httpd;
pub mod report;
pub mod serve;
pub mod sockets;
pub mod stream;
pub mod talk;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use report::{Report, Stall};

/// What the runner asks an application process to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum App {
    Serve { port: u16, options: sockets::Options },
    Talk(Conversation),
    Dialog { script: String },
    Httpd { port: u16, directory: Option<PathBuf> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conversation {
    pub to: SocketAddr,
    pub connections: u32,
    pub seed: u64,
    pub options: sockets::Options,
    pub what: Topic,
}

/// What a client does on each of its connections.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    Fetch {
        bytes: u64,
    },
    Push {
        bytes: u64,
    },
    Exchange {
        bytes: u64,
    },
    /// Intervals in microseconds.
    Echo {
        size: u32,
        every: u64,
        count: Option<u64>,
    },
    Idle,
    /// One connection after the other: each asks once, hears the answer, and is closed.
    Visits {
        count: u64,
    },
}

/// Runs an application to its end. The exit code is 0 if nothing failed.
///
/// # Errors
/// The description cannot be read, or the application cannot begin (port in use).
pub fn run(description: &str) -> Result<i32, String> {
    let app: App =
        serde_json::from_str(description).map_err(|error| format!("not an application: {error}"))?;
    allow_many_files();
    match app {
        App::Serve { port, options } => serve::run(port, &options),
        App::Talk(conversation) => Ok(talk::run(&conversation)),
        App::Dialog { script } => dialog::run(&script),
        App::Httpd { port, directory } => httpd::run(port, directory.as_deref()),
    }
}

/// Thousands of connections are thousands of descriptors.
fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // A refusal shows when a connection cannot be opened.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

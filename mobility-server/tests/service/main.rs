//! The server as its callers meet it: one program, so that it is linked once.

mod common;
mod hostile;
mod init;
mod lifecycle;
mod matching;
mod operators;
mod proxies;
mod sessions;

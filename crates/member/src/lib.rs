//! A member of a deployment, towards its mobility servers: what host agents, symmetric proxies and relays do alike.
//!
//! 1. A host joins once ([`enrolment`]).
//! 2. Its program connects to servers ([`connect`]), over TLS 1.3 with the certificate that it got.
//! 3. It shows who it is, and knows its servers ([`standing`]).
//! 4. The certificate is renewed while the program runs ([`renewal`]).

pub mod connect;
pub mod enrolment;
pub mod renewal;
pub mod standing;

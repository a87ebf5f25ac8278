//! Whatever bytes come as an event, reading them ends without a panic, and what is read was said.

use mptcp_pm::{Event, Token};
use proptest::prelude::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// SUB_ESTABLISHED as the kernel writes it.
fn joined() -> Vec<u8> {
    [
        attribute(1, &0xdead_beef_u32.to_ne_bytes()),
        attribute(2, &2u16.to_ne_bytes()),
        attribute(3, &[4]),
        attribute(4, &[5]),
        attribute(5, &[192, 0, 2, 1]),
        attribute(7, &[192, 0, 2, 2]),
        attribute(9, &4000u16.to_be_bytes()),
        attribute(10, &80u16.to_be_bytes()),
        attribute(11, &[1]),
        attribute(15, &3u32.to_ne_bytes()),
    ]
    .concat()
}

#[test]
fn a_subflow_is_read_as_it_was_written() {
    let Some(Event::SubflowEstablished(subflow)) = Event::read(10, &joined()) else {
        panic!("not read");
    };
    assert_eq!(subflow.token, Token(0xdead_beef));
    assert_eq!(subflow.local.to_string(), "192.0.2.1:4000");
    assert_eq!(subflow.remote.to_string(), "192.0.2.2:80");
    assert_eq!(
        (
            subflow.local_id,
            subflow.remote_id,
            subflow.backup,
            subflow.interface
        ),
        (4, 5, true, Some(3))
    );
}

#[test]
fn every_truncation_is_read_without_the_missing_part() {
    let whole = joined();
    for length in 0..whole.len() {
        if let Some(event) = Event::read(10, &whole[..length]) {
            assert_eq!(event.token(), Some(Token(0xdead_beef)));
        }
    }
}

#[test]
fn an_event_of_a_newer_kernel_is_no_event() {
    assert_eq!(Event::read(200, &joined()), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_an_end(command in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Event::read(command, &bytes);
    }

    #[test]
    fn damage_to_one_byte_is_read_to_an_end(command in 0u8..20, at in 0usize..100, to in any::<u8>()) {
        let mut bytes = joined();
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = Event::read(command, &bytes);
    }
}

//! The PROXY protocol, version 2, as a load balancer in front writes it: who is behind this connection.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};
use wire::Endpoint;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and a few extensions; more is not a header of ours.
const LONGEST: usize = 1024;

/// Reads one header. None: the front speaks for itself (a health check), the socket's own source counts.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Endpoint>> {
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let mut fixed = [0; 16];
    stream.read_exact(&mut fixed).await?;
    if fixed[..12] != SIGNATURE {
        return Err(wrong(
            "a front sends no PROXY protocol v2 header: switch it on there (send-proxy-v2)",
        ));
    }
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0xf);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if version != 2 || length > LONGEST {
        return Err(wrong("a PROXY protocol header of another version, or too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    match (command, fixed[13], length) {
        (0, ..) => Ok(None),
        (1, 0x11, 12..) => {
            let address = Ipv4Addr::new(body[0], body[1], body[2], body[3]);
            Ok(Some(Endpoint::new(address.into(), port(8))))
        }
        (1, 0x21, 36..) => {
            let address: [u8; 16] = body[..16].try_into().map_err(|_| wrong("a short header"))?;
            Ok(Some(Endpoint::new(Ipv6Addr::from(address).into(), port(32))))
        }
        _ => Err(wrong("a PROXY protocol header of something else than TCP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, body].concat()
    }

    #[tokio::test]
    async fn a_header_names_the_source_and_leaves_what_follows() {
        let body = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x1e, 0x78];
        let bytes = [header(1, 0x11, &body), b"rest".to_vec()].concat();
        let mut stream = &bytes[..];
        let source = read(&mut stream).await.expect("it is one");
        assert_eq!(source, Some(Endpoint::new([192, 0, 2, 7].into(), 12345)));
        assert_eq!(stream, b"rest");
    }

    #[tokio::test]
    async fn a_health_check_of_the_front_names_nobody() {
        assert_eq!(read(&mut &header(0, 0, &[])[..]).await.expect("it is one"), None);
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let long = header(1, 0x11, &[0; 2000]);
        let short = header(1, 0x11, &[0; 4]);
        let datagrams = header(1, 0x12, &[0; 12]);
        for bytes in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00"[..],
            &long,
            &short,
            &datagrams,
            b"",
        ] {
            assert!(read(&mut &bytes[..]).await.is_err());
        }
    }
}

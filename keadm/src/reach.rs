//! What this machine reaches: names and addresses. It sends one
//! question or opens one connection at a time, and nothing else.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::Duration;

/// A server on a bad line answers within this.
const LIMIT: Duration = Duration::from_secs(5);
const DNS_PORT: u16 = 53;
/// Longest answer over UDP.
const MAX_ANSWER: usize = 512;

/// The network as this machine sees it.
pub(crate) trait Reach {
    /// Addresses of a name, by this machine's own settings or as `server` says.
    fn resolve(&self, name: &str, server: Option<IpAddr>) -> io::Result<Vec<IpAddr>>;
    /// Opens and closes a TCP connection to host:port.
    fn connect(&self, address: &str) -> io::Result<()>;
}

pub(crate) struct Internet;

impl Reach for Internet {
    fn resolve(&self, name: &str, server: Option<IpAddr>) -> io::Result<Vec<IpAddr>> {
        let Some(server) = server else {
            return Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect());
        };
        let any =
            if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.connect((server, DNS_PORT))?;
        socket.send(&question(name)?)?;
        let mut buffer = [0; MAX_ANSWER];
        let length = socket.recv(&mut buffer)?;
        addresses(buffer.get(..length).unwrap_or_default())
    }

    fn connect(&self, address: &str) -> io::Result<()> {
        let mut last = io::Error::new(ErrorKind::NotFound, "it has no address");
        for address in address.to_socket_addrs()?.collect::<Vec<SocketAddr>>() {
            match TcpStream::connect_timeout(&address, LIMIT) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The socket takes answers of this server only, so the question's number need not be a secret.
const NUMBER: [u8; 2] = [0x1c, 0x57];

/// RFC 1035, section 4: one question for IPv4 addresses.
fn question(name: &str) -> io::Result<Vec<u8>> {
    let mut packet = Vec::from(NUMBER);
    // Recursion is desired; one question.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        let wrong = || io::Error::new(ErrorKind::InvalidInput, format!("{name:?} is no domain name"));
        packet.push(length.ok_or_else(wrong)?);
        packet.extend(label.as_bytes());
    }
    // The root; type A; class IN.
    packet.extend([0, 0, 1, 0, 1]);
    Ok(packet)
}

/// The IPv4 addresses of an answer.
fn addresses(answer: &[u8]) -> io::Result<Vec<IpAddr>> {
    let nonsense = || io::Error::new(ErrorKind::InvalidData, "it answers no DNS");
    if answer.get(..2) != Some(&NUMBER) {
        return Err(nonsense());
    }
    let number = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    match number(2).ok_or_else(nonsense)? & 15 {
        0 => {}
        3 => return Err(io::Error::new(ErrorKind::NotFound, "there is no such name")),
        code => return Err(io::Error::other(format!("it answers with error {code}"))),
    }
    let n_answers = number(6).ok_or_else(nonsense)?;
    let mut at = skip_name(answer, 12).ok_or_else(nonsense)? + 4;
    let mut found = Vec::new();
    for _ in 0..n_answers {
        at = skip_name(answer, at).ok_or_else(nonsense)?;
        let kind = number(at).ok_or_else(nonsense)?;
        let length = usize::from(number(at + 8).ok_or_else(nonsense)?);
        let data = answer.get(at + 10..at + 10 + length).ok_or_else(nonsense)?;
        if let (1, Ok(address)) = (kind, <[u8; 4]>::try_from(data)) {
            found.push(IpAddr::from(address));
        }
        at += 10 + length;
    }
    Ok(found)
}

/// Where the name that begins there ends: at an empty label, or at a pointer to the rest of it.
fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_dns() {
        let asked = question("a.example").unwrap();
        assert_eq!(&asked[12..], b"\x01a\x07example\0\0\x01\0\x01");
        assert!(question("a..b").is_err());
        let answer = |code: u8, records: &[u8], n_records: u8| {
            let mut answer = asked.clone();
            (answer[2], answer[3], answer[7]) = (0x81, 0x80 | code, n_records);
            answer.extend(records);
            addresses(&answer).map_err(|error| error.to_string())
        };
        let alias = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\x01b";
        let address = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        assert_eq!(answer(0, &[&alias[..], address].concat(), 2), Ok(vec![IpAddr::from([10, 0, 0, 1])]));
        assert_eq!(answer(3, b"", 0), Err("there is no such name".to_owned()));
        assert_eq!(answer(0, &address[..10], 1), Err("it answers no DNS".to_owned()));
        assert!(addresses(b"x").is_err());
    }
}

//! Removes a network interface by its name, by a message to the kernel: a machine need not have `ip`.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// `RTM_DELLINK`
const DELETE_LINK: u16 = 17;
/// `NLMSG_ERROR`: an answer, also that all is well.
const ANSWER: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK`
const FLAGS: u16 = 1 | 4;
/// `IFLA_IFNAME`
const NAME: u16 = 3;
/// Bytes of `nlmsghdr` and of `ifinfomsg`.
const HEADER: usize = 16;
const INFO: usize = 16;
const NO_DEVICE: i32 = 19;

/// Gone already: success.
pub(super) fn delete(name: &str) -> io::Result<()> {
    // No protocol is the one of interfaces and routes.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &request(name), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = [0; 4096];
    let (n_bytes, _) = recv(&socket, &mut buffer, RecvFlags::empty())?;
    match outcome(buffer.get(..n_bytes).unwrap_or_default()) {
        Some(0 | NO_DEVICE) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer makes no sense")),
    }
}

/// In the machine's own byte order, as everything in netlink.
fn request(name: &str) -> Vec<u8> {
    let name_and_end = name.len().saturating_add(1);
    let attribute = name_and_end.saturating_add(4);
    let padded = attribute.next_multiple_of(4);
    let whole = HEADER.saturating_add(INFO).saturating_add(padded);
    let mut bytes = Vec::with_capacity(whole);
    bytes.extend(u32::try_from(whole).unwrap_or_default().to_ne_bytes());
    bytes.extend(DELETE_LINK.to_ne_bytes());
    bytes.extend(FLAGS.to_ne_bytes());
    // Sequence number, port, and an `ifinfomsg` without a number: the name says which.
    bytes.resize(HEADER.saturating_add(INFO), 0);
    bytes.extend(u16::try_from(attribute).unwrap_or_default().to_ne_bytes());
    bytes.extend(NAME.to_ne_bytes());
    bytes.extend(name.as_bytes());
    bytes.resize(whole, 0);
    bytes
}

/// The kernel's error number; 0: done. `None`: no answer to this.
fn outcome(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(HEADER..HEADER.checked_add(4)?)?.try_into().ok()?);
    (kind == ANSWER).then_some(code.checked_neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_interface() {
        let bytes = request("isthmus0");
        assert_eq!(bytes.len(), 16 + 16 + 16);
        assert_eq!(bytes[..4], 48_u32.to_ne_bytes());
        assert_eq!(bytes[32..34], 13_u16.to_ne_bytes());
        assert_eq!(&bytes[36..45], b"isthmus0\0");
    }

    #[test]
    fn answers() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert_eq!(outcome(&answer(ANSWER, 0)), Some(0));
        assert_eq!(outcome(&answer(ANSWER, -19)), Some(NO_DEVICE));
        assert_eq!(outcome(&answer(7, 0)), None);
        assert_eq!(outcome(&[0; 10]), None);
    }
}

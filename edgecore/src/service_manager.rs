//! What systemd is told: how long edgecore needs when it is asked to stop and the machine may be going down.
//!
//! The unit's `TimeoutStopSec` is for edgecore alone, which ends no pod. How long pods have is known here, not in the unit, so that
//! it need not be written twice: systemd is asked for that time when its SIGTERM comes (`EXTEND_TIMEOUT_USEC`, systemd 236 or
//! newer, and `NotifyAccess=main` in the unit). It is a limit, not a pause: who needs less is not waited for. Without systemd
//! nothing is said. Called by `main.rs`; `edged::node_shutdown` ends the pods.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use ke_run::shutdown::Shutdown;
use ke_run::supervise;

use crate::edged::Period;

/// Beyond the pods' periods and edgecore's own grace: until systemd has said whether the machine goes down, and until the store
/// is closed on a slow card.
const MARGIN: Duration = Duration::from_secs(20);

/// How long a stop may take; `None`: no pod is ended, and the unit's own limit will do.
fn stop_limit(periods: &[Period]) -> Option<Duration> {
    let pods: u64 = periods.iter().map(|period| period.secs.unsigned_abs()).sum();
    (!periods.is_empty()).then(|| Duration::from_secs(pods) + supervise::GRACE + MARGIN)
}

/// Asks for the time as soon as edgecore is to stop. `socket`: what `NOTIFY_SOCKET` says.
pub async fn ask_for_time(asked: Shutdown, socket: Option<OsString>, periods: Vec<Period>) {
    let (Some(socket), Some(limit)) = (socket, stop_limit(&periods)) else { return };
    asked.wait().await;
    if let Err(cause) = tell(&socket, &format!("EXTEND_TIMEOUT_USEC={}\n", limit.as_micros())) {
        tracing::warn!("ask systemd for {} s until the pods have ended: {cause}", limit.as_secs());
    }
}

/// One datagram; it is taken or lost at once.
fn tell(socket: &OsStr, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let ours = UnixDatagram::unbound()?;
    ours.set_nonblocking(true)?;
    ours.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(priority: i32, secs: i64) -> Period {
        Period { priority, secs }
    }

    #[test]
    fn a_stop_may_take_as_long_as_its_pods_and_some_more() {
        let check = |periods: &[Period], expected: Option<u64>| {
            assert_eq!(stop_limit(periods), expected.map(Duration::from_secs), "{periods:?}");
        };
        check(&[], None);
        check(&[period(0, 20), period(2_000_000_000, 10)], Some(60));
        check(&[period(0, 86_400), period(1000, 86_400)], Some(172_830));
    }

    #[tokio::test]
    async fn systemd_hears_it_when_edgecore_is_asked_to_stop_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("isthmus-test-{}", uuid::Uuid::new_v4());
        let sockets = [
            (path.clone().into_os_string(), SocketAddr::from_pathname(&path).unwrap()),
            (format!("@{name}").into(), SocketAddr::from_abstract_name(&name).unwrap()),
        ];
        for (socket, address) in sockets {
            let systemd = UnixDatagram::bind_addr(&address).unwrap();
            systemd.set_nonblocking(true).unwrap();
            let (trigger, asked) = Shutdown::new();
            let asking = tokio::spawn(ask_for_time(asked, Some(socket), vec![period(0, 120)]));
            tokio::task::yield_now().await;
            let mut heard = [0; 100];
            assert_eq!(systemd.recv(&mut heard).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            trigger.stop();
            asking.await.unwrap();
            let n_heard = systemd.recv(&mut heard).unwrap();
            assert_eq!(&heard[..n_heard], b"EXTEND_TIMEOUT_USEC=150000000\n");
        }
    }

    #[tokio::test]
    async fn without_systemd_or_periods_nothing_is_waited_for() {
        let (_trigger, asked) = Shutdown::new();
        ask_for_time(asked.clone(), None, vec![period(0, 120)]).await;
        ask_for_time(asked, Some("/no/such/socket".into()), Vec::new()).await;
    }
}

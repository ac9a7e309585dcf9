//! One session with one server: found, trusted, opened, and watched until it is lost.
//!
//! The client library would reconnect by itself; here a session that is lost stays lost, because the SDK decides when a
//! device is tried again and says meanwhile that it is offline. Called by `driver.rs`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use mapper_sdk::DriverError;
use opcua::client::{
    Client, ClientBuilder, IdentityToken, Session, SessionActivity, SessionDropGuard, SessionPollResult,
    SubscriptionActivity,
};
use opcua::crypto::SecurityPolicy;
use opcua::types::{MessageSecurityMode, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::endpoint;
use crate::settings::{Identity, KeyPair, Password, Server, ServerUrl};
use crate::trust::{APPLICATION_NAME, Own, Pki};

/// A silent server is noticed after this and one request's time-out.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long the goodbye may take after nobody needs the session any more.
const GOODBYE: Duration = Duration::from_secs(5);

/// Servers end a session by themselves when nothing was heard for this long.
const SESSION_TIMEOUT_MS: u32 = 60_000;

/// Larger files hold something else than a password.
const LONGEST_PASSWORD_FILE: u64 = 4096;

/// An open session. It says goodbye when dropped.
pub struct OpenSession {
    session: SessionDropGuard,
    link: watch::Receiver<Link>,
    server: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Opening,
    Open,
    Lost(StatusCode),
}

impl OpenSession {
    /// Finds the server's endpoint, checks whom it belongs to, and logs in.
    pub async fn open(server: &Server, pki: &Pki) -> Result<Self, DriverError> {
        let place = server.url.to_string();
        reach(&server.url, server.timeout).await?;
        let own = own_keys(server.own.clone(), pki).await?;
        let mut client = client(server.timeout, pki, &own)?;

        let endpoints = timeout(server.timeout, client.get_server_endpoints_from_url(place.as_str())).await;
        let endpoints = match endpoints {
            Ok(Ok(endpoints)) => endpoints,
            Ok(Err(error)) => return Err(lost(&place, error.status())),
            Err(_) => return Err(silent(&place, server.timeout)),
        };
        let mut endpoint = endpoint::choose(endpoints, server.security, &server.identity)
            .map_err(|reason| DriverError::Refused(format!("{place}: {reason}")))?;

        let is_plain = endpoint.security_mode == MessageSecurityMode::None;
        let has_password = matches!(server.identity, Identity::User(..));
        if !is_plain || has_password || server.remote_certificate.is_some() {
            check_server(server, pki, endpoint.server_certificate.as_ref(), &place).await?;
        }
        if is_plain && has_password {
            tracing::warn!(server = %place, "user name and password go over a connection that is not encrypted; set securityPolicy");
        }
        endpoint.endpoint_url = server.url.with_path_of(endpoint.endpoint_url.as_ref()).to_string().into();
        let policy = SecurityPolicy::from_uri(endpoint.security_policy_uri.as_ref());
        tracing::debug!(server = %place, policy = policy.to_str(), mode = ?endpoint.security_mode, "open session");

        let identity = identity(&server.identity, own).await;
        let (session, event_loop) = client
            .connect_to_endpoint_directly(endpoint, identity)
            .map_err(|error| DriverError::Refused(format!("{place}: {error}")))?;
        let session = session.close_on_drop();
        let (told, link) = watch::channel(Link::Opening);
        tokio::spawn(watch_over(event_loop.enter(), told));

        let mut open = Self { session, link, server: place };
        let settled = async {
            match open.link.wait_for(|link| *link != Link::Opening).await {
                Ok(link) => *link,
                Err(_) => Link::Lost(StatusCode::BadConnectionClosed),
            }
        };
        match timeout(server.timeout, settled).await {
            Ok(Link::Opening | Link::Open) => Ok(open),
            Ok(Link::Lost(status)) => Err(not_let_in(&open.server, status, &server.identity)),
            Err(_) => Err(silent(&open.server, server.timeout)),
        }
    }

    /// To send requests with.
    #[must_use]
    pub fn session(&self) -> Arc<Session> {
        self.session.arc()
    }

    /// Waits until the session is lost, and says so. Cancellation-safe.
    pub async fn lost(&mut self) -> DriverError {
        let status = match self.link.wait_for(|link| matches!(link, Link::Lost(_))).await.as_deref() {
            Ok(Link::Lost(status)) => *status,
            _ => StatusCode::BadConnectionClosed,
        };
        lost(&self.server, status)
    }

    /// What the failure of a whole request means.
    #[must_use]
    pub fn failed(&self, status: StatusCode) -> DriverError {
        lost(&self.server, status)
    }

    /// Whether the watch has seen the end.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        *self.link.borrow() != Link::Open
    }
}

/// Drives the library's session until it ends, or until its owner has gone and the goodbye had its time.
async fn watch_over(
    events: impl Stream<Item = Result<SessionPollResult, StatusCode>>,
    told: watch::Sender<Link>,
) {
    let driven = async {
        let mut events = std::pin::pin!(events);
        loop {
            let status = match events.next().await {
                Some(Ok(SessionPollResult::Reconnected(_))) => {
                    told.send_replace(Link::Open);
                    continue;
                }
                Some(Ok(
                    SessionPollResult::ConnectionLost(status)
                    | SessionPollResult::ReconnectFailed(status)
                    | SessionPollResult::SessionActivity(SessionActivity::KeepAliveFailed(status))
                    | SessionPollResult::Subscription(SubscriptionActivity::FatalFailure(status)),
                )) => status,
                Some(Err(status)) => status,
                None => StatusCode::BadConnectionClosed,
                Some(Ok(_)) => continue,
            };
            told.send_replace(Link::Lost(status));
            return;
        }
    };
    let gone = async {
        told.closed().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        () = driven => {}
        () = gone => {}
    }
}

/// Whether anybody listens there. The client library would log an error of its own for everyone who is merely away, and not
/// say why.
pub async fn reach(url: &ServerUrl, limit: Duration) -> Result<(), DriverError> {
    match timeout(limit, TcpStream::connect(&url.authority)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(DriverError::Lost(format!("{url}: {error}"))),
        Err(_) => Err(silent(&url.to_string(), limit)),
    }
}

/// A client that only asks who is there; its questions are never encrypted.
pub async fn asking_client(pki: &Pki) -> Result<Client, DriverError> {
    let own = own_keys(None, pki).await?;
    client(KEEP_ALIVE, pki, &own)
}

fn client(request_timeout: Duration, pki: &Pki, own: &Own) -> Result<Client, DriverError> {
    ClientBuilder::new()
        .application_name(APPLICATION_NAME)
        .application_uri(own.application_uri.as_str())
        .product_uri("urn:isthmus:mapper-opcua")
        .session_name(APPLICATION_NAME)
        .pki_dir(pki.directory())
        .certificate_path(&own.files.certificate)
        .private_key_path(&own.files.private_key)
        // `trust.rs` has compared the whole certificate before.
        .trust_server_certs(true)
        .verify_server_certs(false)
        // Machines at the edge may start without a clock.
        .ignore_clock_skew(true)
        .session_retry_limit(0)
        .session_timeout(SESSION_TIMEOUT_MS)
        .keep_alive_interval(KEEP_ALIVE)
        .request_timeout(request_timeout)
        .recreate_subscriptions(false)
        .max_array_length(100_000)
        .max_message_size(16 * 1024 * 1024)
        .max_chunk_count(1024)
        .max_string_length(1024 * 1024)
        .max_byte_string_length(1024 * 1024)
        .client()
        .map_err(|problems| DriverError::Refused(problems.join("; ")))
}

async fn own_keys(given: Option<KeyPair>, pki: &Pki) -> Result<Own, DriverError> {
    let pki = pki.clone();
    let keys = tokio::task::spawn_blocking(move || match given {
        Some(files) => Pki::given(&files),
        None => pki.own(),
    });
    match keys.await {
        Ok(keys) => keys.map_err(|error| DriverError::Refused(error.to_string())),
        Err(error) => Err(DriverError::Lost(format!("make keys: {error}"))),
    }
}

async fn check_server(server: &Server, pki: &Pki, offered: &[u8], place: &str) -> Result<(), DriverError> {
    let (pki, authority, offered) = (pki.clone(), server.url.authority.clone(), offered.to_vec());
    let pinned = server.remote_certificate.clone();
    let checked =
        tokio::task::spawn_blocking(move || pki.check_server(&authority, &offered, pinned.as_deref()));
    match checked.await {
        Ok(checked) => checked.map_err(|error| DriverError::Refused(format!("{place}: {error}"))),
        Err(error) => Err(DriverError::Lost(format!("check the server's certificate: {error}"))),
    }
}

async fn identity(identity: &Identity, own: Own) -> IdentityToken {
    match identity {
        Identity::Anonymous => IdentityToken::Anonymous,
        Identity::User(name, password) => {
            IdentityToken::new_user_name(name.as_str(), read_password(password).await)
        }
        Identity::Certificate => IdentityToken::new_x509(own.certificate, own.private_key),
    }
}

/// The password itself: manifests of other mappers name a file, people write the password.
async fn read_password(password: &Password) -> String {
    let is_file = tokio::fs::metadata(&password.0).await;
    if is_file.is_ok_and(|file| file.is_file() && file.len() <= LONGEST_PASSWORD_FILE)
        && let Ok(text) = tokio::fs::read_to_string(&password.0).await
    {
        return text.trim_end_matches(['\r', '\n']).to_owned();
    }
    if !password.0.is_empty() {
        tracing::info!(
            "password names no readable file: it is taken as the password itself, which everybody sees who may read the device"
        );
    }
    password.0.clone()
}

fn lost(place: &str, status: StatusCode) -> DriverError {
    let hint = match status {
        StatusCode::BadCommunicationError => "nobody answers there, or hung up; check url and the network",
        StatusCode::BadTimeout => "no answer in time",
        _ => status.sub_code().description(),
    };
    DriverError::Lost(format!("{place}: {status}: {hint}"))
}

fn silent(place: &str, limit: Duration) -> DriverError {
    DriverError::Lost(format!("{place}: no answer within {} s", limit.as_secs()))
}

/// Why logging in failed, with what people can do. All of it is tried again: servers are put right, too.
fn not_let_in(place: &str, status: StatusCode, identity: &Identity) -> DriverError {
    let hint = match status {
        StatusCode::BadUserAccessDenied
        | StatusCode::BadIdentityTokenRejected
        | StatusCode::BadIdentityTokenInvalid => match identity {
            Identity::User(..) => "the server refused the login; check userName and password",
            Identity::Certificate => "the server refused the login; it must know the certificate",
            Identity::Anonymous => "the server refused the login; set userName and password",
        },
        StatusCode::BadCertificateUntrusted
        | StatusCode::BadSecurityChecksFailed
        | StatusCode::BadCertificateInvalid
        | StatusCode::BadCertificateUriInvalid => {
            "the server does not trust the mapper's certificate; add own/cert.der of the mapper's directory to the server's trusted clients, or set certificate and privateKey"
        }
        StatusCode::BadTooManySessions => "the server has no session left for the mapper",
        _ => return lost(place, status),
    };
    DriverError::Refused(format!("{place}: {status}: {hint}"))
}

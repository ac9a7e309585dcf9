//! Unencrypted HTTP/1.1, of which a form, OTLP, InfluxDB and TDengine make use; and the target that takes forms.

use std::fmt;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::push::address::{Place, Url};
use crate::push::line::{Failure, Target};
use crate::push::secrets::Secrets;
use crate::push::settings::Form;

/// More of an answer is not read: the connection is not used again.
const LONGEST_ANSWER: usize = 64 << 10;
/// What of an answer's text is told to people.
const LONGEST_TOLD: usize = 200;

/// A connection, and what every request on it has.
pub(crate) struct Session {
    sender: SendRequest<Full<Bytes>>,
    /// Moves the connection's bytes; ends with the session.
    _connection: JoinSet<()>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Empty if it was too long.
    pub(crate) text: Bytes,
}

/// Opens a TCP connection that does not wait for more to send.
pub(crate) async fn dial(place: &Place) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await;
    let stream = stream.map_err(|error| Failure::io(&error))?;
    stream.set_nodelay(true).map_err(|error| Failure::io(&error))?;
    Ok(stream)
}

impl Session {
    /// Connects. `content_type`: of all requests; `authorization`: a secret.
    pub(crate) async fn connect(
        place: &Place,
        content_type: &'static str,
        authorization: Option<String>,
    ) -> Result<Self, Failure> {
        let away = |error: hyper::Error| Failure::Away(error.to_string());
        let (sender, connection) = handshake(TokioIo::new(dial(place).await?)).await.map_err(away)?;
        let mut tasks = JoinSet::new();
        // The request's own error says what is wrong.
        tasks.spawn(async move { drop(connection.await) });
        let host = HeaderValue::from_str(&place.to_string());
        let host = host.map_err(|_| Failure::Away("the host's name cannot be sent".to_owned()))?;
        let mut headers = vec![
            (HOST, host),
            (CONTENT_TYPE, HeaderValue::from_static(content_type)),
            (USER_AGENT, HeaderValue::from_static(concat!("mapper-sdk/", env!("CARGO_PKG_VERSION")))),
        ];
        if let Some(authorization) = authorization {
            let wrong = |_| Failure::Away("the token or password has a line break or such in it".to_owned());
            let mut value = HeaderValue::try_from(authorization).map_err(wrong)?;
            value.set_sensitive(true);
            headers.push((AUTHORIZATION, value));
        }
        Ok(Self { sender, _connection: tasks, headers })
    }

    /// Posts and waits for the whole answer.
    pub(crate) async fn post(&mut self, path: &str, body: String) -> Result<Answer, Failure> {
        let away = |error: hyper::Error| Failure::Away(error.to_string());
        self.sender.ready().await.map_err(away)?;
        let mut request = Request::post(path);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|_| Failure::Refused("the path cannot be asked for".to_owned()))?;
        let answer = self.sender.send_request(request).await.map_err(away)?;
        let status = answer.status();
        let text = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
        Ok(Answer { status, text: text.map(http_body_util::Collected::to_bytes).unwrap_or_default() })
    }
}

impl Answer {
    /// Whether the status is a yes.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let why = || format!("the server answers {}: {}", self.status, told(&self.text));
        match self.status.as_u16() {
            200..=299 => Ok(()),
            // These say how the server is; other errors of its own may be because of this one value.
            401 | 403 | 429 | 502..=504 => Err(Failure::Away(why())),
            408 | 500..=599 => Err(Failure::Busy(why())),
            _ => Err(Failure::Refused(why())),
        }
    }
}

/// The beginning of what a server said, on one line.
pub(crate) fn told(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let clean = text.trim().chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    clean.take(LONGEST_TOLD).collect()
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Target for Form {
    type Parcel = String;
    type Session = Session;

    async fn connect(&self, _: &Secrets) -> Result<Session, Failure> {
        Session::connect(&self.0.place, "application/x-www-form-urlencoded", None).await
    }

    async fn deliver(&self, session: &mut Session, form: &String) -> Result<(), Failure> {
        let Url { path, .. } = &self.0;
        session.post(path, form.clone()).await?.verdict()
    }
}

//! One TCP connection or serial line: a request goes out, an answer or a clear failure comes back.
//!
//! After anything but a whole answer the connection is dropped, since what comes next on it could belong to an older
//! request. Devices on one serial line share it, one request at a time.

use std::borrow::Cow;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_modbus::client::{Client, Context, rtu, tcp};
use tokio_modbus::slave::{Slave, SlaveContext};
use tokio_modbus::{ExceptionCode, Request, Response};

use crate::port;
use crate::settings::{Held, Span, Table, Target};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody answers, or not in Modbus.
    #[error("{0}")]
    Lost(String),
    /// The device refuses this request.
    #[error("the device answers with exception {code}, {name}", code = u8::from(*.0), name = name(*.0))]
    Exception(ExceptionCode),
    /// The answer is not what was asked for.
    #[error("{0}")]
    Wrong(String),
}

pub(crate) struct Line {
    pub(crate) target: Target,
    /// Taken out for each request, so that one that was cancelled leaves nothing half read behind. Held while the device
    /// answers: that is what makes one request at a time.
    context: Mutex<Option<Context>>,
}

impl Line {
    pub(crate) fn new(target: Target) -> Self {
        Self { target, context: Mutex::new(None) }
    }

    /// Connects, unless it is connected.
    pub(crate) async fn open(&self, limit: Duration) -> Result<(), Failure> {
        let mut context = self.context.lock().await;
        if context.is_none() {
            *context = Some(self.connect(limit).await?);
        }
        Ok(())
    }

    async fn connect(&self, limit: Duration) -> Result<Context, Failure> {
        match &self.target {
            Target::Tcp { host, port } => {
                let failed = |reason: String| Failure::Lost(format!("connect to {host}:{port}: {reason}"));
                let stream = timeout(limit, TcpStream::connect((host.as_str(), *port))).await;
                let stream = stream.map_err(|_| failed(format!("no answer within {limit:?}")))?;
                let stream = stream.map_err(|error| failed(error.to_string()))?;
                // A request is one small packet; waiting for more would only delay it.
                stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
                Ok(tcp::attach(stream))
            }
            Target::Rtu(serial) => {
                let failed = |reason: String| Failure::Lost(format!("open {}: {reason}", serial.path));
                let port = port::open(serial).map_err(|error| failed(error.to_string()))?;
                Ok(rtu::attach(port))
            }
        }
    }

    async fn call(&self, unit: u8, limit: Duration, request: Request<'static>) -> Result<Response, Failure> {
        let mut held = self.context.lock().await;
        let mut context = match held.take() {
            Some(context) => context,
            None => self.connect(limit).await?,
        };
        context.set_slave(Slave(unit));
        // The library never gives up by itself.
        match timeout(limit, context.call(request)).await {
            Err(_) => Err(Failure::Lost(format!("no answer within {limit:?}"))),
            Ok(Err(error)) => Err(Failure::Lost(told(&error))),
            Ok(Ok(answer)) => {
                *held = Some(context);
                answer.map_err(Failure::Exception)
            }
        }
    }

    /// What a span holds. The library's own readers would panic on short answers in debug builds; this does not.
    pub(crate) async fn read(&self, unit: u8, limit: Duration, span: Span) -> Result<Held, Failure> {
        let request = match span.table {
            Table::Coil => Request::ReadCoils(span.offset, span.n),
            Table::DiscreteInput => Request::ReadDiscreteInputs(span.offset, span.n),
            Table::Input => Request::ReadInputRegisters(span.offset, span.n),
            Table::Holding => Request::ReadHoldingRegisters(span.offset, span.n),
        };
        let held = match self.call(unit, limit, request).await? {
            Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits) => Held::Bits(bits),
            Response::ReadInputRegisters(words) | Response::ReadHoldingRegisters(words) => Held::Words(words),
            _ => return Err(Failure::Wrong("the answer belongs to another request".to_owned())),
        };
        // Bits come in whole bytes, so there may be more than were asked for.
        if held.len() < usize::from(span.n) || (!span.table.is_bits() && held.len() > usize::from(span.n)) {
            return Err(Failure::Wrong(format!(
                "the device answered with {} of {} values",
                held.len(),
                span.n
            )));
        }
        Ok(held)
    }

    /// Functions 5 and 6 for one, 15 and 16 for several, as every device understands them.
    pub(crate) async fn write(
        &self,
        unit: u8,
        limit: Duration,
        offset: u16,
        held: Held,
    ) -> Result<(), Failure> {
        let request = match held {
            Held::Bits(bits) => match bits.as_slice() {
                [bit] => Request::WriteSingleCoil(offset, *bit),
                _ => Request::WriteMultipleCoils(offset, Cow::Owned(bits)),
            },
            Held::Words(words) => match words.as_slice() {
                [word] => Request::WriteSingleRegister(offset, *word),
                _ => Request::WriteMultipleRegisters(offset, Cow::Owned(words)),
            },
        };
        self.call(unit, limit, request).await.map(|_| ())
    }
}

/// A closed connection carries whatever the last call to the system left: the system's texts would mislead.
fn told(error: &tokio_modbus::Error) -> String {
    match error {
        tokio_modbus::Error::Transport(error) if error.raw_os_error().is_some() => {
            "the device closed the connection, or it broke".to_owned()
        }
        error => format!("the answer makes no sense: {error}"),
    }
}

/// As the protocol's document names it.
fn name(code: ExceptionCode) -> &'static str {
    match code {
        ExceptionCode::IllegalFunction => "illegal function",
        ExceptionCode::IllegalDataAddress => "illegal data address",
        ExceptionCode::IllegalDataValue => "illegal data value",
        ExceptionCode::ServerDeviceFailure => "server device failure",
        ExceptionCode::Acknowledge => "acknowledge",
        ExceptionCode::ServerDeviceBusy => "server device busy",
        ExceptionCode::MemoryParityError => "memory parity error",
        ExceptionCode::GatewayPathUnavailable => "gateway path unavailable",
        ExceptionCode::GatewayTargetDevice => "gateway target device failed to respond",
        ExceptionCode::Custom(_) => "which only its maker knows",
    }
}

//! One unit behind one connection: requests out, answers in, each within the timeout.
//!
//! Every answer is compared with its request here, and nothing of the library's texts reaches people: it reports a closed
//! connection as whatever the thread's last error was. Called by the driver, which drops the wire when it is lost.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use mapper_sdk::DriverError;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time;
use tokio_modbus::client::{Client, Context, rtu, tcp};
use tokio_modbus::{ExceptionCode, Request, Response, Slave};

use crate::codec::Data;
use crate::group::{Register, Span};
use crate::serial::{self, Port};
use crate::settings::{Line, Protocol};

/// A connection to one unit.
pub struct Wire {
    context: Context,
    /// For people: `10.0.0.5:502`, `/dev/ttyUSB0`.
    peer: String,
    unit: u8,
    timeout: Duration,
    bus: Option<Bus>,
}

/// A serial line that others may use too.
struct Bus {
    port: Port,
    /// One permit: whoever has it asks. Held over one request and its answer, which the timeout bounds.
    turn: Arc<Semaphore>,
    silence: Duration,
}

/// Why an answer is no data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The connection is of no more use.
    Lost(String),
    /// The device answered with an exception; the connection stands.
    Exception(ExceptionCode, Span),
}

impl From<WireError> for DriverError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Lost(why) => Self::Lost(why),
            WireError::Exception(code, span) => {
                Self::Refused(format!("{span}: {} (Modbus exception {})", in_words(code), u8::from(code)))
            }
        }
    }
}

fn in_words(code: ExceptionCode) -> &'static str {
    match code {
        ExceptionCode::IllegalFunction => "the device cannot do this with this kind of register",
        ExceptionCode::IllegalDataAddress => "the device has no such address",
        ExceptionCode::IllegalDataValue => "the device does not take this value or this many at once",
        ExceptionCode::ServerDeviceFailure => "the device failed",
        ExceptionCode::Acknowledge => "the device needs longer and has not done it yet",
        ExceptionCode::ServerDeviceBusy => "the device is busy",
        ExceptionCode::MemoryParityError => "the device's memory has a parity error",
        ExceptionCode::GatewayPathUnavailable => "the gateway has no path to the device",
        ExceptionCode::GatewayTargetDevice => "the gateway got no answer from the device",
        ExceptionCode::Custom(_) => "the device refused",
    }
}

impl Wire {
    /// Over TCP.
    pub async fn over_tcp(protocol: &Protocol, host: &str, port: u16) -> Result<Self, DriverError> {
        let peer = format!("{host}:{port}");
        let connected = time::timeout(protocol.timeout, TcpStream::connect((host, port))).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(DriverError::Lost(format!("{peer} takes no connection: {error}")));
            }
            Err(_) => {
                let after = protocol.timeout;
                return Err(DriverError::Lost(format!("{peer} does not answer within {after:?}")));
            }
        };
        // Requests are small and wait for their answer; a socket that cannot be told so only is slower.
        let _ = stream.set_nodelay(true);
        let context = tcp::attach_slave(stream, Slave(protocol.unit));
        Ok(Self { context, peer, unit: protocol.unit, timeout: protocol.timeout, bus: None })
    }

    /// Over a serial line, of which `turn` is the only permit.
    pub fn over_line(protocol: &Protocol, line: &Line, turn: Arc<Semaphore>) -> Result<Self, DriverError> {
        let opened = Port::open(line).and_then(|port| Ok((port.stream()?, port)));
        let (stream, port) =
            opened.map_err(|error| DriverError::Lost(format!("open serialPort {}: {error}", line.path)))?;
        let context = rtu::attach_slave(stream, Slave(protocol.unit));
        let bus = Some(Bus { port, turn, silence: serial::silence(line.baud_rate) });
        Ok(Self { context, peer: line.path.clone(), unit: protocol.unit, timeout: protocol.timeout, bus })
    }

    /// What the device has there.
    pub async fn read(&mut self, span: Span) -> Result<Data, WireError> {
        let Span { register, address, count } = span;
        let request = match register {
            Register::Coil => Request::ReadCoils(address, count),
            Register::DiscreteInput => Request::ReadDiscreteInputs(address, count),
            Register::Input => Request::ReadInputRegisters(address, count),
            Register::Holding => Request::ReadHoldingRegisters(address, count),
        };
        let data = match self.call(request, span).await? {
            // Coils come in whole bytes: what is beyond was not asked for.
            Response::ReadCoils(mut bits) | Response::ReadDiscreteInputs(mut bits) => {
                bits.truncate(count.into());
                Data::Bits(bits)
            }
            Response::ReadInputRegisters(words) | Response::ReadHoldingRegisters(words) => Data::Words(words),
            _ => return Err(self.wrong_answer(span)),
        };
        if data.count() == usize::from(count) { Ok(data) } else { Err(self.wrong_answer(span)) }
    }

    /// Makes the device have this there. One goes by the function for one, which simple devices have alone.
    pub async fn write(&mut self, span: Span, data: &Data) -> Result<(), WireError> {
        let address = span.address;
        let (request, expected) = match data {
            Data::Bits(bits) => match bits.as_slice() {
                [bit] => (Request::WriteSingleCoil(address, *bit), Response::WriteSingleCoil(address, *bit)),
                bits => (
                    Request::WriteMultipleCoils(address, Cow::Borrowed(bits)),
                    Response::WriteMultipleCoils(address, span.count),
                ),
            },
            Data::Words(words) => match words.as_slice() {
                [word] => (
                    Request::WriteSingleRegister(address, *word),
                    Response::WriteSingleRegister(address, *word),
                ),
                words => (
                    Request::WriteMultipleRegisters(address, Cow::Borrowed(words)),
                    Response::WriteMultipleRegisters(address, span.count),
                ),
            },
        };
        let answer = self.call(request, span).await?;
        if answer == expected { Ok(()) } else { Err(self.wrong_answer(span)) }
    }

    async fn call(&mut self, request: Request<'_>, span: Span) -> Result<Response, WireError> {
        let _turn = match &self.bus {
            Some(bus) => {
                let turn = bus.turn.clone().acquire_owned().await;
                bus.port.forget_input();
                time::sleep(bus.silence).await;
                turn.ok()
            }
            None => None,
        };
        // By `call` and not by the library's named functions, which stop the process at an answer of another length.
        let answered = time::timeout(self.timeout, self.context.call(request)).await;
        let Self { peer, unit, timeout, .. } = self;
        match answered {
            Ok(Ok(Ok(response))) => Ok(response),
            Ok(Ok(Err(
                code @ (ExceptionCode::GatewayPathUnavailable | ExceptionCode::GatewayTargetDevice),
            ))) => Err(WireError::Lost(format!("{peer}, unit {unit}: {}", in_words(code)))),
            Ok(Ok(Err(code))) => Err(WireError::Exception(code, span)),
            Ok(Err(tokio_modbus::Error::Protocol(_))) => Err(self.wrong_answer(span)),
            Ok(Err(tokio_modbus::Error::Transport(_))) => Err(WireError::Lost(format!(
                "{peer} closed the connection or sent no Modbus while {span} of unit {unit} was asked for"
            ))),
            Err(_) => Err(WireError::Lost(format!(
                "{peer}, unit {unit}, did not answer within {timeout:?} about {span}"
            ))),
        }
    }

    fn wrong_answer(&self, span: Span) -> WireError {
        let Self { peer, unit, .. } = self;
        WireError::Lost(format!("{peer}, unit {unit}, answered something else when asked for {span}"))
    }
}

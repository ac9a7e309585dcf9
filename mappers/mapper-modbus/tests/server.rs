//! The driver against a Modbus server over a real socket: all kinds of register, exceptions, answers that are none.

// All of this file is a test; the lints know only functions marked as one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mapper_modbus::Modbus;
use mapper_modbus::driver::ModbusConnection;
use mapper_sdk::value::{Kind, Value};
use mapper_sdk::{Connection, Device, DeviceName, Driver, DriverError, Property, Settings};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::Server;
use tokio_modbus::{ExceptionCode, Request, Response};

const SIZE: usize = 100;
/// The only register that no request may touch.
const HOLE: usize = 50;

/// What the device holds and which requests it got.
struct Held {
    coils: Vec<bool>,
    registers: Vec<u16>,
    requests: Vec<Request<'static>>,
    trouble: Option<ExceptionCode>,
}

#[derive(Clone)]
struct Plc(Arc<Mutex<Held>>);

impl Plc {
    /// Coils are set where their number is odd, and registers hold their number.
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Held {
            coils: (0..SIZE).map(|number| number % 2 == 1).collect(),
            registers: (0..100).collect(),
            requests: Vec::new(),
            trouble: None,
        })))
    }

    fn answer(&self, request: Request<'static>) -> Result<Response, ExceptionCode> {
        let mut held = self.0.lock().unwrap();
        held.requests.push(request.clone());
        if let Some(trouble) = held.trouble {
            return Err(trouble);
        }
        let range = |address: u16, count: u16| {
            let range = usize::from(address)..usize::from(address) + usize::from(count);
            if range.end > SIZE || range.contains(&HOLE) {
                return Err(ExceptionCode::IllegalDataAddress);
            }
            Ok(range)
        };
        Ok(match request {
            Request::ReadCoils(address, count) => {
                Response::ReadCoils(held.coils[range(address, count)?].to_vec())
            }
            // Inputs are the opposite of coils, and negative.
            Request::ReadDiscreteInputs(address, count) => Response::ReadDiscreteInputs(
                held.coils[range(address, count)?].iter().map(|coil| !coil).collect(),
            ),
            Request::ReadHoldingRegisters(address, count) => {
                Response::ReadHoldingRegisters(held.registers[range(address, count)?].to_vec())
            }
            Request::ReadInputRegisters(address, count) => Response::ReadInputRegisters(
                held.registers[range(address, count)?].iter().map(|word| word.wrapping_neg()).collect(),
            ),
            Request::WriteSingleCoil(address, coil) => {
                held.coils[range(address, 1)?][0] = coil;
                Response::WriteSingleCoil(address, coil)
            }
            Request::WriteSingleRegister(address, word) => {
                held.registers[range(address, 1)?][0] = word;
                Response::WriteSingleRegister(address, word)
            }
            Request::WriteMultipleCoils(address, coils) => {
                let count = u16::try_from(coils.len()).unwrap();
                held.coils[range(address, count)?].copy_from_slice(&coils);
                Response::WriteMultipleCoils(address, count)
            }
            Request::WriteMultipleRegisters(address, words) => {
                let count = u16::try_from(words.len()).unwrap();
                held.registers[range(address, count)?].copy_from_slice(&words);
                Response::WriteMultipleRegisters(address, count)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        })
    }

    /// What was asked since the last call.
    fn requests(&self) -> Vec<Request<'static>> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }

    async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plc = self.clone();
        tokio::spawn(async move {
            let accept = |stream, _| ready(Ok(Some((plc.clone(), stream))));
            Server::new(listener).serve(&accept, |_| ()).await.unwrap();
        });
        address
    }
}

impl Service for Plc {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Request<'static>) -> Self::Future {
        ready(self.answer(request))
    }
}

fn settings(json: Json) -> Settings {
    let Json::Object(entries) = json else { panic!("{json} is no object") };
    Settings::new(entries)
}

fn property(name: &str, kind: Kind, json: Json) -> Property {
    Property {
        name: name.to_owned(),
        kind,
        is_writable: true,
        minimum: None,
        maximum: None,
        settings: settings(json),
        collect_cycle: Duration::from_secs(1),
        report_cycle: Duration::from_secs(1),
        report_to_cloud: true,
        desired: None,
    }
}

fn input(address: u16) -> Property {
    property(
        &format!("input-{address}"),
        Kind::Int,
        json!({"register": "input", "offset": address, "signed": true}),
    )
}

async fn connect(driver: &Modbus, address: SocketAddr) -> Result<ModbusConnection, DriverError> {
    let device = Device {
        name: DeviceName { namespace: "plant".to_owned(), name: "oven-1".to_owned() },
        settings: settings(json!({"ip": "127.0.0.1", "port": address.port(), "timeout": 5})),
        properties: Vec::new(),
        methods: Vec::new(),
        state_cycle: None,
    };
    driver.connect(&device).await
}

/// Each value or error as text.
async fn read(connection: &mut ModbusConnection, properties: &[&Property]) -> Vec<String> {
    let values = connection.read(properties).await.unwrap();
    values.into_iter().map(|value| value.map_or_else(|error| error.to_string(), |v| v.to_string())).collect()
}

#[tokio::test]
async fn all_kinds_are_read_in_few_requests() {
    let plc = Plc::new();
    let mut connection = connect(&Modbus::default(), plc.listen().await).await.unwrap();
    let properties = [
        input(7),
        property("coil", Kind::Bool, json!({"register": "CoilRegister", "offset": 3})),
        input(4),
        property("holding", Kind::Int, json!({"offset": 1, "limit": 2})),
        property("wrong", Kind::Int, json!({"register": "flash"})),
        property("inputs", Kind::Int, json!({"register": "DiscreteInputRegister", "limit": 10})),
        property("half", Kind::Float, json!({"offset": 5, "scale": 0.5})),
        property("narrow", Kind::Int, json!({"offset": 5, "max": 4})),
    ];
    let properties: Vec<&Property> = properties.iter().collect();
    let expected = [
        "-7",
        "true",
        "-4",
        "65538",
        "register must be CoilRegister, DiscreteInputRegister, InputRegister or HoldingRegister",
        "341",
        "2.5",
        "HoldingRegister 5: 5 is outside of -inf to 4",
    ];
    assert_eq!(read(&mut connection, &properties).await, expected);
    let asked = [
        Request::ReadCoils(3, 1),
        Request::ReadDiscreteInputs(0, 10),
        Request::ReadInputRegisters(4, 4),
        Request::ReadHoldingRegisters(1, 5),
    ];
    assert_eq!(plc.requests(), asked);
    assert_eq!(read(&mut connection, &[]).await, Vec::<String>::new());
}

#[tokio::test]
async fn writes_use_the_function_for_one_or_for_several() {
    let plc = Plc::new();
    let mut connection = connect(&Modbus::default(), plc.listen().await).await.unwrap();
    let mut write = async |kind, json: Json, value: Value| {
        let result = connection.write(&property(&json.to_string(), kind, json), &value).await;
        (result.map_err(|error| error.to_string()), plc.requests())
    };
    let done = |requests: &[Request<'static>]| (Ok(()), requests.to_vec());
    assert_eq!(
        write(Kind::Float, json!({"offset": 7, "scale": 0.1}), Value::Float(25.3)).await,
        done(&[Request::WriteSingleRegister(7, 253)])
    );
    assert_eq!(
        write(Kind::Int, json!({"offset": 7, "limit": 2}), Value::Int(65538)).await,
        done(&[Request::WriteMultipleRegisters(7, vec![1, 2].into())])
    );
    assert_eq!(
        write(Kind::Bool, json!({"register": "coil", "offset": 2}), Value::Bool(true)).await,
        done(&[Request::WriteSingleCoil(2, true)])
    );
    assert_eq!(
        write(Kind::Int, json!({"register": "coil", "limit": 3}), Value::Int(3)).await,
        done(&[Request::WriteMultipleCoils(0, vec![true, true, false].into())])
    );
    assert_eq!(
        write(Kind::Int, json!({"offset": 9, "mask": "0xf0", "shift": 4}), Value::Int(2)).await,
        done(&[Request::ReadHoldingRegisters(9, 1), Request::WriteSingleRegister(9, 0x29)])
    );
    let (refused, requests) = write(Kind::Int, json!({"offset": 9}), Value::Int(-1)).await;
    assert_eq!(refused, Err("HoldingRegister 9: -1 is outside of 0 to 65535".to_owned()));
    assert!(requests.is_empty());
    let (refused, _) = write(Kind::Int, json!({"register": "input"}), Value::Int(1)).await;
    assert!(refused.is_err_and(|text| text.starts_with("register must be CoilRegister or HoldingRegister")));
    let (refused, _) = write(Kind::Int, json!({"offset": 50}), Value::Int(1)).await;
    assert_eq!(
        refused,
        Err("HoldingRegister 50: the device has no such address (Modbus exception 2)".to_owned())
    );
}

#[tokio::test]
async fn one_bad_address_takes_no_neighbour_down() {
    let plc = Plc::new();
    let mut connection = connect(&Modbus::default(), plc.listen().await).await.unwrap();
    let properties = [input(48), input(49), input(50), input(51), input(52)];
    let properties: Vec<&Property> = properties.iter().collect();
    let bad = "InputRegister 50: the device has no such address (Modbus exception 2)";
    let expected = ["-48", "-49", bad, "-51", "-52"];
    assert_eq!(read(&mut connection, &properties).await, expected);
    assert_eq!(plc.requests().len(), 6, "all together, then each");
    assert_eq!(read(&mut connection, &properties).await, expected);
    let asked = [
        Request::ReadInputRegisters(48, 2),
        Request::ReadInputRegisters(50, 1),
        Request::ReadInputRegisters(51, 2),
    ];
    assert_eq!(plc.requests(), asked, "the bad one is remembered");

    // Here the bad one is in nobody's span.
    let around = [input(45), input(55)];
    let around: Vec<&Property> = around.iter().collect();
    let near = [input(47), input(53)];
    let near: Vec<&Property> = near.iter().collect();
    assert_eq!(read(&mut connection, &around).await, ["-45", "-55"]);
    assert_eq!(plc.requests().len(), 2);
    for n_requests in [3, 2] {
        assert_eq!(read(&mut connection, &near).await, ["-47", "-53"]);
        assert_eq!(plc.requests().len(), n_requests);
    }

    // Trouble of the whole device teaches nothing, and being busy is asked once.
    let pair = [input(0), input(1)];
    let pair: Vec<&Property> = pair.iter().collect();
    for (trouble, n_requests) in
        [(ExceptionCode::ServerDeviceFailure, 3), (ExceptionCode::ServerDeviceBusy, 1)]
    {
        plc.0.lock().unwrap().trouble = Some(trouble);
        let texts = read(&mut connection, &pair).await;
        assert!(texts.iter().all(|text| text.contains("the device")), "{texts:?}");
        assert_eq!(plc.requests().len(), n_requests);
    }
    plc.0.lock().unwrap().trouble = None;
    assert_eq!(read(&mut connection, &pair).await, ["0", "-1"]);
    assert_eq!(plc.requests().len(), 1);
    plc.0.lock().unwrap().trouble = Some(ExceptionCode::GatewayTargetDevice);
    assert!(matches!(connection.read(&pair).await, Err(DriverError::Lost(_))));
}

/// What is answered to a request; `None` closes.
type Lie = fn(&[u8]) -> Option<Vec<u8>>;

/// Answers every request with a lie.
async fn liar(answer: Lie) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 12];
            while stream.read_exact(&mut request).await.is_ok() {
                let Some(answer) = answer(&request) else { break };
                stream.write_all(&answer).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn answers_that_are_none_lose_the_device() {
    let answers: [Lie; 7] = [
        |_| None,
        // One register where two were asked for.
        |request| Some([&request[..4], &[0, 5, 1, 4, 2, 0, 1]].concat()),
        // A length that promises more than the frame has.
        |request| Some([&request[..4], &[0, 4, 1, 4, 4, 0]].concat()),
        // An odd number of bytes.
        |request| Some([&request[..4], &[0, 6, 1, 4, 3, 0, 0, 0]].concat()),
        // Another function, another transaction, another protocol.
        |request| Some([&request[..4], &[0, 7, 1, 3, 4, 0, 0, 0, 0]].concat()),
        |_| Some(vec![9, 9, 0, 0, 0, 7, 1, 4, 4, 0, 0, 0, 0]),
        |_| Some(vec![0, 0, 9, 9, 0, 7, 1, 4, 4, 0, 0, 0, 0]),
    ];
    let driver = Modbus::default();
    let pair = [input(0), input(1)];
    let pair: Vec<&Property> = pair.iter().collect();
    for answer in answers {
        let mut connection = connect(&driver, liar(answer).await).await.unwrap();
        let error = connection.read(&pair).await.unwrap_err();
        assert!(matches!(error, DriverError::Lost(_)), "{error}");
        assert!(error.to_string().contains("InputRegister 0 to 1"), "{error}");
    }
}

#[tokio::test]
async fn silence_ends_after_the_timeout() {
    let mut connection = connect(&Modbus::default(), liar(|_| Some(Vec::new())).await).await.unwrap();
    // From here on nothing but the timeout can happen.
    tokio::time::pause();
    let error = connection.read(&[&input(0)]).await.unwrap_err();
    assert!(error.to_string().ends_with("did not answer within 5s about InputRegister 0"), "{error}");
}

#[tokio::test]
async fn a_device_that_comes_back_is_reached_again() {
    let driver = Modbus::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let refused = connect(&driver, address).await.err().unwrap();
    assert!(matches!(refused, DriverError::Lost(_)), "{refused}");

    let address = Plc::new().listen().await;
    for _ in 0..2 {
        let mut connection = connect(&driver, address).await.unwrap();
        assert_eq!(read(&mut connection, &[&input(1)]).await, ["-1"]);
    }
}

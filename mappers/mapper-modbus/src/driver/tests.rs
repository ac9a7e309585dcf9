//! The whole mapper between a node and a real Modbus TCP server.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::net::SocketAddr;

use mapper_sdk::Shutdown;
use mapper_sdk::testing::messages::UpdateDeviceRequest;
use mapper_sdk::testing::{FakeEdge, desired, device, model, property};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_modbus::server::{Service, tcp};
use tokio_modbus::{ExceptionCode, Request, Response};

use super::*;

/// A device with 16 registers of each kind. Holding register 9 cannot be read.
#[derive(Clone, Default)]
struct Plc(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    coils: [bool; 16],
    holding: [u16; 16],
    /// How often each request came.
    requests: BTreeMap<String, usize>,
    answers_short: bool,
}

impl Service for Plc {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        let mut memory = self.0.lock().unwrap();
        *memory.requests.entry(format!("{request:?}")).or_default() += 1;
        ready(memory.answer(request))
    }
}

impl Memory {
    fn answer(&mut self, request: Request<'static>) -> Result<Response, ExceptionCode> {
        let range = |offset: u16, n: u16| {
            let range = usize::from(offset)..usize::from(offset) + usize::from(n);
            if range.end <= 16 { Ok(range) } else { Err(ExceptionCode::IllegalDataAddress) }
        };
        Ok(match request {
            Request::ReadCoils(offset, n) => Response::ReadCoils(self.coils[range(offset, n)?].to_vec()),
            Request::ReadDiscreteInputs(offset, n) => {
                Response::ReadDiscreteInputs(range(offset, n)?.map(|input| input == 3).collect())
            }
            Request::ReadInputRegisters(offset, n) => Response::ReadInputRegisters(
                range(offset, n)?.map(|input| 250 + u16::try_from(input).unwrap()).collect(),
            ),
            Request::ReadHoldingRegisters(offset, n) => {
                let range = range(offset, n)?;
                if range.contains(&9) {
                    return Err(ExceptionCode::ServerDeviceFailure);
                }
                let mut words = self.holding[range].to_vec();
                if self.answers_short {
                    words.pop();
                }
                Response::ReadHoldingRegisters(words)
            }
            Request::WriteSingleCoil(offset, coil) => {
                self.coils[range(offset, 1)?].fill(coil);
                Response::WriteSingleCoil(offset, coil)
            }
            Request::WriteSingleRegister(offset, word) => {
                self.holding[range(offset, 1)?].fill(word);
                Response::WriteSingleRegister(offset, word)
            }
            Request::WriteMultipleRegisters(offset, words) => {
                let n = u16::try_from(words.len()).unwrap();
                self.holding[range(offset, n)?].copy_from_slice(&words);
                Response::WriteMultipleRegisters(offset, n)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        })
    }
}

/// Dropping or aborting the task closes its connections.
async fn serve(plc: Plc, address: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let connected = |stream, from| {
            let plc = plc.clone();
            async move { tcp::accept_tcp_connection(stream, from, move |_| Ok(Some(plc.clone()))) }
        };
        let _ = tcp::Server::new(listener).serve(&connected, |_| {}).await;
    });
    (address, task)
}

#[tokio::test]
async fn a_plc_is_read_in_groups_written_and_found_again() {
    let plc = Plc::default();
    plc.0.lock().unwrap().holding[..3].copy_from_slice(&[11, 0x41ca, 0x6666]);
    let (address, server) = serve(plc.clone(), "127.0.0.1:0".parse().unwrap()).await;
    let directory = tempfile::tempdir().unwrap();
    let edge = FakeEdge::start(directory.path()).unwrap();
    let oven = model(
        "plant",
        "oven",
        &[
            ("heat", "FLOAT", "ReadOnly"),
            ("count", "INT", "ReadOnly"),
            ("real", "FLOAT", "ReadOnly"),
            ("broken", "INT", "ReadOnly"),
            ("door", "BOOLEAN", "ReadOnly"),
            ("lamp", "BOOLEAN", "ReadWrite"),
            ("limit", "FLOAT", "ReadWrite"),
            ("wide", "INT", "ReadWrite"),
        ],
    );
    let wanted = |limit: &str| {
        let holding =
            |offset: u16, n: u16| json!({"register": "HoldingRegister", "Offset": offset, "limit": n});
        let properties = vec![
            property("heat", json!({"register": "InputRegister", "offset": "3", "scale": 0.1})),
            property("count", holding(0, 1)),
            property("real", holding(1, 2)),
            property("broken", holding(9, 1)),
            property("door", json!({"register": "DiscreteInputRegister", "offset": 3})),
            desired(property("lamp", json!({"register": "CoilRegister", "offset": 5})), "true"),
            desired(property("limit", json!({"offset": 7, "scale": 0.5})), limit),
            desired(property("wide", holding(10, 2)), "70000"),
        ];
        let protocol = json!({"ip": "127.0.0.1", "port": address.port().to_string(), "timeout": 2});
        device("plant", "oven-1", "oven", protocol, properties)
    };
    edge.hand_out(vec![oven], vec![wanted("20.5")]);
    let (trigger, stop) = Shutdown::new();
    let mapper = tokio::spawn(mapper_sdk::run_until(ModbusDriver::default(), edge.config(), stop));

    for (name, expected) in [
        ("heat", ("25.3", "")),
        ("count", ("11", "")),
        ("real", ("25.3", "")),
        ("door", ("true", "")),
        ("lamp", ("true", "true")),
        ("limit", ("20.5", "20.5")),
        ("wide", ("70000", "70000")),
    ] {
        edge.until(|seen| (seen.value("plant/oven-1", name)? == expected).then_some(())).await.unwrap();
    }
    // One bad register costs only its own property.
    edge.until(|seen| (seen.state("plant/oven-1")? == "unhealthy").then_some(())).await.unwrap();
    assert_eq!(edge.record().value("plant/oven-1", "broken"), None);
    {
        let memory = plc.0.lock().unwrap();
        assert_eq!(
            (memory.coils[5], memory.holding[7], memory.holding[10], memory.holding[11]),
            (true, 41, 1, 4464)
        );
        assert!(memory.requests.contains_key("ReadHoldingRegisters(0, 3)"), "{:?}", memory.requests);
        assert_eq!(memory.requests["WriteSingleRegister(7, 41)"], 1);
    }

    // Only what changed is written.
    let mut client = edge.mapper().unwrap();
    client.update_device(UpdateDeviceRequest { device: Some(wanted("22")) }).await.unwrap();
    edge.until(|seen| (seen.value("plant/oven-1", "limit")? == ("22", "22")).then_some(())).await.unwrap();
    assert_eq!(plc.0.lock().unwrap().requests["WriteSingleCoil(5, true)"], 1);

    // The device goes away and comes back.
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    edge.until(|seen| (seen.state("plant/oven-1")? == "offline").then_some(())).await.unwrap();
    plc.0.lock().unwrap().holding[0] = 12;
    let (_, server) = serve(plc.clone(), address).await;
    edge.until(|seen| (seen.value("plant/oven-1", "count")? == ("12", "")).then_some(())).await.unwrap();
    edge.until(|seen| (seen.state("plant/oven-1")? == "unhealthy").then_some(())).await.unwrap();
    assert_eq!(plc.0.lock().unwrap().requests["WriteSingleCoil(5, true)"], 1);

    trigger.stop();
    mapper.await.unwrap().unwrap();
    server.abort();
}

/// What the driver makes of a device that is wrong in every answer.
#[tokio::test]
async fn short_answers_and_dead_ends() {
    let plc = Plc::default();
    plc.0.lock().unwrap().answers_short = true;
    let (address, server) = serve(plc, "127.0.0.1:0".parse().unwrap()).await;
    let line = Line::new(Target::Tcp { host: "127.0.0.1".to_owned(), port: address.port() });
    let second = Duration::from_secs(2);
    let span = Span { table: Table::Holding, offset: 0, n: 2 };
    let short = line.read(1, second, span).await.unwrap_err();
    assert_eq!(short.to_string(), "the device answered with 1 of 2 values");
    let beyond = line.read(1, second, Span { table: Table::Input, offset: 15, n: 2 }).await.unwrap_err();
    assert_eq!(beyond.to_string(), "the device answers with exception 2, illegal data address");
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert!(matches!(line.read(1, second, span).await, Err(Failure::Lost(_))));
    assert!(matches!(line.open(second).await, Err(Failure::Lost(_))));
}

//! What answers at an address is not always an OPC-UA server.

// All of this file is a test; the lint knows only functions marked as one.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::net::TcpListener;

use mapper_opcua::OpcUa;
use mapper_sdk::{Device, DeviceName, Driver, DriverError, Settings};

fn device(url: &str) -> Device {
    let settings = Settings::new([("url".to_owned(), url.into())]);
    let name = DeviceName { namespace: "default".to_owned(), name: "press".to_owned() };
    Device { name, settings, properties: Vec::new(), methods: Vec::new(), state_cycle: None }
}

/// Connects to a peer that says this and hangs up.
async fn told_by(driver: &OpcUa, says: &'static [u8]) -> DriverError {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("opc.tcp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // The other side may be gone already.
            let _ = stream.write_all(says);
        }
    });
    match driver.connect(&device(&url)).await {
        Ok(_) => panic!("{says:?} is no session"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn other_peers_are_lost_devices() {
    let state = tempfile::tempdir().unwrap();
    let driver = OpcUa::new(state.path().to_owned(), Vec::new());
    let hello = b"ACKF\x1c\0\0\0\0\0\0\0\xff\xff\0\0\xff\xff\0\0\0\0\0\0\0\0\0\0";
    let endless = b"MSGF\xff\xff\xff\xff";
    for says in [b"".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n", hello, endless] {
        let error = told_by(&driver, says).await;
        assert!(matches!(error, DriverError::Lost(_)), "{says:?}: {error:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_told_in_the_systems_words() {
    let url = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("opc.tcp://{}", listener.local_addr().unwrap())
    };
    let state = tempfile::tempdir().unwrap();
    let address = mapper_opcua::ServerUrl::parse(&url).unwrap();
    let driver = OpcUa::new(state.path().to_owned(), vec![address]);
    let error = driver.connect(&device(&url)).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, DriverError::Lost(why) if why.contains("refused")), "{error:?}");
    assert_eq!(driver.discover().await, Ok(Vec::new()));
}

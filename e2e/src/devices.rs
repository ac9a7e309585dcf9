//! Field devices that nobody here wrote, and mappers as processes.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::need;
use crate::node::{EdgeCore, binary};
use crate::process::{self, Process};
use crate::run_dir::RunDir;
use crate::simulator::Simulator;
use crate::site::{NODE, PATIENCE, Site};
use crate::wait::{Seen, eventually};

/// The input register of the temperature, tenths of a degree.
pub const HEAT: u16 = 4;
/// The holding register of the limit.
pub const LIMIT: u16 = 7;

/// The model of a Modbus oven: a temperature to read, a limit to set.
pub fn oven_model() -> String {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "oven", "namespace": "plant"},
        "spec": {"protocol": "modbus", "properties": [
            {"name": "heat", "type": "FLOAT", "accessMode": "ReadOnly", "unit": "Celsius",
             "visitors": {"protocolName": "modbus", "configData": {"register": "InputRegister", "limit": 1, "scale": 0.1}}},
            {"name": "limit", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "400"},
        ]},
    })
    .to_string()
}

/// `oven-1` of the namespace `plant`, at this port of this machine.
pub fn oven(port: u16, limit: &str) -> String {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "oven-1", "namespace": "plant", "labels": {"description": "hall-3"}},
        "spec": {
            "deviceModelRef": {"name": "oven"},
            "nodeName": NODE,
            "protocol": {"protocolName": "modbus", "configData": {"ip": "127.0.0.1", "port": port, "slaveID": 1}},
            "stateReport": {"reportToCloud": true, "reportCycle": 1000},
            "properties": [
                {"name": "heat", "collectCycle": 200, "reportToCloud": true,
                 "visitors": {"protocolName": "modbus", "configData": {"offset": HEAT}}},
                {"name": "limit", "collectCycle": 200, "reportToCloud": true, "desired": {"value": limit},
                 "visitors": {"protocolName": "modbus",
                    "configData": {"register": "HoldingRegister", "offset": LIMIT, "limit": 1}}},
            ],
        },
    })
    .to_string()
}

/// pymodbus' Modbus TCP server.
pub struct ModbusDevice(Simulator);

impl ModbusDevice {
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// Where other machines reach it: at an address of this one.
    pub fn start_at(ip: Ipv4Addr) -> Result<Self> {
        let packages = ["pymodbus==3.16.1", "pyserial==3.5"];
        let mut simulator = Simulator::new_at(ip, "modbus-device", "modbus_device.py", &packages)?;
        simulator.plug_in()?;
        Ok(Self(simulator))
    }

    /// Starts it, again after `unplug`; its registers are 0 then.
    pub fn plug_in(&mut self) -> Result<()> {
        self.0.plug_in()
    }

    pub fn unplug(&mut self) -> Result<()> {
        self.0.unplug()
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// It stays when this program ends.
    pub fn detach(&mut self) -> Result<()> {
        self.0.detach()
    }

    pub fn set(&self, register: u16, value: u16) -> Result<()> {
        self.0.order(&format!("set {register} {value}"))
    }

    pub fn get(&self, register: u16) -> Result<u16> {
        Ok(self.0.ask(&format!("get {register}"))?.parse()?)
    }

    /// The device file of its serial line, on which another unit is.
    pub fn line(&self) -> Result<String> {
        self.0.ask("line")
    }

    /// `kind`: coil, discrete, holding or input.
    pub fn set_on_line(&self, kind: &str, register: u16, value: u16) -> Result<()> {
        self.0.order(&format!("line set {kind} {register} {value}"))
    }

    pub fn get_on_line(&self, kind: &str, register: u16) -> Result<u16> {
        Ok(self.0.ask(&format!("line get {kind} {register}"))?.parse()?)
    }

    /// Requests served so far.
    pub fn n_requests(&self) -> Result<u64> {
        Ok(self.0.ask("requests")?.parse()?)
    }

    /// Every request gets this exception from now on (`DEVICE_FAILURE`, ...); `none`: no more.
    pub fn fail(&self, exception: &str) -> Result<()> {
        self.0.order(&format!("fail {exception}"))
    }
}

/// asyncua's OPC-UA server, with and without security. What it has stands in `e2e/devices/opcua_device.py`.
pub struct OpcUaDevice(Simulator);

impl OpcUaDevice {
    /// Not plugged in yet.
    pub fn new() -> Result<Self> {
        let packages = ["asyncua==2.1.0", "cryptography==50.0.2"];
        Ok(Self(Simulator::new("opcua-device", "opcua_device.py", &packages)?))
    }

    /// Starts it, again after `unplug`; its values are those of the beginning then.
    pub fn plug_in(&mut self) -> Result<()> {
        self.0.plug_in()
    }

    pub fn unplug(&mut self) -> Result<()> {
        self.0.unplug()
    }

    /// As manifests name it.
    pub fn url(&self) -> String {
        format!("opc.tcp://{}/device", self.0.address())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    pub fn set(&self, node: &str, value: &str) -> Result<()> {
        self.0.order(&format!("set {node} {value}"))
    }

    pub fn get(&self, node: &str) -> Result<String> {
        self.0.ask(&format!("get {node}"))
    }

    /// One of the files that it made.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.folder().join(name)
    }

    /// How many logins there were with the operator's certificate.
    pub fn n_certificate_logins(&self) -> Result<u32> {
        Ok(self.0.ask("certificates")?.parse()?)
    }

    /// How many sessions are open.
    pub fn n_sessions(&self) -> Result<u32> {
        Ok(self.0.ask("sessions")?.parse()?)
    }
}

/// Debian's mosquitto: the broker of devices that speak MQTT. It keeps nothing over a restart.
pub struct MqttBroker {
    pub process: Process,
    address: SocketAddr,
    run_dir: RunDir,
}

impl MqttBroker {
    pub fn start() -> Result<Self> {
        need::packages(&["mosquitto", "mosquitto-clients"])?;
        let run_dir = RunDir::new("mqtt-broker")?;
        let address = SocketAddr::from(([127, 0, 0, 1], run_dir.port()?));
        // Root stays root: the run's folder is its own.
        let config = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n",
            address.port()
        );
        let path = run_dir.write("mosquitto.conf", config.into_bytes())?;
        let arguments = ["-c".into(), path.into_os_string()];
        let process = Process::new(run_dir.path(), "mosquitto", Path::new("/usr/sbin/mosquitto"), arguments);
        let mut broker = Self { process, address, run_dir };
        broker.start_again()?;
        Ok(broker)
    }

    /// After it was stopped or killed.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.start()?;
        eventually(PATIENCE, "mosquitto to listen", || {
            self.process.must_run()?;
            let listens = TcpStream::connect(self.address).is_ok();
            Ok(if listens { Seen::Yes(()) } else { Seen::NotYet(self.process.log_end(5)) })
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A device tells something; the broker keeps it for those who subscribe later.
    pub fn tell(&self, topic: &str, message: &str) -> Result<()> {
        let port = self.address.port().to_string();
        let arguments = ["-h", "127.0.0.1", "-p", &port, "-q", "1", "-r", "-t", topic, "-m", message];
        process::run("mosquitto_pub", &arguments).map(drop)
    }

    /// A device that listens: its log holds what it was sent.
    pub fn listener(&self, topic: &str) -> Result<Process> {
        let port = self.address.port().to_string();
        // With -d it says when it has subscribed; into a file, it would say so when it ends.
        let arguments =
            ["-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic];
        let program = Path::new("/usr/bin/stdbuf");
        let mut listener = Process::new(self.run_dir.path(), "listener", program, arguments);
        listener.start()?;
        listener.wait_for_log(PATIENCE, "Subscribed")?;
        Ok(listener)
    }
}

/// One of our mappers beside an edgecore.
pub struct Mapper {
    pub process: Process,
    rest: SocketAddr,
    // Swept when dropped.
    _run_dir: RunDir,
}

impl Mapper {
    /// `name` is the binary's.
    pub fn start(name: &str, protocol: &str, edge: &EdgeCore) -> Result<Self> {
        Self::start_as(name, name, protocol, edge, &[])
    }

    /// In a machine whose edgecore listens at `socket`. Its REST API is on this machine's network.
    pub fn start_in(machine: &Machine, name: &str, protocol: &str, socket: &str) -> Result<Self> {
        let mut mapper = Self::prepare(name, name, protocol, Path::new(socket), &[])?;
        let (nsenter, words) = machine.enter()?;
        let words: Vec<&str> =
            words.iter().map(String::as_str).filter(|word| !word.starts_with("--net=")).collect();
        mapper.process.wrap(&nsenter, &words);
        mapper.process.start()?;
        Ok(mapper)
    }

    /// Of a binary, under a name of its own: a node has each name and each protocol once. `environment`: variables and values;
    /// `{run}` in a value is the mapper's own directory.
    pub fn start_as(
        binary: &str,
        name: &str,
        protocol: &str,
        edge: &EdgeCore,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let mut mapper = Self::prepare(binary, name, protocol, &edge.dmi_socket(), environment)?;
        mapper.process.start()?;
        Ok(mapper)
    }

    fn prepare(
        binary: &str,
        name: &str,
        protocol: &str,
        socket: &Path,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let run_dir = RunDir::new(name)?;
        let rest = SocketAddr::from(([127, 0, 0, 1], run_dir.port()?));
        let config = json!({
            "grpc_server": {"socket_path": run_dir.join("mapper.sock")},
            "common": {
                "name": name,
                "version": "v1",
                "api_version": "v1.0.0",
                "protocol": protocol,
                "address": "127.0.0.1",
                "edgecore_sock": socket,
                "http_port": rest.port().to_string(),
            },
        });
        let path = run_dir.write("config.yaml", serde_json::to_vec_pretty(&config)?)?;
        let arguments = ["--config-file".into(), path.into_os_string()];
        let mut process = Process::new(run_dir.path(), name, &program(binary)?, arguments);
        for (variable, value) in environment {
            process.set_env(variable, value.replace("{run}", &run_dir.path().to_string_lossy()));
        }
        Ok(Self { process, rest, _run_dir: run_dir })
    }

    /// Where its REST API listens.
    pub fn rest(&self) -> SocketAddr {
        self.rest
    }
}

/// The binary of a mapper.
pub fn program(name: &str) -> Result<PathBuf> {
    binary(name, &format!("ISTHMUS_{}", name.to_uppercase().replace('-', "_")))
}

impl Site {
    /// A Device in the namespace `plant`, whatever is missing told as null.
    pub fn device(&self, name: &str) -> Result<Value> {
        self.cluster.kubectl_json(&["get", "device", name, "--namespace=plant"])
    }

    /// Waits until `look` is content with the Device.
    pub fn wait_device<T>(
        &mut self,
        name: &str,
        what: &str,
        mut look: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        let (edge, cloud, cluster) = (&mut self.edge, &mut self.cloud, &self.cluster);
        eventually(PATIENCE, &format!("device {name} {what}"), || {
            edge.process.must_run()?;
            cloud.process.must_run()?;
            let device = cluster.kubectl_json(&["get", "device", name, "--namespace=plant"])?;
            Ok(match look(&device) {
                Some(value) => Seen::Yes(value),
                None => Seen::NotYet(device["status"].to_string()),
            })
        })
        .with_context(|| {
            let (edge, cloud) = (self.edge.process.log_end(20), self.cloud.process.log_end(20));
            format!("edgecore's last lines:\n{edge}\ncloudcore's last lines:\n{cloud}")
        })
    }

    /// Waits until a property of the Device is reported as `value`.
    pub fn wait_reported(&mut self, device: &str, property: &str, value: &str) -> Result<()> {
        self.wait_device(device, &format!("to report {property} as {value}"), |device| {
            (reported(device, property).as_deref() == Some(value)).then_some(())
        })
    }
}

/// The twin of a property in a Device's status.
pub fn twin<'a>(device: &'a Value, property: &str) -> Option<&'a Value> {
    device["status"]["twins"].as_array()?.iter().find(|twin| twin["propertyName"] == property)
}

/// The reported value of a property.
pub fn reported(device: &Value, property: &str) -> Option<String> {
    twin(device, property)?["reported"]["value"].as_str().map(str::to_owned)
}

/// The message of a condition that holds.
pub fn condition(device: &Value, what: &str) -> Option<String> {
    let conditions = device["status"]["conditions"].as_array()?;
    let is_it = |condition: &&Value| condition["type"] == what && condition["status"] == "True";
    Some(conditions.iter().find(is_it)?["message"].as_str().unwrap_or_default().to_owned())
}

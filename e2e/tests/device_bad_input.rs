//! Bad manifests, bad mappers and bad devices: each is told by a condition that names what is wrong, and none harms the healthy
//! device beside it.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use e2e::devices::{HEAT, Mapper, ModbusDevice, condition, oven, oven_model, reported};
use e2e::site::{NODE, PATIENCE, Site, Wishes, http_get};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

/// What people write, and what must come back as it is.
const TEXT: &str = "\"it's\" 25 °C, {\\n} \\ 日本 🏭";

fn model(namespace: &str, name: &str, protocol: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"protocol": protocol, "properties": [
            {"name": "pieces", "type": "INT", "accessMode": "ReadOnly"},
            {"name": "speed", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "100"},
            {"name": "label", "type": "STRING", "accessMode": "ReadWrite"},
            {"name": "film", "type": "STREAM", "accessMode": "ReadOnly"},
        ]},
    })
}

/// With a counter, so that it can be seen that somebody reads it.
fn device(namespace: &str, name: &str, model: &str, protocol: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "deviceModelRef": {"name": model},
            "nodeName": NODE,
            "protocol": {"protocolName": protocol, "configData": {}},
            "stateReport": {"reportToCloud": true, "reportCycle": 5000},
            "properties": [
                {"name": "pieces", "collectCycle": 200, "reportToCloud": true,
                 "visitors": {"protocolName": protocol, "configData": {"signal": "counter"}}},
            ],
        },
    })
}

fn with(mut device: Value, property: &str, desired: Option<&str>) -> Value {
    let mut more = json!({"name": property, "collectCycle": 200, "reportToCloud": true,
        "visitors": {"protocolName": "virtual", "configData": {"none": "of this matters"}}});
    if let Some(desired) = desired {
        more["desired"] = json!({"value": desired});
    }
    if let Some(properties) = device["spec"]["properties"].as_array_mut() {
        properties.push(more);
    }
    device
}

fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn pieces(device: &Value) -> Option<u64> {
    reported(device, "pieces")?.parse().ok()
}

/// Every Device of the cluster, asked for together, until `wrong` finds nothing wrong with them.
fn wait_all(
    site: &Site,
    what: &str,
    mut wrong: impl FnMut(&dyn Fn(&str) -> Value) -> Vec<String>,
) -> Result<()> {
    eventually(PATIENCE, what, || {
        let all = site.cluster.kubectl_json(&["get", "devices", "--all-namespaces"])?;
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let find = |key: &str| {
            let is_it = |item: &&Value| {
                let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
                format!("{}/{}", text("namespace"), text("name")) == key
            };
            items.iter().find(is_it).cloned().unwrap_or_default()
        };
        let wrong = wrong(&find);
        Ok(if wrong.is_empty() { Seen::Yes(()) } else { Seen::NotYet(wrong.join("\n")) })
    })
    .with_context(|| {
        let (edge, cloud) = (site.edge.process.log_end(20), site.cloud.process.log_end(20));
        format!("edgecore's last lines:\n{edge}\ncloudcore's last lines:\n{cloud}")
    })
}

/// Waits until each of these Devices has a condition of that type with these words.
fn wait_told(site: &Site, expected: &[(&str, &str, &[&str])]) -> Result<()> {
    wait_all(site, "conditions", |find| {
        let is_missing = |(device, what, words): &&(&str, &str, &[&str])| {
            let told = condition(&find(device), what);
            told.is_none_or(|told| words.iter().any(|word| !told.contains(word)))
        };
        let missing = expected.iter().filter(is_missing);
        missing
            .map(|(device, what, words)| format!("{device}: {what} {words:?} in {}", find(device)["status"]))
            .collect()
    })
}

/// Waits until these Devices have been read anew after this call.
fn wait_goes_on(site: &Site, devices: &[&str]) -> Result<()> {
    let mut first: Vec<Option<u64>> = vec![None; devices.len()];
    wait_all(site, "devices to go on", |find| {
        let mut wrong = Vec::new();
        for (device, first) in devices.iter().zip(&mut first) {
            let now = pieces(&find(device));
            match (*first, now) {
                (Some(first), Some(now)) if now != first => {}
                _ => {
                    *first = first.or(now);
                    wrong.push(format!("{device}: {}", find(device)["status"]));
                }
            }
        }
        wrong
    })
}

/// Waits until these Devices are in this state, without a condition of ours.
fn wait_well(site: &Site, devices: &[&str]) -> Result<()> {
    wait_all(site, "devices to be well", |find| {
        let is_ill = |device: &&&str| {
            let status = &find(device)["status"];
            status["state"] != "online" || status["conditions"].as_array().is_some_and(|all| !all.is_empty())
        };
        devices.iter().filter(is_ill).map(|device| format!("{device}: {}", find(device)["status"])).collect()
    })
}

#[test]
fn bad_manifests_are_told_and_harm_nobody() -> Result<()> {
    let site = Site::start("device_bad_input", &Wishes::default())?;
    let _mapper = Mapper::start("mapper-virtual", "virtual", &site.edge)?;
    for namespace in ["plant", "device"] {
        site.cluster.kubectl_ok(&["create", "namespace", namespace])?;
    }
    let machine = |name: &str| device("plant", name, "machine", "virtual");
    site.cluster.apply(&list(&[
        model("plant", "machine", "virtual"),
        model("device", "machine", "virtual"),
        model("plant", "doomed", "virtual"),
        model("plant", "foreign", "modbus"),
        model("plant", "sensor-tag", "bluetooth"),
        machine("healthy"),
        // Of one name, in two namespaces, of which one is a word of the protocol.
        with(machine("press"), "label", Some("of the plant")),
        with(device("device", "press", "machine", "virtual"), "label", Some("of device")),
        device("plant", "lonely", "nowhere", "virtual"),
        device("plant", "orphan", "doomed", "virtual"),
        device("plant", "stranger", "foreign", "virtual"),
        device("plant", "tag", "sensor-tag", "bluetooth"),
        device("plant", "typo", "machine", "virtul"),
        with(machine("camera"), "film", None),
        with(machine("fast"), "speed", Some("150")),
        with(machine("words"), "speed", Some("fast")),
        with(machine("sign"), "label", Some(TEXT)),
        with(machine("more"), "heat", None),
    ]))?;

    wait_told(
        &site,
        &[
            ("plant/lonely", "ModelMissing", &["there is no DeviceModel \"nowhere\""]),
            (
                "plant/stranger",
                "ModelProtocolDiffers",
                &["\"foreign\" is of the protocol \"modbus\"", "\"virtual\""],
            ),
            ("plant/tag", "ProtocolUnsupported", &["\"bluetooth\"", "mapper-sdk"]),
            (
                "plant/tag",
                "NoMapper",
                &["\"bluetooth\" has registered on node edge-1", "\"virtual\" (mapper-virtual)"],
            ),
            ("plant/typo", "NoMapper", &["\"virtul\"", "correct spec.protocol.protocolName"]),
            ("plant/camera", "StreamUnsupported", &["\"film\" is of type STREAM", "FFmpeg"]),
            ("plant/fast", "DesiredInvalid", &["\"speed\" is 150, above the model's maximum 100"]),
            ("plant/words", "DesiredInvalid", &["\"speed\" is \"fast\", which is no whole number"]),
            ("plant/more", "PropertyNotInModel", &["\"machine\" has no property \"heat\""]),
        ],
    )?;
    for (name, reason) in
        [("lonely", "ModelMissing: "), ("typo", "NoMapper: "), ("camera", "StreamUnsupported: ")]
    {
        site.wait_event(name, reason)?;
    }
    // And what only their mapper can know.
    wait_told(
        &site,
        &[
            ("plant/fast", "DeviceTrouble", &["the desired value of speed is not written: 150 is outside"]),
            (
                "plant/words",
                "DeviceTrouble",
                &["the desired value of speed is not written: \"fast\" is no INT"],
            ),
        ],
    )?;
    // What is right about them is done all the same, and each is itself.
    wait_all(&site, "texts to come back as they are", |find| {
        let expected = [("plant/press", "of the plant"), ("device/press", "of device"), ("plant/sign", TEXT)];
        let wrong =
            expected.iter().filter(|(name, text)| reported(&find(name), "label").as_deref() != Some(*text));
        wrong.map(|(name, text)| format!("{name}: {text} in {}", find(name)["status"])).collect()
    })?;
    let others =
        ["plant/orphan", "plant/stranger", "plant/camera", "plant/fast", "plant/words", "plant/more"];
    wait_goes_on(&site, &others)?;
    let well = ["plant/healthy", "plant/press", "device/press", "plant/sign"];
    wait_goes_on(&site, &well)?;
    wait_well(&site, &well)?;

    // A model goes while its device is driven, and comes back.
    site.cluster.kubectl_ok(&["delete", "devicemodel", "doomed", "--namespace=plant"])?;
    wait_told(
        &site,
        &[("plant/orphan", "ModelMissing", &["\"doomed\" was deleted", "goes on with the last one"])],
    )?;
    site.wait_event("orphan", "ModelMissing: ")?;
    wait_goes_on(&site, &["plant/orphan", "plant/healthy"])?;

    // Everything can be put right.
    site.cluster.apply(&list(&[
        model("plant", "doomed", "virtual"),
        model("plant", "nowhere", "virtual"),
        model("plant", "foreign", "virtual"),
        machine("typo"),
        machine("camera"),
        with(machine("fast"), "speed", Some("100")),
        with(machine("words"), "speed", Some("7")),
        with(machine("sign"), "label", Some("")),
        machine("more"),
    ]))?;
    let all = ["lonely", "orphan", "stranger", "typo", "camera", "fast", "words", "more", "healthy"];
    let all = all.map(|name| format!("plant/{name}"));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    wait_well(&site, &all)?;
    wait_goes_on(&site, &all)
}

#[test]
fn mappers_that_double_lie_die_and_hang() -> Result<()> {
    let mut site = Site::start("device_bad_mappers", &Wishes::default())?;
    let mut first = Mapper::start_as("mapper-virtual", "first", "virtual", &site.edge, &[])?;
    first.process.wait_for_log(PATIENCE, "registered at edgecore")?;
    // It says it serves something else, and does: that is its own affair.
    let healthy = Mapper::start_as("mapper-virtual", "bench", "bench", &site.edge, &[])?;
    let mut hangs = Mapper::start_as("mapper-virtual", "hangs", "slow", &site.edge, &[])?;
    hangs.process.wait_for_log(PATIENCE, "registered at edgecore")?;
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    let on = |name: &str, protocol: &str| device("plant", name, "machine", protocol);
    site.cluster.apply(&list(&[
        model("plant", "machine", ""),
        on("press", "virtual"),
        on("healthy", "bench"),
        on("saw", "slow"),
    ]))?;
    let all = ["plant/press", "plant/healthy", "plant/saw"];
    wait_goes_on(&site, &all)?;

    // A second process of a protocol, and a liar: who is there stays, and they are told so.
    let mut second = Mapper::start_as("mapper-virtual", "second", "virtual", &site.edge, &[])?;
    let mut liar = Mapper::start_as("mapper-virtual", "liar", "slow", &site.edge, &[])?;
    for (mapper, name) in [(&mut second, "first"), (&mut liar, "hangs")] {
        mapper.process.wait_for_log(PATIENCE, "did not take the registration")?;
        let log = mapper.process.log();
        ensure!(log.contains("is served by the mapper") && log.contains(name), "{log}");
    }
    liar.process.stop()?;
    wait_goes_on(&site, &all)?;
    ensure!(serves(&first, "press") && !serves(&second, "press"), "one mapper drives a device");

    // The first dies: the second takes over. Then that one dies too, while another hangs.
    first.process.kill9()?;
    second.process.wait_for_log(PATIENCE, "registered at edgecore")?;
    wait_goes_on(&site, &all)?;
    wait_well(&site, &all)?;
    second.process.kill9()?;
    hangs.process.freeze(true);
    wait_told(
        &site,
        &[
            (
                "plant/press",
                "MapperAway",
                &["the mapper \"second\" of the protocol \"virtual\"", "Connection refused"],
            ),
            (
                "plant/saw",
                "MapperAway",
                &["the mapper \"hangs\" of the protocol \"slow\"", "no answer within 5 s"],
            ),
        ],
    )?;
    for name in ["press", "saw"] {
        site.wait_event(name, "MapperAway: ")?;
        ensure!(site.device(name)?["status"]["state"] == "unknown", "{}", site.device(name)?);
    }
    wait_goes_on(&site, &["plant/healthy"])?;
    wait_well(&site, &["plant/healthy"])?;

    second.process.start()?;
    hangs.process.freeze(false);
    wait_goes_on(&site, &all)?;
    wait_well(&site, &all)?;
    ensure!(serves(&healthy, "healthy"), "as before");

    // Away while edgecore restarts, and told again after it.
    second.process.kill9()?;
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    wait_told(&site, &[("plant/press", "MapperAway", &["\"second\""])])?;
    second.process.start()?;
    wait_well(&site, &all)
}

/// Whether a mapper drives a device of `plant`.
fn serves(mapper: &Mapper, device: &str) -> bool {
    let rest = mapper.rest();
    let path = format!("/api/v1/device/plant/{device}/pieces");
    http_get(&rest.ip().to_string(), rest.port(), &path).is_ok()
}

/// How a `Plc` answers.
#[derive(Clone, Copy)]
enum Answers {
    Well,
    /// Exception 4 to every request.
    Exceptions,
    /// Closes when it is asked.
    Nothing,
    /// Fewer registers than were asked for.
    Short,
    /// Half a frame, and closes.
    Torn,
    /// Not at all.
    Silence,
}

/// A Modbus TCP device that misbehaves as it is told; every register holds the same number.
struct Plc {
    address: SocketAddr,
    answers: Arc<AtomicU8>,
    holds: Arc<AtomicU16>,
}

impl Plc {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let plc = Self { address, answers: Arc::default(), holds: Arc::default() };
        let (answers, holds) = (Arc::clone(&plc.answers), Arc::clone(&plc.holds));
        // Ends with the process: a story that is over asks nothing more.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, holds) = (Arc::clone(&answers), Arc::clone(&holds));
                std::thread::spawn(move || serve(stream, &answers, &holds));
            }
        });
        Ok(plc)
    }

    fn answer(&self, answers: Answers) {
        self.answers.store(answers as u8, Ordering::SeqCst);
    }

    fn hold(&self, value: u16) {
        self.holds.store(value, Ordering::SeqCst);
    }
}

fn serve(mut stream: TcpStream, answers: &AtomicU8, holds: &AtomicU16) -> std::io::Result<()> {
    loop {
        // Transaction, protocol, length, unit, function, address, count.
        let mut request = [0_u8; 12];
        stream.read_exact(&mut request)?;
        let [transaction_1, transaction_2, .., function, _, _, _, count] = request;
        let frame = |pdu: &[u8]| {
            let length = u8::try_from(pdu.len() + 1).unwrap_or(u8::MAX);
            let mut frame = vec![transaction_1, transaction_2, 0, 0, 0, length, 1];
            frame.extend(pdu);
            frame
        };
        let well = {
            let mut pdu = vec![function, count * 2];
            (0..count).for_each(|_| pdu.extend(holds.load(Ordering::SeqCst).to_be_bytes()));
            frame(&pdu)
        };
        match answers.load(Ordering::SeqCst) {
            now if now == Answers::Well as u8 => stream.write_all(&well)?,
            now if now == Answers::Exceptions as u8 => stream.write_all(&frame(&[function | 0x80, 4]))?,
            now if now == Answers::Short as u8 => stream.write_all(&frame(&[function, 0]))?,
            now if now == Answers::Torn as u8 => {
                stream.write_all(well.get(..5).unwrap_or_default())?;
                return Ok(());
            }
            now if now == Answers::Silence as u8 => {}
            _ => return Ok(()),
        }
    }
}

#[test]
fn a_plc_that_misbehaves_harms_no_other_of_its_mapper() -> Result<()> {
    let mut site = Site::start("device_bad_plc", &Wishes::default())?;
    let good = ModbusDevice::start()?;
    let bad = Plc::start()?;
    let _mapper = Mapper::start("mapper-modbus", "modbus", &site.edge)?;
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    site.cluster.apply(&oven_model())?;
    site.cluster.apply(&oven(good.address().port(), "20"))?;
    let mut other: Value = serde_json::from_str(&oven(bad.address.port(), "20"))?;
    other["metadata"]["name"] = "oven-2".into();
    // It has nothing that could be written.
    if let Some(properties) = other["spec"]["properties"].as_array_mut() {
        properties.truncate(1);
    }
    other["spec"]["protocol"]["configData"]["timeout"] = 1000.into();
    bad.hold(100);
    site.cluster.apply(&other.to_string())?;
    site.wait_reported("oven-2", "heat", "10")?;

    let mut heat = 200;
    for (answers, state, why) in [
        (
            Answers::Exceptions,
            "unhealthy",
            "heat cannot be read: InputRegister 4: the device failed (Modbus exception 4)",
        ),
        (Answers::Nothing, "offline", "closed the connection"),
        (Answers::Well, "online", ""),
        (Answers::Short, "offline", "answered something else when asked for InputRegister 4"),
        (Answers::Well, "online", ""),
        (Answers::Torn, "offline", "closed the connection"),
        (Answers::Well, "online", ""),
        (Answers::Silence, "offline", "did not answer within 1s about InputRegister 4"),
        (Answers::Well, "online", ""),
    ] {
        heat += 1;
        bad.hold(heat);
        bad.answer(answers);
        site.wait_device("oven-2", &format!("to be {state}: {why}"), |device| {
            let told = condition(device, "DeviceTrouble").unwrap_or_default();
            let is_told = if why.is_empty() { told.is_empty() } else { told.contains(why) };
            (device["status"]["state"] == state && is_told).then_some(())
        })?;
        // The one beside it is read all the time.
        good.set(HEAT, heat)?;
        let value = format!("{}.{}", heat / 10, heat % 10);
        let value = value.trim_end_matches(".0");
        site.wait_reported("oven-1", "heat", value)?;
        if matches!(answers, Answers::Well) {
            site.wait_reported("oven-2", "heat", value)?;
        }
        ensure!(site.device("oven-1")?["status"]["state"] == "online", "{}", site.device("oven-1")?);
    }
    Ok(())
}

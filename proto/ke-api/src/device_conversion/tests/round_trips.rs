//! Whatever is written in one version comes back from the other.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::{ALPHA, BETA, object, to_alpha, to_beta};

type Fields = Vec<(&'static str, BoxedStrategy<Option<Value>>)>;

/// An object whose members are there at times.
fn fields(fields: Fields) -> BoxedStrategy<Value> {
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    values
        .prop_map(move |values| {
            let members = names.iter().zip(values);
            Value::Object(
                members.filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect::<Map<_, _>>(),
            )
        })
        .boxed()
}

fn maybe(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    option::of(value).boxed()
}

fn always(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    value.prop_map(Some).boxed()
}

fn one(values: Value) -> BoxedStrategy<Value> {
    select(values.as_array().unwrap().clone()).boxed()
}

fn list(entry: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    vec(entry, 0..4).prop_map(Value::Array).boxed()
}

fn texts() -> BoxedStrategy<Value> {
    one(json!(["", "a", "502", "true", "1.5", "{}", "{\"startIndex\":1}", "none", "é\"\\"]))
}

fn numbers() -> BoxedStrategy<Value> {
    one(json!([
        -1,
        0,
        1,
        2,
        8,
        9600,
        99_999_999,
        100_000_000,
        123_456_789,
        10_000_000_000i64,
        0.5,
        -2.25,
        1.0
    ]))
}

fn names() -> BoxedStrategy<Value> {
    one(json!(["a", "b", "c", "d", "a#2", ""]))
}

fn anything() -> BoxedStrategy<Value> {
    prop_oneof![
        texts(),
        numbers(),
        one(json!([true, false, null, [], {}, [1, {"x": null}], {"x": {"y": [0.5]}}])),
    ]
    .boxed()
}

/// Settings whose names have fields in v1alpha2 and others.
fn settings() -> BoxedStrategy<Value> {
    let names = [
        "slaveID",
        "ip",
        "port",
        "serialPort",
        "baudRate",
        "parity",
        "url",
        "timeout",
        "macAddress",
        "commType",
        "collectType",
        "register",
        "offset",
        "scale",
        "isSwap",
        "nodeID",
        "characteristicUUID",
        "dataWrite",
        "dataConverter",
        "other",
    ];
    vec((select(names.to_vec()), anything()), 0..5)
        .prop_map(|members| {
            members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
        })
        .boxed()
}

fn twin_value() -> BoxedStrategy<Value> {
    fields(vec![("value", always(texts())), ("metadata", maybe(one(json!([{}, {"type": "int"}]))))])
}

fn protocols_of_alpha() -> Fields {
    vec![
        ("modbus", maybe(settings())),
        ("opcua", maybe(settings())),
        ("bluetooth", maybe(settings())),
        ("customizedProtocol", maybe(named_settings())),
    ]
}

fn named_settings() -> BoxedStrategy<Value> {
    let names = one(json!(["modbus", "opcua", "bluetooth", "zigbee", "", "Modbus"]));
    fields(vec![("protocolName", maybe(names)), ("configData", maybe(settings()))])
}

fn alpha_device() -> BoxedStrategy<Value> {
    let common = vec![
        ("tcp", maybe(settings())),
        ("com", maybe(settings())),
        ("commType", maybe(texts())),
        ("collectTimeout", maybe(numbers())),
        ("customizedValues", maybe(settings())),
    ];
    let mut protocol = protocols_of_alpha();
    protocol.push(("common", maybe(fields(common))));
    let mut visitor = protocols_of_alpha();
    visitor.extend([
        ("propertyName", maybe(names())),
        ("collectCycle", maybe(numbers())),
        ("reportCycle", maybe(numbers())),
        ("customizedValues", maybe(settings())),
    ]);
    let selector = one(json!([
        {"nodeSelectorTerms": []},
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["e"]}]}]},
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "", "operator": "NotIn", "values": ["e", "f"]}]}, {}]},
        {"nodeSelectorTerms": [{"matchFields": []}]},
    ]));
    let data_property =
        vec![("propertyName", maybe(names())), ("metadata", maybe(one(json!([{}, {"k": "v"}]))))];
    let data = vec![
        ("dataProperties", maybe(list(fields(data_property)))),
        ("dataTopic", maybe(one(json!(["", "t", "a/+/b"])))),
    ];
    let spec = vec![
        ("deviceModelRef", maybe(one(json!([{"name": "m"}, {}])))),
        ("nodeSelector", maybe(selector)),
        ("protocol", maybe(fields(protocol))),
        ("propertyVisitors", maybe(list(fields(visitor)))),
        ("data", maybe(fields(data))),
        ("unknown", maybe(anything())),
    ];
    let twin = vec![
        ("propertyName", maybe(names())),
        ("desired", maybe(twin_value())),
        ("reported", maybe(twin_value())),
    ];
    let status = vec![("twins", maybe(list(fields(twin)))), ("unknown", maybe(anything()))];
    body(fields(spec), fields(status), ALPHA, "Device")
}

fn beta_property(name: BoxedStrategy<Option<Value>>) -> BoxedStrategy<Value> {
    let mqtt = vec![
        ("address", maybe(one(json!(["tcp://127.0.0.1:1883", "x"])))),
        ("topic", maybe(one(json!(["t", "$ke/events/device/plant/oven-1/data/update"])))),
        ("qos", maybe(one(json!([0, 1])))),
    ];
    let push = vec![("mqtt", maybe(fields(mqtt))), ("http", maybe(one(json!([{}, {"port": 80}]))))];
    fields(vec![
        ("name", name),
        ("desired", maybe(twin_value())),
        ("visitors", maybe(named_settings())),
        ("collectCycle", maybe(numbers())),
        ("reportCycle", maybe(numbers())),
        ("reportToCloud", maybe(one(json!([true, false])))),
        ("pushMethod", maybe(fields(push))),
        ("unknown", maybe(anything())),
    ])
}

fn beta_device(properties: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let spec = vec![
        ("deviceModelRef", maybe(one(json!([{"name": "m"}, {}])))),
        ("nodeName", maybe(one(json!(["", "e"])))),
        ("protocol", maybe(named_settings())),
        ("properties", maybe(properties)),
        ("methods", maybe(one(json!([[], [{"name": "m"}]])))),
        ("stateReport", maybe(one(json!([{}, {"reportCycle": 5}])))),
    ];
    let twin = vec![
        ("propertyName", maybe(names())),
        ("reported", maybe(twin_value())),
        ("observedDesired", maybe(twin_value())),
        ("unknown", maybe(anything())),
    ];
    let status =
        vec![("twins", maybe(prop_oneof![list(fields(twin)), anything()])), ("state", maybe(anything()))];
    body(fields(spec), fields(status), BETA, "Device")
}

fn model_properties(types: Fields) -> BoxedStrategy<Value> {
    let mut property =
        vec![("name", maybe(names())), ("description", maybe(texts())), ("unknown", maybe(anything()))];
    property.extend(types);
    let spec = vec![
        ("protocol", maybe(texts())),
        ("properties", maybe(list(fields(property)))),
        ("unknown", maybe(anything())),
    ];
    fields(spec)
}

fn alpha_model() -> BoxedStrategy<Value> {
    let of_type = || {
        fields(vec![
            ("accessMode", maybe(one(json!(["ReadOnly", "ReadWrite"])))),
            ("defaultValue", maybe(anything())),
            ("minimum", maybe(numbers())),
            ("maximum", maybe(numbers())),
            ("unit", maybe(texts())),
        ])
    };
    let types = ["int", "double", "float", "string", "boolean", "bytes"];
    let types = types.iter().map(|name| (*name, maybe(of_type()))).collect();
    let spec = model_properties(vec![("type", maybe(fields(types)))]);
    body(spec, Just(Value::Null).boxed(), ALPHA, "DeviceModel")
}

fn beta_model() -> BoxedStrategy<Value> {
    let types = one(json!(["INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES", "STREAM", "odd", {}]));
    let limits = || one(json!(["-20", "0.5", "1e3", "", "x", " 7"]));
    let spec = model_properties(vec![
        ("type", maybe(types)),
        ("accessMode", maybe(one(json!(["ReadOnly", "ReadWrite"])))),
        ("minimum", maybe(limits())),
        ("maximum", maybe(limits())),
        ("unit", maybe(texts())),
        ("visitors", maybe(named_settings())),
    ]);
    body(spec, Just(Value::Null).boxed(), BETA, "DeviceModel")
}

fn body(
    spec: BoxedStrategy<Value>,
    status: BoxedStrategy<Value>,
    api_version: &'static str,
    kind: &'static str,
) -> BoxedStrategy<Value> {
    let body = fields(vec![("spec", maybe(spec)), ("status", maybe(status)), ("unknown", maybe(anything()))]);
    body.prop_map(move |body| object(api_version, kind, body)).boxed()
}

/// `a`, `b`, `c`: names as a sound device has them.
fn sound_properties() -> BoxedStrategy<Value> {
    let property = |name: &str| beta_property(always(Just(Value::from(name))));
    (property("a"), property("b"), property("c")).prop_map(|(a, b, c)| json!([c, a, b])).boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn devices_of_the_old_version(alpha in alpha_device()) {
        prop_assert_eq!(to_alpha(&to_beta(&alpha)), alpha);
    }

    #[test]
    fn devices_of_the_new_version(beta in beta_device(list(beta_property(maybe(names()))))) {
        prop_assert_eq!(to_beta(&to_alpha(&beta)), beta);
    }

    #[test]
    fn models_of_the_old_version(alpha in alpha_model()) {
        prop_assert_eq!(to_alpha(&to_beta(&alpha)), alpha);
    }

    #[test]
    fn models_of_the_new_version(beta in beta_model()) {
        prop_assert_eq!(to_beta(&to_alpha(&beta)), beta);
    }

    /// Views of views are the same views: nothing drifts when both versions are in use.
    #[test]
    fn nothing_drifts(alpha in alpha_device()) {
        let beta = to_beta(&alpha);
        prop_assert_eq!(to_beta(&to_alpha(&beta)), beta);
    }

    /// A desired value that is written in the old version arrives, and the spec is the same but for that.
    #[test]
    fn desired_written_in_the_old_version(beta in beta_device(sound_properties()), value in texts()) {
        let mut view = to_alpha(&beta);
        let mut expected = beta.clone();
        let desired = json!({"value": value, "metadata": {"by": "test"}});
        let twins = view.pointer_mut("/status/twins").and_then(Value::as_array_mut);
        for twin in twins.into_iter().flatten() {
            let properties = expected.pointer_mut("/spec/properties").and_then(Value::as_array_mut).unwrap();
            let property = properties.iter_mut().find(|property| property["name"] == twin["propertyName"]).unwrap();
            property["desired"] = desired.clone();
            twin["desired"] = desired.clone();
        }
        prop_assert_eq!(&to_beta(&view)["spec"], &expected["spec"]);
    }

    /// A report that is written in the new version shows in the old, whose spec stays as it was written.
    #[test]
    fn reports_written_in_the_new_version(alpha in alpha_device()) {
        let mut beta = to_beta(&alpha);
        let properties = beta.pointer("/spec/properties").and_then(Value::as_array).cloned().unwrap_or_default();
        let reported = properties.iter().filter(|property| property["reportToCloud"] == true);
        let twins: Vec<Value> = reported.map(|property| json!({"propertyName": property["name"], "reported": {"value": "new"}})).collect();
        beta["status"] = json!({"twins": twins, "state": "online"});
        let view = to_alpha(&beta);
        let shown = view["status"]["twins"].as_array().into_iter().flatten();
        let shown = shown.filter(|twin| twin["reported"]["value"] == "new");
        prop_assert_eq!(shown.count(), twins.len());
        // Only the memory of what is no longer so may shrink.
        let again = to_beta(&view);
        prop_assert_eq!((&again["spec"], &again["status"]), (&beta["spec"], &beta["status"]));
    }
}

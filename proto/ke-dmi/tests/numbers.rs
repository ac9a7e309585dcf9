//! Every name, number and type that decides whether a Go peer understands us, written down a second time: from
//! upstream's package v1beta1 of KubeEdge v1.23, not from our file. A slip of the pen in `dmi.proto` fails here.

// All of this file is a test; the lint knows only functions marked as one.
#![allow(clippy::unwrap_used)]

use ke_dmi::v1beta1::*;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};

/// Message, and its fields in the order of their numbers. `rep` is repeated.
const UPSTREAM: &[(&str, &str)] = &[
    ("MapperRegisterRequest", "1 withData bool; 2 mapper MapperInfo"),
    ("MapperRegisterResponse", "1 modelList rep DeviceModel; 2 deviceList rep Device"),
    (
        "MapperInfo",
        "1 name string; 2 version string; 3 api_version string; 4 protocol string; 5 address bytes; 6 state string",
    ),
    ("DeviceModel", "1 name string; 2 spec DeviceModelSpec; 3 namespace string"),
    ("DeviceModelSpec", "1 properties rep ModelProperty; 2 commands rep DeviceCommand"),
    (
        "ModelProperty",
        "1 name string; 2 description string; 3 type string; 4 accessMode string; 5 minimum string; 6 maximum string; 7 unit string",
    ),
    (
        "DeviceCommand",
        "1 name string; 2 url string; 3 method string; 4 status_code rep string; 5 parameters rep string; 6 response bytes",
    ),
    ("Device", "1 name string; 2 spec DeviceSpec; 3 status DeviceStatus; 4 namespace string"),
    (
        "DeviceSpec",
        "1 deviceModelReference string; 2 protocol ProtocolConfig; 3 properties rep DeviceProperty; 4 methods rep DeviceMethod",
    ),
    ("DeviceMethod", "1 name string; 2 description string; 3 propertyNames rep string"),
    (
        "DeviceProperty",
        "1 name string; 2 desired TwinProperty; 3 visitors VisitorConfig; 4 reportCycle int64; 5 collectCycle int64; 6 reportToCloud bool; 7 pushMethod PushMethod",
    ),
    ("ProtocolConfig", "1 protocolName string; 2 configData CustomizedValue"),
    ("VisitorConfig", "1 protocolName string; 2 configData CustomizedValue"),
    ("CustomizedValue", "1 data map<string, google.protobuf.Any>"),
    (
        "PushMethod",
        "1 http PushMethodHTTP; 2 mqtt PushMethodMQTT; 3 dbMethod DBMethod; 4 otel PushMethodOTEL; 5 anomalyDetection AnomalyDetection",
    ),
    ("PushMethodHTTP", "1 hostname string; 2 port int64; 3 requestpath string; 4 timeout int64"),
    ("PushMethodMQTT", "1 address string; 2 topic string; 3 qos int32; 4 retained bool"),
    ("PushMethodOTEL", "1 endpointURL string"),
    (
        "DBMethod",
        "1 influxdb2 DBMethodInfluxdb2; 2 redis DBMethodRedis; 3 tdengine DBMethodTDEngine; 4 mysql DBMethodMySQL",
    ),
    (
        "DBMethodInfluxdb2",
        "1 influxdb2ClientConfig Influxdb2ClientConfig; 2 influxdb2DataConfig Influxdb2DataConfig",
    ),
    ("Influxdb2ClientConfig", "1 url string; 2 org string; 3 bucket string"),
    ("Influxdb2DataConfig", "1 measurement string; 2 tag map<string, string>; 3 fieldKey string"),
    ("DBMethodRedis", "1 redisClientConfig RedisClientConfig"),
    ("RedisClientConfig", "1 addr string; 2 db int32; 3 poolsize int32; 4 minIdleConns int32"),
    ("DBMethodTDEngine", "1 tdEngineClientConfig TDEngineClientConfig"),
    ("TDEngineClientConfig", "1 addr string; 2 dbname string"),
    ("DBMethodMySQL", "1 mysqlClientConfig MySQLClientConfig"),
    ("MySQLClientConfig", "1 addr string; 2 database string; 3 userName string"),
    ("DBMethodOTEL", "1 otelExporterConfig OTELExporterConfig"),
    ("OTELExporterConfig", "1 endpointURL string"),
    ("AnomalyDetection", "1 data map<string, google.protobuf.Any>"),
    (
        "ReportDeviceStatusRequest",
        "1 deviceName string; 2 reportedDevice DeviceStatus; 3 deviceNamespace string",
    ),
    ("ReportDeviceStatesRequest", "1 deviceName string; 2 deviceNamespace string; 3 state string"),
    ("DeviceStatus", "1 twins rep Twin; 2 reportToCloud bool; 3 reportCycle int64"),
    ("Twin", "1 propertyName string; 2 observedDesired TwinProperty; 3 reported TwinProperty"),
    ("TwinProperty", "1 value string; 2 metadata map<string, string>"),
    ("RegisterDeviceRequest", "1 device Device"),
    ("UpdateDeviceRequest", "1 device Device"),
    ("RegisterDeviceResponse", "1 deviceName string; 2 deviceNamespace string"),
    ("CreateDeviceModelRequest", "1 model DeviceModel"),
    ("UpdateDeviceModelRequest", "1 model DeviceModel"),
    ("CreateDeviceModelResponse", "1 deviceModelName string; 2 deviceModelNamespace string"),
    ("RemoveDeviceRequest", "1 deviceName string; 2 deviceNamespace string"),
    ("GetDeviceRequest", "1 deviceName string; 2 deviceNamespace string"),
    ("RemoveDeviceModelRequest", "1 modelName string; 2 modelNamespace string"),
    ("GetDeviceResponse", "1 device Device"),
    ("ReportDeviceStatusResponse", ""),
    ("ReportDeviceStatesResponse", ""),
    ("RemoveDeviceResponse", ""),
    ("UpdateDeviceResponse", ""),
    ("RemoveDeviceModelResponse", ""),
    ("UpdateDeviceModelResponse", ""),
];

/// Call, what it takes and what it gives.
const MANAGER: &[(&str, &str, &str)] = &[
    ("MapperRegister", "MapperRegisterRequest", "MapperRegisterResponse"),
    ("ReportDeviceStatus", "ReportDeviceStatusRequest", "ReportDeviceStatusResponse"),
    ("ReportDeviceStates", "ReportDeviceStatesRequest", "ReportDeviceStatesResponse"),
];
const MAPPER: &[(&str, &str, &str)] = &[
    ("RegisterDevice", "RegisterDeviceRequest", "RegisterDeviceResponse"),
    ("RemoveDevice", "RemoveDeviceRequest", "RemoveDeviceResponse"),
    ("UpdateDevice", "UpdateDeviceRequest", "UpdateDeviceResponse"),
    ("CreateDeviceModel", "CreateDeviceModelRequest", "CreateDeviceModelResponse"),
    ("RemoveDeviceModel", "RemoveDeviceModelRequest", "RemoveDeviceModelResponse"),
    ("UpdateDeviceModel", "UpdateDeviceModelRequest", "UpdateDeviceModelResponse"),
    ("GetDevice", "GetDeviceRequest", "GetDeviceResponse"),
];

fn ours() -> FileDescriptorProto {
    let directory = env!("CARGO_MANIFEST_DIR");
    let files = protox::compile([format!("{directory}/dmi.proto")], [directory]).unwrap();
    files.file.into_iter().find(|file| file.name().ends_with("dmi.proto")).unwrap()
}

fn kind(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    if field.r#type() != Type::Message {
        return field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase();
    }
    let name = field.type_name().trim_start_matches('.');
    let entry = message
        .nested_type
        .iter()
        .find(|nested| name.ends_with(&format!("{}.{}", message.name(), nested.name())));
    match entry.map(|entry| (entry, entry.field.as_slice())) {
        Some((entry, [key, value])) => format!("map<{}, {}>", kind(key, entry), kind(value, entry)),
        _ => name.trim_start_matches("v1beta1.").to_owned(),
    }
}

fn line(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let kind = kind(field, message);
    let repeated = if field.label() == Label::Repeated && !kind.starts_with("map<") { "rep " } else { "" };
    format!("{} {} {repeated}{kind}", field.number(), field.name())
}

#[test]
fn numbers_are_upstreams() {
    let file = ours();
    assert_eq!(file.package(), "v1beta1");
    for (name, expected) in UPSTREAM {
        let Some(message) = file.message_type.iter().find(|message| message.name() == *name) else {
            panic!("{name} is missing")
        };
        let mut fields: Vec<&FieldDescriptorProto> = message.field.iter().collect();
        fields.sort_unstable_by_key(|field| field.number());
        let found: Vec<String> = fields.iter().map(|field| line(field, message)).collect();
        assert_eq!(found.join("; "), *expected, "{name}");
    }
    assert_eq!(file.message_type.len(), UPSTREAM.len());
}

/// Calls are found by their full names.
#[test]
fn calls_are_upstreams() {
    let file = ours();
    for (name, expected) in [("DeviceManagerService", MANAGER), ("DeviceMapperService", MAPPER)] {
        let service = file.service.iter().find(|service| service.name() == name).unwrap();
        let short = |name: &str| name.trim_start_matches(".v1beta1.").to_owned();
        let found: Vec<_> = (service.method.iter())
            .map(|call| (call.name().to_owned(), short(call.input_type()), short(call.output_type())))
            .collect();
        let found: Vec<_> = found.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
        assert_eq!(found, expected);
        assert!(service.method.iter().all(|call| !call.client_streaming() && !call.server_streaming()));
    }
    assert_eq!(device_manager_service_server::SERVICE_NAME, "v1beta1.DeviceManagerService");
    assert_eq!(device_mapper_service_server::SERVICE_NAME, "v1beta1.DeviceMapperService");
}

/// The generated types, not only the file: bytes as a Go peer writes them.
#[test]
fn bytes_are_upstreams() {
    fn check<M: Message + Default + PartialEq + std::fmt::Debug>(message: M, expected: &[u8]) {
        assert_eq!(message.encode_to_vec(), expected, "{message:?}");
        assert_eq!(M::decode(expected).unwrap(), message);
    }
    check(
        MapperRegisterRequest {
            with_data: true,
            mapper: Some(MapperInfo {
                name: "m".into(),
                version: "v".into(),
                api_version: "a".into(),
                protocol: "p".into(),
                address: b"/s".to_vec(),
                state: "ok".into(),
            }),
        },
        b"\x08\x01\x12\x14\x0a\x01m\x12\x01v\x1a\x01a\x22\x01p\x2a\x02/s\x32\x02ok",
    );
    let value = |value: &str| Some(TwinProperty { value: value.into(), metadata: Default::default() });
    let twin = Twin { property_name: "t".into(), observed_desired: value(""), reported: value("1") };
    check(
        ReportDeviceStatusRequest {
            device_name: "d".into(),
            reported_device: Some(DeviceStatus { twins: vec![twin], ..Default::default() }),
            device_namespace: "n".into(),
        },
        b"\x0a\x01d\x12\x0c\x0a\x0a\x0a\x01t\x12\x00\x1a\x03\x0a\x011\x1a\x01n",
    );
    check(
        ReportDeviceStatesRequest {
            device_name: "d".into(),
            device_namespace: "n".into(),
            state: "online".into(),
        },
        b"\x0a\x01d\x12\x01n\x1a\x06online",
    );
    let port = ke_dmi::value::to_any("port", &serde_json::json!(502)).unwrap();
    let empty = Some(CustomizedValue::default());
    check(
        Device {
            name: "d".into(),
            namespace: "n".into(),
            spec: Some(DeviceSpec {
                device_model_reference: "m".into(),
                protocol: Some(ProtocolConfig {
                    protocol_name: "modbus".into(),
                    config_data: Some(CustomizedValue { data: [("port".to_owned(), port)].into() }),
                }),
                properties: vec![DeviceProperty {
                    name: "t".into(),
                    desired: Some(TwinProperty::default()),
                    visitors: Some(VisitorConfig { config_data: empty, ..Default::default() }),
                    report_cycle: 1000,
                    collect_cycle: 500,
                    report_to_cloud: true,
                    push_method: None,
                }],
                methods: Vec::new(),
            }),
            status: Some(DeviceStatus::default()),
        },
        &[
            &b"\x0a\x01d\x12\x63\x0a\x01m\x12\x4b\x0a\x06modbus\x12\x41\x0a\x3f\x0a\x04port\x12\x37"[..],
            b"\x0a\x2etype.googleapis.com/google.protobuf.FloatValue\x12\x05\x0d\x00\x00\xfb\x43",
            b"\x1a\x11\x0a\x01t\x12\x00\x1a\x02\x12\x00\x20\xe8\x07\x28\xf4\x03\x30\x01\x1a\x00\x22\x01n",
        ]
        .concat(),
    );
}

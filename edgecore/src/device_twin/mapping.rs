//! Pure: a Device and its model as the messages that mappers get.
//!
//! Mappers made with KubeEdge's framework die of a missing protocol, desired value, visitors or settings, and of a
//! property that the model lacks: the former are always sent, the latter is left out. Settings are the model's, overridden
//! key by key by the device's.

use ke_api::FreeObject;
use ke_api::device::{AccessMode, DataType, Device, DeviceModel, DeviceProperty, Visitors};
use ke_api::push_method::PushMethod;
use ke_dmi::v1beta1 as dmi;
use ke_dmi::value::{self, ValueError};
use serde_json::{Map, Value};

/// What a mapper will not get, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LeftOut {
    #[error("property {0} is not in the model {1}; add it there")]
    NotInModel(String, String),
    #[error("property {0}: {1}")]
    Setting(String, ValueError),
    #[error("protocol: {0}")]
    Protocol(ValueError),
}

/// The model's message: properties without visitors, as KubeEdge sends them.
pub(super) fn model(model: &DeviceModel) -> dmi::DeviceModel {
    let property = |property: &ke_api::device::ModelProperty| dmi::ModelProperty {
        name: property.name.clone(),
        description: property.description.clone(),
        r#type: property.data_type.map_or("", type_name).to_owned(),
        access_mode: match property.access_mode {
            Some(AccessMode::ReadWrite) => "ReadWrite",
            Some(AccessMode::ReadOnly) => "ReadOnly",
            None => "",
        }
        .to_owned(),
        minimum: property.minimum.clone(),
        maximum: property.maximum.clone(),
        unit: property.unit.clone(),
    };
    dmi::DeviceModel {
        name: model.metadata.name.clone().unwrap_or_default(),
        namespace: model.metadata.namespace.clone().unwrap_or_default(),
        spec: Some(dmi::DeviceModelSpec {
            properties: model.spec.properties.iter().map(property).collect(),
            commands: Vec::new(),
        }),
    }
}

fn type_name(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Int => "INT",
        DataType::Float => "FLOAT",
        DataType::Double => "DOUBLE",
        DataType::String => "STRING",
        DataType::Boolean => "BOOLEAN",
        DataType::Bytes => "BYTES",
        DataType::Stream => "STREAM",
    }
}

/// The device's message, merged with its model, and what had to be left out of it.
pub(super) fn device(device: &Device, model: &DeviceModel) -> (dmi::Device, Vec<LeftOut>) {
    let mut left_out = Vec::new();
    let spec = &device.spec;
    let settings = merged(model.spec.protocol_config_data.as_ref(), spec.protocol.config_data.as_ref());
    let config_data = value::to_data(&settings).unwrap_or_else(|error| {
        left_out.push(LeftOut::Protocol(error));
        dmi::CustomizedValue::default()
    });
    let mut properties = Vec::with_capacity(spec.properties.len());
    for wanted in &spec.properties {
        let Some(known) = model.spec.properties.iter().find(|known| known.name == wanted.name) else {
            let model = model.metadata.name.clone().unwrap_or_default();
            left_out.push(LeftOut::NotInModel(wanted.name.clone(), model));
            continue;
        };
        match property(wanted, known.visitors.as_ref()) {
            Ok(message) => properties.push(message),
            Err(error) => left_out.push(LeftOut::Setting(wanted.name.clone(), error)),
        }
    }
    let methods = spec.methods.iter().map(|method| dmi::DeviceMethod {
        name: method.name.clone(),
        description: method.description.clone(),
        property_names: method.property_names.clone(),
    });
    let message = dmi::Device {
        name: device.metadata.name.clone().unwrap_or_default(),
        namespace: device.metadata.namespace.clone().unwrap_or_default(),
        spec: Some(dmi::DeviceSpec {
            device_model_reference: model.metadata.name.clone().unwrap_or_default(),
            protocol: Some(dmi::ProtocolConfig {
                protocol_name: spec.protocol.protocol_name.clone(),
                config_data: Some(config_data),
            }),
            properties,
            methods: methods.collect(),
        }),
        status: Some(state_report(device)),
    };
    (message, left_out)
}

/// From `spec.stateReport`, else as manifests of before KubeEdge v1.20 have it: in the status.
fn state_report(device: &Device) -> dmi::DeviceStatus {
    let (report_to_cloud, report_cycle) = match (&device.spec.state_report, &device.status) {
        (Some(report), _) => (report.report_to_cloud, report.report_cycle),
        (None, Some(status)) => (
            status.get("reportToCloud").and_then(Value::as_bool).unwrap_or_default(),
            status.get("reportCycle").and_then(Value::as_i64).unwrap_or_default(),
        ),
        (None, None) => (false, 0),
    };
    dmi::DeviceStatus { twins: Vec::new(), report_to_cloud, report_cycle }
}

fn property(wanted: &DeviceProperty, model: Option<&Visitors>) -> Result<dmi::DeviceProperty, ValueError> {
    let own = wanted.visitors.as_ref();
    let settings = merged(
        model.and_then(|visitors| visitors.config_data.as_ref()),
        own.and_then(|own| own.config_data.as_ref()),
    );
    // As KubeEdge has it: where the model says how to reach the property, its protocol stands.
    let protocol_name = model.or(own).map(|visitors| visitors.protocol_name.clone()).unwrap_or_default();
    let visitors = dmi::VisitorConfig { protocol_name, config_data: Some(value::to_data(&settings)?) };
    let desired = wanted.desired.clone().unwrap_or_default();
    Ok(dmi::DeviceProperty {
        name: wanted.name.clone(),
        desired: Some(dmi::TwinProperty {
            value: desired.value,
            metadata: desired.metadata.into_iter().collect(),
        }),
        visitors: Some(visitors),
        report_cycle: wanted.report_cycle,
        collect_cycle: wanted.collect_cycle,
        report_to_cloud: wanted.report_to_cloud,
        push_method: wanted.push_method.as_ref().map(push_method).transpose()?,
    })
}

/// The device's keys over the model's. What the wire cannot carry as it is goes as JSON text; null is no setting.
fn merged(model: Option<&FreeObject>, device: Option<&FreeObject>) -> Map<String, Value> {
    let mut settings = Map::new();
    for source in [model, device].into_iter().flatten() {
        for (key, value) in &source.0 {
            let value = match value {
                Value::Null => continue,
                Value::Array(_) | Value::Object(_) => Value::String(value.to_string()),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
            };
            // Mappers compare keys without capitals.
            settings.retain(|other, _| !other.eq_ignore_ascii_case(key));
            settings.insert(key.clone(), value);
        }
    }
    settings
}

fn push_method(push: &PushMethod) -> Result<dmi::PushMethod, ValueError> {
    let anomaly_detection = push.anomaly_detection.as_ref().map(|settings| {
        let data = value::to_data(&merged(None, Some(settings)))?.data;
        Ok(dmi::AnomalyDetection { data })
    });
    Ok(dmi::PushMethod {
        http: push.http.as_ref().map(|http| dmi::PushMethodHttp {
            hostname: http.host_name.clone(),
            port: http.port,
            requestpath: http.request_path.clone(),
            timeout: http.timeout,
        }),
        mqtt: push.mqtt.as_ref().map(|mqtt| dmi::PushMethodMqtt {
            address: mqtt.address.clone(),
            topic: mqtt.topic.clone(),
            qos: mqtt.qos,
            retained: mqtt.retained,
        }),
        otel: push.otel.as_ref().map(|otel| dmi::PushMethodOtel { endpoint_url: otel.endpoint_url.clone() }),
        db_method: push.db_method.as_ref().map(databases),
        anomaly_detection: anomaly_detection.transpose()?,
    })
}

fn databases(databases: &ke_api::push_method::DbMethod) -> dmi::DbMethod {
    let narrow = |number: i64| i32::try_from(number).unwrap_or_default();
    dmi::DbMethod {
        influxdb2: databases.influxdb2.as_ref().map(|influx| dmi::DbMethodInfluxdb2 {
            influxdb2_client_config: influx.client.as_ref().map(|client| dmi::Influxdb2ClientConfig {
                url: client.url.clone(),
                org: client.org.clone(),
                bucket: client.bucket.clone(),
            }),
            influxdb2_data_config: influx.data.as_ref().map(|data| dmi::Influxdb2DataConfig {
                measurement: data.measurement.clone(),
                tag: data.tag.clone().into_iter().collect(),
                field_key: data.field_key.clone(),
            }),
        }),
        redis: databases.redis.as_ref().map(|redis| dmi::DbMethodRedis {
            redis_client_config: redis.client.as_ref().map(|client| dmi::RedisClientConfig {
                addr: client.addr.clone(),
                db: narrow(client.db),
                poolsize: narrow(client.pool_size),
                min_idle_conns: narrow(client.min_idle_conns),
            }),
        }),
        tdengine: databases.tdengine.as_ref().map(|tdengine| dmi::DbMethodTdEngine {
            td_engine_client_config: tdengine.client.as_ref().map(|client| dmi::TdEngineClientConfig {
                addr: client.addr.clone(),
                dbname: client.db_name.clone(),
            }),
        }),
        mysql: databases.mysql.as_ref().map(|mysql| dmi::DbMethodMySql {
            mysql_client_config: mysql.client.as_ref().map(|client| dmi::MySqlClientConfig {
                addr: client.addr.clone(),
                database: client.database.clone(),
                user_name: client.user_name.clone(),
            }),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(json: Value) -> T {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn settings_are_merged_and_everything_a_mapper_needs_is_there() {
        let oven: DeviceModel = read(json!({
            "metadata": {"name": "oven", "namespace": "plant"},
            "spec": {"protocolConfigData": {"timeout": 3, "slaveID": 9, "unitId": 7}, "properties": [
                {"name": "heat", "type": "FLOAT", "accessMode": "ReadOnly", "visitors":
                    {"protocolName": "modbus", "configData": {"register": "InputRegister", "offset": 0, "scale": 0.1}}},
                {"name": "limit", "type": "INT"},
            ]},
        }));
        let one: Device = read(json!({
            "metadata": {"name": "oven-1", "namespace": "plant"},
            "spec": {
                "protocol": {"protocolName": "modbus", "configData":
                    {"ip": "10.0.0.5", "port": 502, "slaveID": 1, "UnitID": 8, "data": 5, "list": [1], "none": null}},
                "properties": [
                    {"name": "heat", "visitors": {"configData": {"offset": 4}}},
                    {"name": "limit", "desired": {"value": "20", "metadata": {"type": "int"}}},
                    {"name": "lost"},
                ],
            },
            "status": {"reportToCloud": true, "reportCycle": 5000},
        }));
        let (message, left_out) = device(&one, &oven);
        assert_eq!(left_out, [LeftOut::NotInModel("lost".into(), "oven".into())]);
        let spec = message.spec.unwrap();
        let settings = |data: &dmi::CustomizedValue| Value::Object(value::from_data(data).unwrap());
        let protocol = spec.protocol.unwrap();
        assert_eq!(
            settings(protocol.config_data.as_ref().unwrap()),
            json!({"timeout": 3, "ip": "10.0.0.5", "port": 502, "slaveID": 1, "UnitID": 8, "data": 5, "list": "[1]"})
        );
        let [heat, limit] = spec.properties.as_slice() else { panic!("{:?}", spec.properties) };
        let visitors = heat.visitors.as_ref().unwrap();
        assert_eq!(
            settings(visitors.config_data.as_ref().unwrap()),
            json!({"register": "InputRegister", "offset": 4, "scale": 0.1})
        );
        assert_eq!(visitors.protocol_name, "modbus");
        assert_eq!(heat.desired, Some(dmi::TwinProperty::default()));
        assert_eq!(limit.desired.as_ref().unwrap().value, "20");
        assert!(limit.visitors.as_ref().unwrap().config_data.is_some());
        let status = message.status.unwrap();
        assert_eq!((status.report_to_cloud, status.report_cycle), (true, 5000));
        assert_eq!(model(&oven).spec.unwrap().properties[0].r#type, "FLOAT");
    }
}

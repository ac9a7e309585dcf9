//! Pure: what is wrong with the properties of a device, measured by its model.

use ke_api::device::DataType;

use super::super::says::{DeviceSays, ModelProperty};
use super::What;

/// Adds what is wrong with them.
pub(super) fn properties(device: &DeviceSays, model: &[ModelProperty], add: &mut impl FnMut(What, String)) {
    let of_model = |name: &str| model.iter().find(|property| property.name == *name);
    let name = &device.model;
    let strangers: Vec<&str> = device
        .properties
        .iter()
        .map(|property| property.name.as_str())
        .filter(|name| of_model(name).is_none())
        .collect();
    if !strangers.is_empty() {
        add(
            What::PropertyNotInModel,
            format!(
                "DeviceModel {name:?} has no property {}: nothing is read or written there; correct the name or add it to the model",
                quoted(&strangers)
            ),
        );
    }
    let streams: Vec<&str> = device
        .properties
        .iter()
        .map(|property| property.name.as_str())
        .filter(|name| of_model(name).is_some_and(|property| property.data_type == Some(DataType::Stream)))
        .collect();
    if !streams.is_empty() {
        add(
            What::StreamUnsupported,
            format!(
                "{} is of type STREAM, which no mapper of Isthmus serves: a mapper with FFmpeg, such as KubeEdge's ONVIF mapper, \
             must run on the node",
                quoted(&streams)
            ),
        );
    }
    if let Some(problem) = visitors(device, model) {
        add(What::NoVisitors, problem);
    }
    let mut wrong = Vec::new();
    for property in &device.properties {
        let desired = property.desired.as_ref().map_or("", |desired| desired.value.as_str());
        if let (false, Some(of_model)) = (desired.is_empty(), of_model(&property.name))
            && let Err(reason) = fits(desired, of_model)
        {
            wrong.push(format!("the desired value of {:?} {reason}", property.name));
        }
    }
    if !wrong.is_empty() {
        add(What::DesiredInvalid, wrong.join("; "));
    }
}

/// Protocols whose mappers cannot do without being told how to reach a property, with an example.
fn example_of_visitors(protocol: &str) -> Option<&'static str> {
    let protocol = protocol.to_ascii_lowercase();
    let starts = |with: &str| protocol.starts_with(with);
    if starts("modbus") {
        Some(r#"{"register": "HoldingRegister", "offset": 0, "limit": 1}"#)
    } else if starts("opcua") || starts("opc-ua") {
        Some(r#"{"nodeID": "ns=2;s=Temperature"}"#)
    } else if starts("bluetooth") {
        Some(r#"{"characteristicUUID": "f000aa0104514000b000000000000000"}"#)
    } else {
        None
    }
}

fn visitors(device: &DeviceSays, model: &[ModelProperty]) -> Option<String> {
    if model.is_empty() {
        return None;
    }
    let example = example_of_visitors(&device.protocol);
    let in_alpha = if device.is_from_alpha { " (in a v1alpha2 manifest: spec.propertyVisitors)" } else { "" };
    if device.properties.is_empty() {
        let names: Vec<&str> = model.iter().map(|property| property.name.as_str()).collect();
        let example =
            example.map(|example| format!(" with visitors.configData such as {example}")).unwrap_or_default();
        return Some(format!(
            "the device has no visitors: it lists no property, so that nothing of it is read; DeviceModel {:?} has {}: \
             add each to spec.properties{in_alpha}{example}",
            device.model,
            quoted(&names)
        ));
    }
    let example = example?;
    let has_in_model =
        |name: &str| model.iter().any(|property| property.name == name && property.has_visitors);
    let missing: Vec<&str> = device
        .properties
        .iter()
        .filter(|property| !property.has_visitors && !has_in_model(&property.name))
        .map(|property| property.name.as_str())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "neither the device nor DeviceModel {:?} says how to reach {}: add visitors.configData such as {example} to the \
             property in spec.properties of one of them{in_alpha}",
            device.model,
            quoted(&missing)
        )
    })
}

/// Whether a desired value can be written to such a property.
fn fits(value: &str, property: &ModelProperty) -> Result<(), String> {
    if property.is_read_only {
        return Err("is never written, since the model says ReadOnly".to_owned());
    }
    let number = match property.data_type {
        Some(DataType::Int) => {
            let number = value.trim().parse::<i64>();
            #[expect(clippy::cast_precision_loss, reason = "limits are compared, nothing is computed")]
            let number = number.map(|number| number as f64);
            number.map_err(|_| format!("is {value:?}, which is no whole number (INT)"))?
        }
        Some(DataType::Float | DataType::Double) => match value.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => number,
            _ => return Err(format!("is {value:?}, which is no number (FLOAT, DOUBLE)")),
        },
        Some(DataType::Boolean) => {
            // As Go's ParseBool, which Go mappers use.
            let is_boolean =
                ["1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"]
                    .contains(&value);
            return if is_boolean {
                Ok(())
            } else {
                Err(format!("is {value:?}, expected true or false (BOOLEAN)"))
            };
        }
        Some(DataType::String | DataType::Bytes | DataType::Stream) | None => return Ok(()),
    };
    if property.minimum.trim().parse::<f64>().is_ok_and(|minimum| number < minimum) {
        return Err(format!("is {value}, below the model's minimum {}", property.minimum));
    }
    if property.maximum.trim().parse::<f64>().is_ok_and(|maximum| number > maximum) {
        return Err(format!("is {value}, above the model's maximum {}", property.maximum));
    }
    Ok(())
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

//! What mappers find around them goes to the cloud, which has the rules. Nothing is kept: mappers tell it again and again.

use ke_dmi::discovery as messages;
use ke_dmi::discovery::device_discovery_server::DeviceDiscovery;
use ke_wire::{DiscoveredDevice, Discovery, MessageId, Up};
use serde_json::{Map, Value};
use tonic::{Request, Response, Status};

use crate::edge_hub::handle::Cloud;

/// More of one mapper at once are refused: a frame of the link holds them all.
const MOST: usize = 1000;

/// The service.
pub(super) struct Discoveries(pub(super) Cloud);

#[tonic::async_trait]
impl DeviceDiscovery for Discoveries {
    async fn report_discovered(
        &self,
        request: Request<messages::ReportDiscoveredRequest>,
    ) -> Result<Response<messages::ReportDiscoveredResponse>, Status> {
        let discovery = discovery(request.into_inner()).map_err(Status::invalid_argument)?;
        let away = |_| Status::unavailable("the cloud is away; tell it again when it is back");
        self.0.tell(Up::Discovered { id: MessageId::fresh(), discovery }).await.map_err(away)?;
        Ok(Response::new(messages::ReportDiscoveredResponse {}))
    }
}

fn discovery(request: messages::ReportDiscoveredRequest) -> Result<Discovery, String> {
    let messages::ReportDiscoveredRequest { protocol, devices } = request;
    if protocol.is_empty() {
        return Err("protocol is missing".to_owned());
    }
    if devices.len() > MOST {
        return Err(format!("{} devices at once are too many; tell {MOST} at most", devices.len()));
    }
    let devices = devices.into_iter().map(|device| {
        let messages::DiscoveredDevice { id, data, config_data } = device;
        let config_data: Map<String, Value> = serde_json::from_str(&config_data)
            .map_err(|_| format!("config_data of {id:?} is no JSON object"))?;
        if let Some((key, _)) = config_data.iter().find(|(_, value)| value.is_object() || value.is_array()) {
            return Err(format!("config_data of {id:?}: {key} is no text, number or truth"));
        }
        Ok(DiscoveredDevice { id, data, config_data })
    });
    Ok(Discovery { protocol, devices: devices.collect::<Result<_, String>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mappers_tell() {
        let check = |config_data: &str, expected: Result<&str, &str>| {
            let device = messages::DiscoveredDevice {
                id: "a-1".into(),
                data: [("maker".to_owned(), "x".to_owned())].into(),
                config_data: config_data.into(),
            };
            let request =
                messages::ReportDiscoveredRequest { protocol: "opcua".into(), devices: vec![device] };
            let shown = discovery(request)
                .map(|found| Value::Object(found.devices[0].config_data.clone()).to_string());
            assert_eq!(shown.as_deref().map_err(String::as_str), expected);
        };
        check(r#"{"url":"opc.tcp://a","port":1}"#, Ok(r#"{"port":1,"url":"opc.tcp://a"}"#));
        check("{}", Ok("{}"));
        check("", Err("config_data of \"a-1\" is no JSON object"));
        check("[]", Err("config_data of \"a-1\" is no JSON object"));
        check(r#"{"a":{}}"#, Err("config_data of \"a-1\": a is no text, number or truth"));
        let none = messages::ReportDiscoveredRequest::default();
        assert_eq!(discovery(none), Err("protocol is missing".to_owned()));
    }
}

//! What is known of each device now, in the form of its Device's status. Read from the store, where it is before anybody
//! hears of it; changes nothing. Asked by `control`.

use std::collections::BTreeMap;

use ke_api::device::{Device, TwinValue};
use ke_api::device_status::{LiveStatus, LiveTwin, Twin as ShownTwin};
use ke_wire::DeviceId;

use super::merge::{DELETED, Half, Twin};
use super::record::Known;
use super::store;
use crate::db::{Db, DbError};

/// State and twins of one device.
#[derive(Clone, Debug)]
pub struct Live {
    known: Known,
    twin: Twin,
}

/// Of every device of this node.
pub async fn live(db: &Db) -> Result<BTreeMap<DeviceId, Live>, DbError> {
    let all = db.call(|connection| store::all(connection)).await?;
    Ok(all.into_iter().map(|(id, (known, twin))| (id, Live { known, twin })).collect())
}

impl Live {
    /// Puts it in the place of what the cloud last said of the same; what only the cloud says stays.
    pub fn lay_over(&self, device: &mut Device) {
        let mut status = LiveStatus::read(device.status.as_ref()).unwrap_or_default();
        if !self.known.state.is_empty() {
            status.state = Some(self.known.state.clone());
        }
        if !self.known.last_online.is_empty() {
            status.last_online_time = Some(self.known.last_online.clone());
        }
        status.twins = self.twins();
        if let Ok(status) = status.write() {
            device.status = Some(status);
        }
    }

    fn twins(&self) -> Vec<LiveTwin> {
        let value = |half: &Option<Half>, kind: &str| {
            half.as_ref().map(|half| TwinValue {
                value: half.value.clone(),
                metadata: BTreeMap::from([
                    ("timestamp".to_owned(), half.at_ms.to_string()),
                    ("type".to_owned(), kind.to_owned()),
                ]),
            })
        };
        let properties = self.twin.iter().filter(|(_, property)| property.kind != DELETED);
        properties
            .map(|(name, property)| {
                let twin = ShownTwin {
                    property_name: name.clone(),
                    reported: value(&property.actual, &property.kind),
                    observed_desired: value(&property.expected, &property.kind),
                };
                LiveTwin { twin, ..LiveTwin::default() }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::merge::{self, Alphabet};
    use super::*;

    #[test]
    fn what_is_known_here_stands_before_what_the_cloud_said() {
        let mut twin = Twin::new();
        let told = json!({"heat": {"actual": {"value": "25.3"}, "metadata": {"type": "float"}}, "gone": {"actual": {"value": "1"}}});
        merge::update(&mut twin, &serde_json::from_value(told).unwrap(), Alphabet::Open, 7).unwrap();
        twin.get_mut("gone").unwrap().kind = DELETED.into();
        let known =
            Known { state: "online".into(), last_online: "2026-01-31T12:00:00Z".into(), ..Known::default() };
        let mut device: Device = serde_json::from_value(json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": "oven-1"}, "spec": {},
            "status": {"state": "unknown", "twins": [{"propertyName": "old"}], "extensions": {"by": "others"}},
        }))
        .unwrap();
        Live { known, twin }.lay_over(&mut device);
        assert_eq!(
            serde_json::to_value(device.status).unwrap(),
            json!({
                "state": "online", "lastOnlineTime": "2026-01-31T12:00:00Z", "extensions": {"by": "others"},
                "twins": [{"propertyName": "heat",
                           "reported": {"value": "25.3", "metadata": {"timestamp": "7", "type": "float"}}}],
            })
        );
    }
}

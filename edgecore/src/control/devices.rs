//! Devices of this machine with their twins as they are now.

use ke_api::device::Device;
use ke_api::selector::Selector;

use super::Sources;
use super::refused::Refused;
use crate::device_twin;
use crate::meta_manager::DeviceNews;

/// Of devices.
pub(super) const API_VERSION: &str = "devices.kubeedge.io/v1beta1";

impl Sources {
    pub(super) async fn devices(
        &self,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> Result<Vec<Device>, Refused> {
        let held = self.meta.devices().await.map_err(|error| Refused::broken(&error))?;
        let mut live = device_twin::live(&self.db).await.map_err(|error| Refused::broken(&error))?;
        let mut devices = Vec::new();
        for news in held {
            let DeviceNews::Device(id, Some(device)) = news else { continue };
            let is_meant = namespace.is_none_or(|namespace| id.namespace.as_str() == namespace);
            if !is_meant || !selector.matches(device.metadata.labels.as_ref()) {
                continue;
            }
            let mut device = device.as_ref().clone();
            if let Some(live) = live.remove(&id) {
                live.lay_over(&mut device);
            }
            devices.push(device);
        }
        Ok(devices)
    }

    pub(super) async fn device(&self, namespace: &str, name: &str) -> Result<Device, Refused> {
        let devices = self.devices(Some(namespace), &Selector::default()).await?;
        let found = devices.into_iter().find(|device| device.metadata.name.as_deref() == Some(name));
        found.ok_or_else(|| {
            Refused::not_found(format!("this node has no device {name} in namespace {namespace}"))
        })
    }
}

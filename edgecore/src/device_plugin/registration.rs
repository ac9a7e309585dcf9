//! What plugins call: `Register` at `kubelet.sock`. Checks what they say; `Devices` does the rest.

use std::path::{Component, Path, PathBuf};

use ke_kubelet::device_plugin as api;
use ke_kubelet::device_plugin::registration_server::Registration;
use tonic::{Request, Response, Status};

use super::Devices;
use crate::resource_name::is_extended_resource;

/// The only version there is.
pub(super) const VERSION: &str = "v1beta1";

/// The service.
pub(super) struct Desk {
    pub(super) devices: Devices,
    /// Where plugins' sockets lie.
    pub(super) folder: PathBuf,
}

#[tonic::async_trait]
impl Registration for Desk {
    async fn register(&self, request: Request<api::RegisterRequest>) -> Result<Response<api::Empty>, Status> {
        let request = request.into_inner();
        let registered = match check(&request, &self.folder) {
            Ok(socket) => self.devices.register(&request.resource_name, socket).await,
            Err(why) => Err(why),
        };
        match registered {
            Ok(()) => Ok(Response::new(api::Empty {})),
            Err(why) => {
                tracing::warn!(resource = request.resource_name, endpoint = request.endpoint, %why, "a device plugin is not registered");
                Err(Status::invalid_argument(why))
            }
        }
    }
}

/// The plugin's socket, if all it says is in order.
fn check(request: &api::RegisterRequest, folder: &Path) -> Result<PathBuf, String> {
    if request.version != VERSION {
        return Err(format!(
            "requested API version {:?} is not supported by kubelet. Supported version is {VERSION:?}",
            request.version
        ));
    }
    if !is_extended_resource(&request.resource_name) {
        return Err(format!(
            "the ResourceName {:?} is invalid: expected a name such as vendor.com/gpu, not below kubernetes.io",
            request.resource_name
        ));
    }
    let endpoint = Path::new(&request.endpoint);
    let is_below = endpoint.components().all(|part| matches!(part, Component::Normal(_)));
    if request.endpoint.is_empty() || !is_below {
        return Err(format!(
            "the endpoint {:?} is no file name: expected the plugin's socket in {}",
            request.endpoint,
            folder.display()
        ));
    }
    Ok(folder.join(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_plugins_say_is_checked() {
        let check = |version: &str, name: &str, endpoint: &str, expected: Result<&str, &str>| {
            let request = api::RegisterRequest {
                version: version.into(),
                resource_name: name.into(),
                endpoint: endpoint.into(),
                options: None,
            };
            match (check(&request, Path::new("/p")), expected) {
                (Ok(socket), Ok(expected)) => assert_eq!(socket, Path::new(expected)),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (found, _) => panic!("{name} {endpoint}: {found:?}"),
            }
        };
        check("v1beta1", "vendor.com/gpu", "dp.1", Ok("/p/dp.1"));
        check("v1beta1", "vendor.com/gpu_A.b-c", "sub/dp.sock", Ok("/p/sub/dp.sock"));
        check("v1alpha", "vendor.com/gpu", "dp.1", Err("version \"v1alpha\" is not supported"));
        for name in ["", "gpu", "cpu", "kubernetes.io/gpu", "a.kubernetes.io/gpu", "requests.v.com/gpu"] {
            check("v1beta1", name, "dp.1", Err("is invalid"));
        }
        for name in ["v.com/", "/gpu", "v.com/gpu/more", "V.com/gpu", "v.com/g pu", "-v.com/gpu"] {
            check("v1beta1", name, "dp.1", Err("is invalid"));
        }
        for endpoint in ["", "/dp.1", "../dp.1", "sub/../../dp.1", "."] {
            check("v1beta1", "vendor.com/gpu", endpoint, Err("is no file name"));
        }
    }
}

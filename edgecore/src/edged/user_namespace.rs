//! `hostUsers: false`: a Pod whose root is nobody on the machine.
//!
//! Which ids of the machine it has is kept beside its volumes (`volumes/user_ids.rs`), so that every start finds the same.
//! Who owns a file that the Pod sees is mapped by the runtime, mount by mount. Called by `hands.rs`.

use k8s_openapi::api::core::v1::Pod;
use ke_cri::v1;

use super::failure_reason::FailureReason;
use super::hands::{Failure, Hands};
use super::pod_files::IdRange;
use super::runtime_handler::lacks_user_namespaces;

impl Hands {
    /// Gives a Pod that wants them users of its own. `new`: the handler, where the sandbox is still to be made; one that
    /// is there was asked then.
    pub(super) async fn give_users(
        &self,
        pod: &Pod,
        new: Option<&str>,
        config: &mut v1::PodSandboxConfig,
    ) -> Result<(), Failure> {
        if pod.spec.as_ref().and_then(|spec| spec.host_users) != Some(false) {
            return Ok(());
        }
        let reason = match new {
            Some(_) => FailureReason::FailedCreatePodSandBox,
            None => FailureReason::CreateContainerConfigError,
        };
        let what = "Failed to create pod sandbox";
        if let Some(handler) = new {
            let status = self.runtime.status().await.map_err(|error| Failure::of(reason, what, error))?;
            if let Some(why) = lacks_user_namespaces(&status, handler) {
                return Err(Failure::new(reason, format!("{what}: {why}")));
            }
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let ids = match new {
            Some(_) => self.files.own_ids(uid).await.map(Some),
            // None were given: its sandbox was made by an edgecore that knew nothing of this.
            None => self.files.given_ids(uid).await,
        };
        let ids =
            ids.map_err(|error| Failure::new(reason, format!("{what}: create user namespace: {error}")))?;
        if let Some(options) = namespaces(config) {
            options.userns_options = ids.map(user_namespace);
        }
        Ok(())
    }

    /// The container has the users of its sandbox, and sees the owners of all that is mounted through them.
    pub(super) fn share_users(sandbox: &v1::PodSandboxConfig, config: &mut v1::ContainerConfig) {
        let of_sandbox = sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let Some(users) = of_sandbox.and_then(|it| it.namespace_options.as_ref()?.userns_options.clone())
        else {
            return;
        };
        for mount in &mut config.mounts {
            mount.uid_mappings.clone_from(&users.uids);
            mount.gid_mappings.clone_from(&users.gids);
        }
        let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        if let Some(options) = security.and_then(|security| security.namespace_options.as_mut()) {
            options.userns_options = Some(users);
        }
    }
}

fn namespaces(config: &mut v1::PodSandboxConfig) -> Option<&mut v1::NamespaceOption> {
    config.linux.as_mut()?.security_context.as_mut()?.namespace_options.as_mut()
}

fn user_namespace(ids: IdRange) -> v1::UserNamespace {
    let all = vec![v1::IdMapping { host_id: ids.first, container_id: 0, length: ids.length }];
    v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: all.clone(), gids: all }
}

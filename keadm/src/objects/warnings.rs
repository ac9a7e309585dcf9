//! Pure: one sentence for each value that has no effect here although a KubeEdge user may count on it. The chart's NOTES say
//! the same.

use super::values::{KubeEdges, Values};
use super::{deployment, scalars::Switch};

impl Values {
    pub(super) fn warnings(&self) -> Vec<String> {
        let core = &self.cloud_core;
        let modules = &core.modules;
        let mut warnings = Vec::new();
        if deployment::is_kubeedges_image(self) {
            let image = deployment::image(self);
            warnings.push(format!("cloudCore.image is KubeEdge's own; {image} is installed instead."));
        }
        let privileged = core.security_context.get("privileged");
        if privileged.is_some_and(|value| value == true || value == "true") {
            warnings.push(
                "cloudCore.securityContext.privileged is ignored: cloudcore needs no privilege.".to_owned(),
            );
        }
        let parts: [(&KubeEdges, &str); 8] = [
            (
                &modules.cloud_hub.quic,
                "cloudCore.modules.cloudHub.quic is not there yet: edges connect over WebSocket.",
            ),
            (
                &modules.dynamic_controller,
                "cloudCore.modules.dynamicController is not there yet: no Kubernetes API on edge nodes.",
            ),
            (
                &modules.router,
                "cloudCore.modules.router is not there yet: Rules and RuleEndpoints have no effect.",
            ),
            (
                &modules.task_manager,
                "cloudCore.modules.taskManager is not there yet: jobs for edge nodes have no effect.",
            ),
            (&self.iptables_manager, "iptablesManager is not installed: no iptables rules are needed."),
            (
                &self.controller_manager,
                "controllerManager is not there yet: NodeGroups and EdgeApplications have no effect.",
            ),
            (
                &self.admission,
                "admission is not installed: the resource definitions and conditions of Devices say what is wrong.",
            ),
            (&self.mosquitto, "mosquitto is not installed: edgecore has an MQTT broker built in."),
        ];
        let wanted = parts.iter().filter(|(part, _)| Switch::is_on(part.enable));
        warnings.extend(wanted.map(|(_, sentence)| (*sentence).to_owned()));
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeedge_users_file_says_what_has_no_effect() {
        let file = include_str!("../../../e2e/charts/values/kubeedge.yaml");
        let (values, warnings) = Values::from_layers(&[serde_saphyr::from_str(file).unwrap()], &[]).unwrap();
        assert_eq!(warnings.len(), 10, "{warnings:?}");
        assert_eq!(values.cloud_core.modules.cloud_hub.node_limit.get(), 1000);
    }
}

{{/* Names, labels, and what more than one template must say alike. keadm builds the same objects without Helm and a test
     compares them: what is written here is written there a second time. */}}

{{- define "cloudcore.name" -}}
cloudcore
{{- end }}

{{/* Fixed: cloudcore keeps its certificates and tokens there, and edges of KubeEdge's installations expect it. */}}
{{- define "cloudcore.namespace" -}}
kubeedge
{{- end }}

{{/* Service for the API server and Prometheus. */}}
{{- define "cloudcore.internal" -}}
cloudcore-internal
{{- end }}

{{- define "cloudcore.labels" -}}
{{ toYaml .Values.cloudCore.labels }}
{{- end }}

{{- define "cloudcore.selector" -}}
k8s-app: kubeedge
kubeedge: cloudcore
{{- end }}

{{/* Whether a switch is on; KubeEdge's files have them in quotes at times. */}}
{{- define "cloudcore.on" -}}
{{ if eq (toString .) "true" }}on{{ end }}
{{- end }}

{{- define "cloudcore.check" -}}
{{- if ne .Release.Namespace "kubeedge" }}
{{- fail (printf "this chart is for the namespace kubeedge, where cloudcore keeps its certificates, not for %s: add --namespace kubeedge --create-namespace" .Release.Namespace) }}
{{- end }}
{{- end }}

{{/* Whether the image is named as KubeEdge's own, which would not understand what this chart gives it. */}}
{{- define "cloudcore.isKubeEdgesImage" -}}
{{ if has .Values.cloudCore.image.repository (list "kubeedge/cloudcore" "docker.io/kubeedge/cloudcore") }}yes{{ end }}
{{- end }}

{{- define "cloudcore.image" -}}
{{- if include "cloudcore.isKubeEdgesImage" . -}}
isthmus/cloudcore:v{{ .Chart.AppVersion }}
{{- else -}}
{{ .Values.cloudCore.image.repository }}:{{ .Values.cloudCore.image.tag | default (printf "v%s" .Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{/* Health and metrics stay on the host unless somebody outside the pod's network is to read them. */}}
{{- define "cloudcore.isMonitorLocal" -}}
{{ if and (include "cloudcore.on" .Values.cloudCore.hostNetWork) (not (include "cloudcore.on" .Values.serviceMonitor.enable)) }}yes{{ end }}
{{- end }}

{{- define "cloudcore.monitorAddress" -}}
{{- if include "cloudcore.isMonitorLocal" . -}}
127.0.0.1
{{- else if eq .Values.cloudCore.listenAddress "::" -}}
[::]
{{- else -}}
0.0.0.0
{{- end -}}
{{- end }}

{{/* One probe: path, period and such, root. */}}
{{- define "cloudcore.probe" -}}
{{- $probe := index . 1 -}}
httpGet:
  {{- if include "cloudcore.isMonitorLocal" (index . 2) }}
  host: 127.0.0.1
  {{- end }}
  path: {{ index . 0 }}
  port: monitor
periodSeconds: {{ int $probe.periodSeconds }}
timeoutSeconds: {{ int $probe.timeoutSeconds }}
failureThreshold: {{ int $probe.failureThreshold }}
{{- end }}

{{/* cloudcore.yaml. A pod is replaced when this text changes: keadm writes it the same to the letter. */}}
{{- define "cloudcore.config" -}}
{{- $core := .Values.cloudCore -}}
{{- $hub := $core.modules.cloudHub -}}
{{- $edge := $core.modules.edgeController -}}
{{- $device := $core.modules.deviceController -}}
{{- $stream := $core.modules.cloudStream -}}
apiVersion: cloudcore.config.kubeedge.io/v1alpha2
kind: CloudCore
commonConfig:
  monitorServer:
    bindAddress: "{{ include "cloudcore.monitorAddress" . }}:{{ int $core.monitor.port }}"
logging:
  format: {{ $core.logging.format }}
  level: {{ toJson $core.logging.level }}
modules:
  cloudHub:
    advertiseAddress: {{ toJson $hub.advertiseAddress }}
    dnsNames: {{ toJson $hub.dnsNames }}
    nodeLimit: {{ int $hub.nodeLimit }}
    keepaliveInterval: {{ int $hub.keepaliveInterval }}
    writeTimeout: {{ int $hub.writeTimeout }}
    edgeCertSigningDuration: {{ int $hub.edgeCertSigningDuration }}
    tokenRefreshDuration: {{ int $hub.tokenRefreshDuration }}
    authorization:
      enable: {{ $hub.authorization.enable }}
      debug: {{ $hub.authorization.debug }}
    websocket:
      enable: {{ $hub.websocket.enable }}
      address: {{ toJson $core.listenAddress }}
      port: {{ int $hub.websocket.port }}
    https:
      enable: {{ $hub.https.enable }}
      address: {{ toJson $core.listenAddress }}
      port: {{ int $hub.https.port }}
  edgeController:
    enable: {{ $edge.enable }}
    podTolerationSecs: {{ if eq (toString $edge.podTolerationSecs) "forever" }}null{{ else }}{{ int $edge.podTolerationSecs }}{{ end }}
    podCIDR:
      range: {{ toJson $edge.podCIDR.range }}
      nodeMaskSize: {{ int $edge.podCIDR.nodeMaskSize }}
  deviceController:
    enable: {{ $device.enable }}
    conversion:
      enable: {{ $device.conversion.enable }}
      address: {{ toJson $core.listenAddress }}
      port: {{ int $device.conversion.port }}
      service: "{{ if include "cloudcore.on" $device.conversion.service }}{{ include "cloudcore.namespace" . }}/{{ include "cloudcore.internal" . }}{{ end }}"
      advertise: {{ toJson $device.conversion.advertise }}
  syncController:
    enable: {{ $core.modules.syncController.enable }}
  cloudStream:
    enable: {{ $stream.enable }}
    address: {{ toJson $core.listenAddress }}
    streamPort: {{ int $stream.streamPort }}
    tunnelPort: {{ int $stream.tunnelPort }}
    kubeletPorts: {{ toJson $stream.kubeletPorts }}
    kubeletAddress: {{ toJson $stream.kubeletAddress }}
{{- end }}

{{/* One line for each value that has no effect here although a KubeEdge user may count on it. */}}
{{- define "cloudcore.warnings" -}}
{{- $core := .Values.cloudCore -}}
{{- if include "cloudcore.isKubeEdgesImage" . }}
WARNING: cloudCore.image is KubeEdge's own; {{ include "cloudcore.image" . }} is installed instead.
{{- end }}
{{- if include "cloudcore.on" $core.securityContext.privileged }}
WARNING: cloudCore.securityContext.privileged is ignored: cloudcore needs no privilege.
{{- end }}
{{- if include "cloudcore.on" $core.modules.cloudHub.quic.enable }}
WARNING: cloudCore.modules.cloudHub.quic is not there yet: edges connect over WebSocket.
{{- end }}
{{- if include "cloudcore.on" $core.modules.dynamicController.enable }}
WARNING: cloudCore.modules.dynamicController is not there yet: no Kubernetes API on edge nodes.
{{- end }}
{{- if include "cloudcore.on" $core.modules.router.enable }}
WARNING: cloudCore.modules.router is not there yet: Rules and RuleEndpoints have no effect.
{{- end }}
{{- if include "cloudcore.on" $core.modules.taskManager.enable }}
WARNING: cloudCore.modules.taskManager is not there yet: jobs for edge nodes have no effect.
{{- end }}
{{- if include "cloudcore.on" .Values.iptablesManager.enable }}
WARNING: iptablesManager is not installed: no iptables rules are needed.
{{- end }}
{{- if include "cloudcore.on" .Values.controllerManager.enable }}
WARNING: controllerManager is not there yet: NodeGroups and EdgeApplications have no effect.
{{- end }}
{{- if include "cloudcore.on" .Values.admission.enable }}
WARNING: admission is not installed: the resource definitions and conditions of Devices say what is wrong.
{{- end }}
{{- if include "cloudcore.on" .Values.mosquitto.enable }}
WARNING: mosquitto is not installed: edgecore has an MQTT broker built in.
{{- end }}
{{- end }}

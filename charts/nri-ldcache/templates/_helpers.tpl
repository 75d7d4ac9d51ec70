{{/* Names, labels, and what the pods have in common. */}}

{{- define "nri-ldcache.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* 50 characters at most: the longest suffix is -cleanup-wait, and a name is a label, which has 63. */}}
{{- define "nri-ldcache.fullname" -}}
{{- $name := include "nri-ldcache.name" . -}}
{{- $default := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $default | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "nri-ldcache.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{- define "nri-ldcache.selector" -}}
app.kubernetes.io/name: {{ include "nri-ldcache.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nri-ldcache.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "nri-ldcache.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "nri-ldcache.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "nri-ldcache.fullname" .) "default") -}}
{{- end -}}

{{- define "nri-ldcache.cleanupServiceAccountName" -}}
{{- .Values.serviceAccount.create | ternary (printf "%s-cleanup" (include "nri-ldcache.fullname" .)) (include "nri-ldcache.serviceAccountName" .) -}}
{{- end -}}

{{- define "nri-ldcache.image" -}}
{{- $image := .Values.image -}}
{{- $image.repository -}}
{{- with $image.digest }}@{{ . }}{{ else }}:{{ $image.tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* What every pod is: who it is not, and what it may not. */}}
{{- define "nri-ldcache.pod" -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- if semverCompare ">=1.33-0" .root.Capabilities.KubeVersion.Version }}
hostUsers: true # the socket and the directories are root's, and root of a user namespace is somebody else
{{- end }}
{{- with .root.Values.seLinuxOptions }}
securityContext:
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* On which nodes the agent is, and the cleanup after it. */}}
{{- define "nri-ldcache.scheduling" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What every container has. */}}
{{- define "nri-ldcache.container" -}}
image: {{ include "nri-ldcache.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A probe of .path with what the values say. */}}
{{- define "nri-ldcache.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
{{ toYaml .probe }}
{{- end -}}

{{/* The settings of nri-ldcache run. In the environment, so that `kubectl exec … /nri-ldcache doctor` has them, too. */}}
{{- define "nri-ldcache.settings" -}}
NRI_LDCACHE_HOST_ROOT: /host
NRI_LDCACHE_SOCKET_PATH: {{ .Values.nri.socketPath | quote }}
NRI_LDCACHE_NAME: {{ .Values.nri.name | quote }}
NRI_LDCACHE_IDX: {{ .Values.nri.index | quote }}
{{ if .Values.hook.install -}}
NRI_LDCACHE_INSTALL_DIR: {{ .Values.hook.installDir | quote }}
{{- else -}}
NRI_LDCACHE_HOOK_PATH: {{ .Values.hook.path | quote }}
{{- end }}
NRI_LDCACHE_REPORT_DIR: {{ .Values.hook.reportDir | quote }}
NRI_LDCACHE_ENGINE: {{ .Values.hook.engine | quote }}
NRI_LDCACHE_LDCONFIG_PATH: {{ .Values.hook.ldconfigPath | quote }}
NRI_LDCACHE_TIMEOUT: {{ .Values.hook.timeout | quote }}
NRI_LDCACHE_ON_FAILURE: {{ .Values.hook.onFailure | quote }}
NRI_LDCACHE_SANDBOX: {{ .Values.hook.sandbox | quote }}
NRI_LDCACHE_MODE: {{ .Values.policy.mode | quote }}
NRI_LDCACHE_ANNOTATION: {{ .Values.policy.annotation | quote }}
NRI_LDCACHE_EXCLUDED_NAMESPACES: {{ join "," .Values.policy.excludedNamespaces | quote }}
NRI_LDCACHE_FOLDERS: {{ join "," .Values.policy.folders | quote }}
NRI_LDCACHE_LOG_LEVEL: {{ .Values.log.level | quote }}
NRI_LDCACHE_LOG_FORMAT: {{ .Values.log.format | quote }}
NRI_LDCACHE_HTTP_ADDRESS: {{ printf ":%d" (int .Values.http.port) | quote }}
{{- end -}}

{{/* Host directories that a pod mounts below /host at their own paths, each once. */}}
{{- define "nri-ldcache.cleanupDirs" -}}
{{- list (dir .Values.hook.installDir) (dir .Values.hook.reportDir) | uniq | toJson -}}
{{- end -}}

{{/* SecurityContextConstraints for the pods of one service account. */}}
{{- define "nri-ldcache.scc" -}}
allowPrivilegedContainer: false
allowPrivilegeEscalation: false
allowHostDirVolumePlugin: true
allowHostNetwork: false
allowHostPID: false
allowHostIPC: false
allowHostPorts: false
readOnlyRootFilesystem: true
requiredDropCapabilities: [ALL]
allowedCapabilities: []
defaultAddCapabilities: []
volumes: [hostPath, configMap, secret, emptyDir, projected, downwardAPI]
runAsUser: {type: RunAsAny}
fsGroup: {type: RunAsAny}
supplementalGroups: {type: RunAsAny}
seLinuxContext: {type: RunAsAny}
seccompProfiles: [runtime/default]
groups: []
{{- end -}}

{{/* What the schema can't say. */}}
{{- define "nri-ldcache.validate" -}}
{{- $hook := .Values.hook -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: say where your nodes find the image, e.g. --set image.repository=registry.example/gpu/nri-ldcache" -}}
{{- end -}}
{{- if and (not $hook.install) (not $hook.path) -}}
{{- fail "hook.install is false, and hook.path is empty: say where the program is on the nodes, e.g. --set hook.path=/usr/local/bin/nri-ldcache" -}}
{{- end -}}
{{- if and $hook.install $hook.path -}}
{{- fail (printf "hook.path is %s, but hook.install is true: set hook.install=false to use what is there, or hook.installDir to install elsewhere" $hook.path) -}}
{{- end -}}
{{- $install := printf "%s/" $hook.installDir -}}
{{- $report := printf "%s/" $hook.reportDir -}}
{{- if and $hook.install (or (hasPrefix $install $report) (hasPrefix $report $install)) -}}
{{- fail (printf "hook.installDir (%s) and hook.reportDir (%s) lie in each other: give each a directory of its own" $hook.installDir $hook.reportDir) -}}
{{- end -}}
{{- $socket := printf "%s/" (dir .Values.nri.socketPath) -}}
{{- if and $hook.install (hasPrefix $socket $install) -}}
{{- fail (printf "hook.installDir (%s) is in the runtime's directory %s: give it a directory of its own" $hook.installDir $socket) -}}
{{- end -}}
{{- $update := .Values.updateStrategy -}}
{{- with $update.rollingUpdate -}}
{{- if eq $update.type "OnDelete" -}}
{{- fail "updateStrategy.rollingUpdate means nothing with updateStrategy.type=OnDelete: set it to null" -}}
{{- end -}}
{{- if and (has (toString .maxSurge) (list "0" "0%" "<nil>")) (has (toString .maxUnavailable) (list "0" "0%")) -}}
{{- fail "updateStrategy.rollingUpdate: maxSurge and maxUnavailable can't both be 0, as no pod could ever be replaced" -}}
{{- end -}}
{{- end -}}
{{- range $key := concat (keys .Values.commonLabels) (keys .Values.podLabels) | sortAlpha -}}
{{- if or (hasPrefix "app.kubernetes.io/" $key) (hasPrefix "helm.sh/" $key) -}}
{{- fail (printf "commonLabels and podLabels: %s is the chart's own" $key) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.securityContext.privileged (eq (toString .Values.securityContext.allowPrivilegeEscalation) "false") -}}
{{- fail "securityContext.privileged needs allowPrivilegeEscalation; nothing here needs either" -}}
{{- end -}}
{{- end -}}

{{/* A pod that only asks others: it may be on any node, and mounts nothing of it. */}}
{{- define "nri-ldcache.waiting" -}}
restartPolicy: Never
nodeSelector:
  kubernetes.io/os: linux
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

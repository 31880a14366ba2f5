{{- define "referee.name" -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "referee.selector" -}}
app.kubernetes.io/name: referee
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "referee.labels" -}}
{{ include "referee.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "referee.image" -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The container that changes a node, for a list of the chart's root and a mode. Its name is
the same in both modes: Helm then finds it again after the hook has changed it. */ -}}
{{- define "referee.container" -}}
{{- $mode := index . 1 }}
{{- with index . 0 -}}
# Changes the node, and ends. The daemon it starts is systemd's: this pod may
# come and go, and no volume notices.
name: node
image: {{ include "referee.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command:
  - /referee
  - {{ $mode }}
  - --root=/host
  {{- if eq $mode "install" }}
  - --prefix={{ .Values.install.prefix }}
  - --kubelet={{ .Values.install.kubelet }}
  - --crictl={{ .Values.install.crictl }}
  {{- with .Values.install.kubeletConfigDir }}
  - --kubelet-config-dir={{ . }}
  {{- end }}
  {{- if .Values.config }}
  - --with-config=/config/config.toml
  {{- end }}
  {{- else }}
  - --force={{ .Values.uninstall.force }}
  - --purge={{ .Values.uninstall.purge }}
  - --drain-timeout={{ .Values.uninstall.drainTimeout }}
  {{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  - name: host
    mountPath: /host
    mountPropagation: HostToContainer
  {{- if .Values.config }}
  - name: config
    mountPath: /config
    readOnly: true
  {{- end }}
{{- end }}
{{- end }}

{{- define "referee.hook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- /* What makes a DaemonSet that installs one that uninstalls, as a merge patch (RFC 7396). */ -}}
{{- define "referee.removal" -}}
{{- $container := include "referee.container" (list . "uninstall") | fromYaml -}}
{{- dict "spec" (dict "template" (dict "spec" (dict "initContainers" (list $container)))) | toJson -}}
{{- end }}

{{- define "referee.kubectl" -}}
image: {{ .Values.uninstall.kubectlImage }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsUser: 65535
  runAsNonRoot: true
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end }}

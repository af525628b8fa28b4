{{- define "ray-rs.name" -}}
{{- if contains "ray-rs" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-ray-rs" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "ray-rs.selector" -}}
app.kubernetes.io/name: ray-rs
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ray-rs.labels" -}}
{{ include "ray-rs.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "ray-rs.secret" -}}
{{- default (printf "%s-token" (include "ray-rs.name" .)) .Values.token.existingSecret }}
{{- end }}

{{- define "ray-rs.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{/* What all pods have in common. */}}
{{- define "ray-rs.pod" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
automountServiceAccountToken: false
terminationGracePeriodSeconds: 60
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "ray-rs.container" -}}
image: {{ include "ray-rs.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
volumeMounts:
  # Objects lie here; a container's own /dev/shm has 64 MB.
  - {name: shm, mountPath: /dev/shm}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "ray-rs.env" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: RAY_RS_TOKEN_DIGITS
  valueFrom: {secretKeyRef: {name: {{ include "ray-rs.secret" . }}, key: token}}
# The mark says to all who join that connections are encrypted.
- name: RAY_RS_TOKEN
  value: {{ if .Values.tls }}tls-{{ end }}$(RAY_RS_TOKEN_DIGITS)
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The object store, and a little for what else lies there. */}}
{{- define "ray-rs.volumes" -}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ add (int64 .) 200000000 | quote }}}
- name: tmp
  emptyDir: {}
{{- end }}

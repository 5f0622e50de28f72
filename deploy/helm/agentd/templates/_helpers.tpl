{{/* The release's name is the name of everything: with "agentd" the result is what
     deploy/kubernetes has. At most 40 bytes are left for it, because the pods' names and
     the peers' service add to it. */}}
{{- define "agentd.name" -}}
{{- if gt (len .Release.Name) 40 }}{{ fail "agentd: the release's name must not have more than 40 bytes" }}{{ end -}}
{{- .Release.Name -}}
{{- end }}

{{- define "agentd.selector" -}}
app.kubernetes.io/name: agentd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "agentd.labels" -}}
{{ include "agentd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "agentd.meta" -}}
name: {{ include "agentd.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "agentd.labels" . | nindent 2 }}
{{- end }}

{{- define "agentd.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "agentd.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "agentd.name" .) -}}
{{- end }}

{{- define "agentd.tlsPrefix" -}}
{{- .Values.tls.secretPrefix | default (printf "%s-tls" (include "agentd.name" .)) -}}
{{- end }}

{{- define "agentd.tokensSecret" -}}
{{- .Values.auth.tokensSecret | default (printf "%s-tokens" (include "agentd.name" .)) -}}
{{- end }}

{{- define "agentd.scheme" -}}
{{- ternary "HTTP" "HTTPS" .Values.insecure -}}
{{- end }}

{{/* What the schema cannot say. */}}
{{- define "agentd.check" -}}
{{- if and .Release.IsInstall (gt (int .Values.bootstrapExpect) (int .Values.replicas)) }}
{{- fail (printf "agentd: a new cluster waits for bootstrapExpect=%d nodes and would get replicas=%d" (int .Values.bootstrapExpect) (int .Values.replicas)) }}
{{- end }}
{{- if and (not .Values.insecure) (gt (int .Values.replicas) (int .Values.tls.slots)) }}
{{- fail (printf "agentd: replicas=%d need certificates for as many nodes, and tls.slots is %d" (int .Values.replicas) (int .Values.tls.slots)) }}
{{- end }}
{{- end }}

{{- define "concord.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name, with the chart's if it is not in it. Room is left for "-headless". */}}
{{- define "concord.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "concord.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "concord.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "concord.headless" -}}
{{ include "concord.fullname" . }}-headless
{{- end -}}

{{- define "concord.selector" -}}
app.kubernetes.io/name: {{ include "concord.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "concord.labels" -}}
{{ include "concord.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "concord.scheme" -}}
{{ ternary "HTTPS" "HTTP" (ne .Values.security.tlsSecret "") }}
{{- end -}}

{{/* What would only show when the coordinator refuses to start, or when it is too late. */}}
{{- define "concord.check" -}}
{{- $security := .Values.security -}}
{{- $known := or $security.tokensSecret $security.jwksSecret $security.clientCaSecret -}}
{{- if not $security.allowInsecure -}}
{{- if not $security.tlsSecret -}}
{{- fail "security.tlsSecret names no Secret: set it, or security.allowInsecure=true where everybody may do everything" -}}
{{- end -}}
{{- if not $known -}}
{{- fail "nobody would be asked who they are: set security.tokensSecret, jwksSecret or clientCaSecret, or security.allowInsecure=true where everybody may do everything" -}}
{{- end -}}
{{- end -}}
{{- if and $security.clientCaSecret (not $security.tlsSecret) -}}
{{- fail "security.clientCaSecret needs security.tlsSecret" -}}
{{- end -}}
{{- if and $security.jwksSecret (not $security.jwtAudience) -}}
{{- fail "security.jwksSecret needs security.jwtAudience: a token for another service is none for this one" -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.store.urlSecret.name) -}}
{{- fail "replicas above 1 need a shared store: set store.urlSecret.name" -}}
{{- end -}}
{{- if ge (int .Values.shutdownGraceMs) (mul 1000 (int .Values.terminationGracePeriodSeconds)) -}}
{{- fail "shutdownGraceMs must be less than terminationGracePeriodSeconds, or the coordinator is killed while it stops" -}}
{{- end -}}
{{- end -}}

{{/* A value out of a Secret. */}}
{{- define "concord.fromSecret" -}}
valueFrom:
  secretKeyRef:
    name: {{ .name }}
    key: {{ .key }}
{{- end -}}

{{/* How a probe asks. With client certificates it cannot: the kubelet has none. */}}
{{- define "concord.probe" -}}
{{- if .root.Values.security.clientCaSecret -}}
tcpSocket:
  port: concord
{{- else -}}
httpGet:
  path: {{ .path }}
  port: concord
  scheme: {{ include "concord.scheme" .root }}
{{- end -}}
{{- end -}}

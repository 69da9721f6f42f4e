{{/* Names and labels. */}}

{{- define "leyden.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters, so that every suffix below stays within a DNS label. */}}
{{- define "leyden.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "leyden.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "leyden.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "leyden.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "leyden.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of the release; never changes between versions. */}}
{{- define "leyden.selector" -}}
app.kubernetes.io/name: {{ include "leyden.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "leyden.labels" -}}
{{ include "leyden.selector" . }}
app.kubernetes.io/part-of: leyden
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* A component's values over the defaults, as YAML. Takes (list $ component). */}}
{{- define "leyden.component" -}}
{{- $root := index . 0 -}}
{{- mergeOverwrite (deepCopy $root.Values.defaults) (deepCopy (default dict (index $root.Values (index . 1)))) | toYaml -}}
{{- end -}}

{{/* An image reference. Takes (list $ component values). */}}
{{- define "leyden.image" -}}
{{- $root := index . 0 -}}{{- $own := index . 2 -}}
{{- $repository := default (printf "%s-%s" $root.Values.image.repository (index . 1)) $own.repository -}}
{{- $tag := $own.tag | default $root.Values.image.tag | default $root.Chart.AppVersion -}}
{{- with $root.Values.image.registry }}{{ . | trimSuffix "/" }}/{{ end }}{{ $repository }}:{{ $tag }}
{{- end -}}

{{/* The claim that holds checkpoints. */}}
{{- define "leyden.claim" -}}
{{- default (printf "%s-checkpoints" (include "leyden.fullname" .)) .Values.checkpoints.existingClaim -}}
{{- end -}}

{{/* Where the registry answers inside the cluster. */}}
{{- define "leyden.registryUrl" -}}
http://{{ include "leyden.fullname" . }}-registry:8002
{{- end -}}

{{/* The models behind the gateway, as JSON: those given, else every replica of inference by name. */}}
{{- define "leyden.upstreams" -}}
{{- if .Values.gateway.upstreams -}}
{{- .Values.gateway.upstreams | toJson -}}
{{- else -}}
{{- include "leyden.replicas" . -}}
{{- end -}}
{{- end -}}

{{/* Every replica of inference by name, as JSON. */}}
{{- define "leyden.replicas" -}}
{{- $name := printf "%s-inference" (include "leyden.fullname" .) -}}
{{- $inference := include "leyden.component" (list . "inference") | fromYaml -}}
{{- $urls := list -}}
{{- range $i := until (int $inference.replicas) -}}
{{- $urls = append $urls (printf "http://%s-%d.%s:8001" $name $i $name) -}}
{{- end -}}
{{- $urls | toJson -}}
{{- end -}}

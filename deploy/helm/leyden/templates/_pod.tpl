{{/* The pod every component shares. */}}

{{- define "leyden.securityContext.pod" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "leyden.securityContext.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Port of the component's HTTP interface; empty for those that only consume. */}}
{{- define "leyden.port" -}}
{{- get (dict "gateway" "8000" "inference" "8001" "registry" "8002") . -}}
{{- end -}}

{{- define "leyden.volumes" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}{{- $values := index . 2 -}}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- if $root.Values.kafka.caSecret }}
- name: kafka-ca
  secret:
    secretName: {{ $root.Values.kafka.caSecret }}
    items: [{key: {{ $root.Values.kafka.caKey }}, path: ca.crt}]
{{- end }}
{{- if has $name (list "learner" "inference" "registry") }}
- name: checkpoints
{{- if $root.Values.checkpoints.url }}
  emptyDir: {}
{{- else }}
  persistentVolumeClaim:
    claimName: {{ include "leyden.claim" $root }}
{{- end }}
{{- end }}
{{- if eq $name "learner" }}
- name: shared-memory
  emptyDir: {medium: Memory}
{{- end }}
{{- if and $root.Values.catalogue.existingConfigMap (has $name (list "runner" "reward")) }}
- name: user-code
  configMap: {name: {{ $root.Values.catalogue.existingConfigMap }}}
{{- end }}
{{- if and (eq $name "gateway") $root.Values.gateway.spool.existingClaim }}
- name: spool
  persistentVolumeClaim:
    claimName: {{ $root.Values.gateway.spool.existingClaim }}
{{- end }}
{{- if and (eq $name "inference") $root.Values.inference.vllm.enabled }}
- name: vllm-tmp
  emptyDir: {}
- name: vllm-versions
  emptyDir: {}
- name: vllm-memory
  emptyDir: {medium: Memory}
- name: vllm-inside
  configMap: {name: {{ include "leyden.fullname" $root }}-vllm}
{{- end }}
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "leyden.volumeMounts" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}{{- $values := index . 2 -}}
- {name: tmp, mountPath: /tmp}
{{- if $root.Values.kafka.caSecret }}
- {name: kafka-ca, mountPath: /etc/leyden/kafka, readOnly: true}
{{- end }}
{{- if has $name (list "learner" "inference" "registry") }}
- {name: checkpoints, mountPath: {{ $root.Values.checkpoints.mountPath }}, readOnly: {{ not (or (eq $name "learner") $root.Values.checkpoints.url) }}}
{{- end }}
{{- if eq $name "learner" }}
- {name: shared-memory, mountPath: /dev/shm}
{{- end }}
{{- if and $root.Values.catalogue.existingConfigMap (has $name (list "runner" "reward")) }}
- {name: user-code, mountPath: /app/user, readOnly: true}
{{- end }}
{{- if and (eq $name "gateway") $root.Values.gateway.spool.existingClaim }}
- {name: spool, mountPath: {{ $root.Values.gateway.spool.mountPath }}}
{{- end }}
{{- if and (eq $name "inference") $root.Values.inference.vllm.enabled }}
- {name: vllm-versions, mountPath: /var/cache/leyden}
{{- end }}
{{- with $values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A pod template. Takes (list $ component values). */}}
{{- define "leyden.pod" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}{{- $values := index . 2 -}}
metadata:
  labels:
    {{- include "leyden.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $name }}
    leyden.dev/metrics: "true"
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/settings: {{ include "leyden.settings" $root | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "leyden.serviceAccountName" $root }}
  automountServiceAccountToken: false
  # else a Service named leyden-gateway would set LEYDEN_GATEWAY_PORT, which is a setting of ours
  enableServiceLinks: false
  securityContext:
    {{- include "leyden.securityContext.pod" $root | nindent 4 }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ $name }}
      image: {{ include "leyden.image" (list $root $name $values.image) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        {{- include "leyden.securityContext.container" $root | nindent 8 }}
      envFrom:
        - configMapRef: {name: {{ include "leyden.fullname" $root }}}
        {{- if and $root.Values.checkpoints.url $root.Values.checkpoints.existingSecret (has $name (list "learner" "inference" "registry")) }}
        - secretRef: {name: {{ $root.Values.checkpoints.existingSecret }}}
        {{- end }}
      {{- $env := include "leyden.env" (list $root $name) | trim }}
      {{- if or $env $values.env $values.extraEnv }}
      env:
        {{- with $env }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- range $key, $value := $values.env }}
        - name: {{ $key }}
          value: {{ $value | toString | quote }}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      ports:
        {{- with include "leyden.port" $name }}
        - {name: http, containerPort: {{ . }}}
        {{- end }}
        - {name: ops, containerPort: 9100}
      startupProbe:
        httpGet: {path: /healthz, port: ops}
        periodSeconds: 2
        failureThreshold: 90
      livenessProbe:
        httpGet: {path: /healthz, port: ops}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: ops}
        periodSeconds: 5
        timeoutSeconds: 5
      {{- if include "leyden.port" $name }}
      lifecycle:
        preStop: {sleep: {seconds: 5}}
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        {{- include "leyden.volumeMounts" (list $root $name $values) | nindent 8 }}
    {{- if and (eq $name "inference") $root.Values.inference.vllm.enabled }}
    {{- include "leyden.vllm" (list $root $values) | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "leyden.volumes" (list $root $name $values) | nindent 4 }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
  {{- with index $values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- range $key := list "priorityClassName" "runtimeClassName" }}
  {{- with index $values $key }}
  {{ $key }}: {{ . }}
  {{- end }}
  {{- end }}
{{- end -}}

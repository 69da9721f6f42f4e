{{/* Settings as environment variables: what is the same everywhere, what is secret, what one component needs. */}}

{{/* Plain settings of every component, as a YAML map; the ConfigMap's data and the hook's environment. */}}
{{- define "leyden.settings" -}}
LEYDEN_KAFKA_BOOTSTRAP: {{ required "kafka.bootstrap is required: host:port[,host:port…]" .Values.kafka.bootstrap | quote }}
LEYDEN_KAFKA_SECURITY_PROTOCOL: {{ .Values.kafka.securityProtocol | quote }}
LEYDEN_KAFKA_SASL_MECHANISM: {{ .Values.kafka.saslMechanism | quote }}
LEYDEN_KAFKA_IDEMPOTENT: {{ .Values.kafka.idempotent | quote }}
LEYDEN_KAFKA_COMPRESSION: {{ .Values.kafka.compression | quote }}
LEYDEN_KAFKA_MAX_MESSAGE_BYTES: {{ .Values.kafka.maxMessageBytes | int64 | quote }}
LEYDEN_KAFKA_REPLICATION_FACTOR: {{ .Values.topics.replicationFactor | quote }}
{{- if .Values.kafka.caSecret }}
LEYDEN_KAFKA_CA_FILE: /etc/leyden/kafka/ca.crt
{{- end }}
LEYDEN_OPS_PORT: "9100"
LEYDEN_LOG_LEVEL: {{ .Values.log.level | quote }}
LEYDEN_CATALOGUE_PATH: {{ .Values.catalogue.path | toJson | quote }}
LEYDEN_CATALOGUE_REWARDS: {{ .Values.catalogue.rewards | toJson | quote }}
LEYDEN_CATALOGUE_RULES: {{ .Values.catalogue.rules | toJson | quote }}
{{- with .Values.otlpEndpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Kafka's credentials, as entries of `env`. */}}
{{- define "leyden.env.kafka" -}}
{{- if hasPrefix "SASL" .Values.kafka.securityProtocol }}
{{- $secret := required "kafka.existingSecret is required for SASL" .Values.kafka.existingSecret }}
- name: LEYDEN_KAFKA_SASL_USERNAME
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ .Values.kafka.usernameKey }}}}
- name: LEYDEN_KAFKA_SASL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ .Values.kafka.passwordKey }}}}
{{- end }}
{{- end -}}

{{- define "leyden.env.database" -}}
- name: LEYDEN_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "database.existingSecret is required: a Secret with the URL of the database" .Values.database.existingSecret }}
      key: {{ .Values.database.urlKey }}
- name: LEYDEN_DATABASE_POOL_SIZE
  value: {{ .Values.database.poolSize | quote }}
{{- end -}}

{{- define "leyden.env.token" -}}
- name: LEYDEN_TOKEN_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ required "token.existingSecret is required: a Secret with at least 32 random characters" .Values.token.existingSecret }}
      key: {{ .Values.token.secretKey }}
{{- end -}}

{{/* Keys of callers and of external servers, each from a Secret: the settings name the variables that hold them. */}}
{{- define "leyden.env.gateway" -}}
{{- $grants := dict -}}{{- $externals := dict -}}
{{- range $name := keys .apiKeys | sortAlpha }}
{{- $key := index $.apiKeys $name }}
{{- $variable := printf "GATEWAY_API_KEY_%d" (len $grants) }}
{{- $_ := set $grants $name (merge (dict "key_env" $variable) (omit $key "existingSecret" "secretKey")) }}
- name: {{ $variable }}
  valueFrom: {secretKeyRef: {name: {{ $key.existingSecret }}, key: {{ $key.secretKey }}}}
{{- end }}
{{- range $name := keys .externals | sortAlpha }}
{{- $server := index $.externals $name }}
{{- $plain := omit $server "existingSecret" "secretKey" }}
{{- if $server.existingSecret }}
{{- $variable := printf "GATEWAY_EXTERNAL_KEY_%d" (len $externals) }}
{{- $plain = merge (dict "api_key_env" $variable) $plain }}
- name: {{ $variable }}
  valueFrom: {secretKeyRef: {name: {{ $server.existingSecret }}, key: {{ $server.secretKey }}}}
{{- end }}
{{- $_ := set $externals $name $plain }}
{{- end }}
{{- if $grants }}
- name: LEYDEN_GATEWAY_API_KEYS
  value: {{ $grants | toJson | quote }}
{{- end }}
{{- if $externals }}
- name: LEYDEN_GATEWAY_EXTERNALS
  value: {{ $externals | toJson | quote }}
{{- end }}
{{- with .admin.existingSecret }}
- name: LEYDEN_GATEWAY_ADMIN_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.admin.secretKey }}}}
{{- end }}
{{- if .spool.existingClaim }}
- name: LEYDEN_GATEWAY_SPOOL_DIR
  value: {{ .spool.mountPath | quote }}
{{- end }}
{{- end -}}

{{/* What one component needs beside the ConfigMap, as entries of `env`. Takes (list $ component). */}}
{{- define "leyden.env" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}
{{- include "leyden.env.kafka" $root }}
{{- if has $name (list "runner" "registry" "learner") }}
{{ include "leyden.env.database" $root }}
{{- end }}
{{- if has $name (list "gateway" "runner") }}
{{ include "leyden.env.token" $root }}
{{- end }}
{{- if eq $name "gateway" }}
- name: LEYDEN_GATEWAY_REPLICAS
  value: {{ include "leyden.upstreams" $root | quote }}
{{ include "leyden.env.gateway" $root.Values.gateway | trim }}
{{- else if eq $name "runner" }}
- name: LEYDEN_RUNNER_GATEWAY_URL
  value: http://{{ include "leyden.fullname" $root }}-gateway:{{ $root.Values.gateway.service.port }}
- name: LEYDEN_RUNNER_AGENTS
  value: {{ required "agents is required while the runner is enabled: at least one, for instance {default: {callable: \"my.agent:solve\"}}" $root.Values.agents | toJson | quote }}
{{- else if and (eq $name "inference") $root.Values.inference.vllm.enabled }}
- name: LEYDEN_INFERENCE_ENGINE
  value: vllm
- name: LEYDEN_INFERENCE_POLICIES
  value: {{ list (required "policy is required: the name of the policy that vLLM serves" $root.Values.policy) | toJson | quote }}
- name: LEYDEN_INFERENCE_VLLM__URLS
  value: {{ list (printf "http://127.0.0.1:%v" $root.Values.inference.vllm.port) | toJson | quote }}
- name: LEYDEN_INFERENCE_VLLM__START_TIMEOUT_S
  value: "1800"
- name: LEYDEN_INFERENCE_CACHE_DIR
  value: /var/cache/leyden
- name: LEYDEN_INFERENCE_VLLM__MAX_LORAS
  value: {{ $root.Values.inference.vllm.maxLoras | quote }}
- name: LEYDEN_INFERENCE_VLLM__PEERS
  value: {{ include "leyden.replicas" $root | quote }}
{{- else if eq $name "learner" }}
- name: LEYDEN_LEARNER_POLICY
  value: {{ required "policy is required: the name of the policy to train" $root.Values.policy | quote }}
- name: LEYDEN_LEARNER_REGISTRY_URL
  value: {{ include "leyden.registryUrl" $root | quote }}
{{- if (include "leyden.component" (list $root "inference") | fromYaml).enabled }}
- name: LEYDEN_LEARNER_SERVERS
  value: {{ include "leyden.replicas" $root | quote }}
{{- end }}
- name: LEYDEN_LEARNER_CHECKPOINT_DIR
  value: {{ $root.Values.checkpoints.mountPath | quote }}
{{- with $root.Values.checkpoints.url }}
- name: LEYDEN_LEARNER_CHECKPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- else if and (eq $name "registry") $root.Values.checkpoints.url }}
- name: LEYDEN_REGISTRY_ARTIFACT_URL
  value: {{ $root.Values.checkpoints.url | quote }}
{{- end }}
{{- if and (eq $name "inference") $root.Values.checkpoints.url (not $root.Values.inference.vllm.enabled) }}
- name: LEYDEN_INFERENCE_CACHE_DIR
  value: {{ $root.Values.checkpoints.mountPath | quote }}
{{- end }}
{{- end -}}

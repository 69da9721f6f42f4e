{{/* vLLM beside the inference service, on the pod's loopback only. Takes (list $ component values). */}}
{{- define "leyden.vllm" -}}
{{- $root := index . 0 -}}{{- $values := index . 1 -}}{{- $vllm := $root.Values.inference.vllm -}}
{{- $health := printf "import urllib.request as r; r.urlopen('http://127.0.0.1:%v/health', timeout=5)" $vllm.port -}}
- name: vllm
  image: {{ $vllm.image.repository }}:{{ $vllm.image.tag }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  securityContext:
    {{- include "leyden.securityContext.container" $root | nindent 4 }}
  command: [vllm, serve]
  args:
    - {{ required "inference.vllm.model is required: the folder of a version of the policy, on the checkpoints volume" $vllm.model | quote }}
    - --host=127.0.0.1
    - --port={{ $vllm.port }}
    - --served-model-name=leyden
    - --worker-extension-cls=leyden_vllm.Weights
    - --disable-uvicorn-access-log
    {{- if $vllm.maxLoras }}
    - --enable-lora
    - --max-loras={{ $vllm.maxLoras }}
    {{- end }}
    {{- range $vllm.args }}
    - {{ . | quote }}
    {{- end }}
  env:
    - {name: VLLM_SERVER_DEV_MODE, value: "1"}
    - {name: VLLM_ALLOW_RUNTIME_LORA_UPDATING, value: "True"}
    - {name: VLLM_NO_USAGE_STATS, value: "1"}
    - {name: HF_HUB_OFFLINE, value: "1"}
    - {name: HOME, value: /tmp}
    - {name: PYTHONPATH, value: /opt/leyden-vllm}
    {{- range $key, $value := $vllm.env }}
    - name: {{ $key }}
      value: {{ $value | toString | quote }}
    {{- end }}
  startupProbe:
    exec: {command: [python3, -c, {{ $health | quote }}]}
    periodSeconds: 10
    timeoutSeconds: 10
    failureThreshold: 180
  livenessProbe:
    exec: {command: [python3, -c, {{ $health | quote }}]}
    periodSeconds: 30
    timeoutSeconds: 10
    failureThreshold: 4
  resources:
    {{- toYaml $vllm.resources | nindent 4 }}
  volumeMounts:
    - {name: vllm-tmp, mountPath: /tmp}
    - {name: vllm-memory, mountPath: /dev/shm}
    - {name: vllm-inside, mountPath: /opt/leyden-vllm, readOnly: true}
    - {name: vllm-versions, mountPath: /var/cache/leyden, readOnly: true}
    - {name: checkpoints, mountPath: {{ $root.Values.checkpoints.mountPath }}, readOnly: true}
    {{- with $values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

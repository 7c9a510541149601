{{- define "erratad.name" -}}
{{- printf "%s" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "erratad.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
app.kubernetes.io/name: erratad
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Takes a dict of root and component. */}}
{{- define "erratad.selector" -}}
app.kubernetes.io/name: erratad
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Pods on different nodes where possible. Takes a dict of the user's affinity, which replaces it, and of labels. */}}
{{- define "erratad.affinity" -}}
{{- if .given -}}
{{- toYaml .given -}}
{{- else -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "erratad.selector" .labels | nindent 12 }}
{{- end -}}
{{- end -}}

{{- define "erratad.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The daemon's configuration: the user's, with what only the chart can know. */}}
{{- define "erratad.config" -}}
{{- $name := include "erratad.name" . -}}
{{- $keys := .Values.secrets.keys -}}
{{- $replicas := printf "dns://%s-vllm-replicas:8000" $name -}}
{{- $fixed := dict
      "data_dir" "/var/lib/erratad"
      "model" (dict "path" "/srv/models/base")
      "serving" (dict "mode" "attached" "discover" $replicas "admin_token_env" "ERRATAD_ADMIN_TOKEN")
      "http" (dict "host" "0.0.0.0" "port" 8077 "token_env" "ERRATAD_HTTP_TOKEN") -}}
{{- if $keys.vllmApiKey -}}
{{- $_ := set $fixed.serving "api_key_env" "ERRATAD_VLLM_API_KEY" -}}
{{- end -}}
{{- if $keys.databasePassword -}}
{{- $_ := set $fixed "store" (dict "password_env" "ERRATAD_DB_PASSWORD") -}}
{{- end -}}
{{- if $keys.kafkaPassword -}}
{{- $_ := set $fixed "intake" (dict "kafka" (dict "sasl_password_env" "ERRATAD_KAFKA_PASSWORD")) -}}
{{- end -}}
{{- if $keys.privacyKey -}}
{{- $_ := set $fixed "privacy" (dict "key_env" "ERRATAD_PRIVACY_KEY") -}}
{{- end -}}
{{- if $keys.splitKey -}}
{{- $_ := set $fixed "dataset" (dict "split_key_env" "ERRATAD_SPLIT_KEY") -}}
{{- end -}}
{{- if $keys.sessionKey -}}
{{- $_ := set $fixed.http "session_key_env" "ERRATAD_SESSION_KEY" -}}
{{- end -}}
{{- with .Values.adapterStore -}}
{{- if .url -}}
{{- $store := dict "url" .url "options" .options "cache_dir" "/var/cache/erratad/adapters" -}}
{{- if $keys.adapterStoreOptions -}}
{{- $_ := set $store "options_env" "ERRATAD_ADAPTER_STORE_OPTIONS" -}}
{{- end -}}
{{- $_ := set $fixed.serving "adapter_store" $store -}}
{{- end -}}
{{- end -}}
{{- $_ := set $fixed "training" (fromYaml (include "erratad.training" .)) -}}
{{- toYaml (mustMergeOverwrite (deepCopy .Values.config) $fixed) -}}
{{- end -}}

{{/* The section `training`: the runner and what it needs. */}}
{{- define "erratad.training" -}}
{{- $name := include "erratad.name" . -}}
{{- $training := dict "runner" .Values.training.runner -}}
{{- if eq .Values.training.runner "ray" -}}
{{- $_ := set $training "ray" .Values.training.ray -}}
{{- end -}}
{{- if eq .Values.training.runner "kubernetes" -}}
{{- $given := .Values.training.kubernetes -}}
{{- $model := dict "claim" .Values.model.existingClaim "path" "/srv/models/base" "read_only" true -}}
{{- with .Values.model.subPath -}}
{{- $_ := set $model "sub_path" . -}}
{{- end -}}
{{- $adapters := dict "claim" (printf "%s-adapters" $name) "path" "/var/lib/erratad/adapters" -}}
{{- $runs := dict "claim" (printf "%s-runs" $name) "path" "/var/lib/erratad/runs" -}}
{{- $labels := dict "app.kubernetes.io/instance" .Release.Name -}}
{{- $secrets := list -}}
{{- range .Values.image.pullSecrets -}}
{{- $secrets = append $secrets .name -}}
{{- end -}}
{{- $kubernetes := dict
      "image" ($given.image | default (include "erratad.image" .))
      "image_pull_policy" .Values.image.pullPolicy
      "image_pull_secrets" $secrets
      "namespace" .Release.Namespace
      "name_prefix" (trunc 30 $name | trimSuffix "-")
      "service_account" (printf "%s-trainer" $name)
      "resources" $given.resources
      "node_selector" $given.nodeSelector
      "tolerations" $given.tolerations
      "labels" (merge $labels $given.labels)
      "env" $given.env
      "ttl_s" $given.ttlSeconds
      "claims" (list $model $adapters $runs) -}}
{{- with $given.queue -}}
{{- $_ := set $kubernetes "queue" . -}}
{{- end -}}
{{- with $given.priorityClass -}}
{{- $_ := set $kubernetes "priority_class" . -}}
{{- end -}}
{{- $_ := set $training "kubernetes" $kubernetes -}}
{{- end -}}
{{- toYaml $training -}}
{{- end -}}

{{/* What a server reads of it: other changes must not restart them all. */}}
{{- define "erratad.serverConfig" -}}
{{- $config := fromYaml (include "erratad.config" .) -}}
{{- $training := omit $config.training "runner" "kubernetes" "ray" -}}
{{- toYaml (dict "model" $config.model "serving" $config.serving "training" $training) -}}
{{- end -}}

{{/* Not empty if runs need a volume that several pods mount. */}}
{{- define "erratad.sharedRuns" -}}
{{- if or (gt (int .Values.daemon.replicas) 1) (ne .Values.training.runner "local") -}}yes{{- end -}}
{{- end -}}

{{/* Those of the daemon's pod: a training in it needs more. */}}
{{- define "erratad.daemonResources" -}}
{{- if .Values.daemon.resources -}}
{{- toYaml .Values.daemon.resources -}}
{{- else if eq .Values.training.runner "local" -}}
requests: { cpu: "1", memory: 8Gi }
limits: { memory: 16Gi }
{{- else -}}
requests: { cpu: 500m, memory: 2Gi }
limits: { memory: 4Gi }
{{- end -}}
{{- end -}}

{{/* Variables from the Secret. Takes a dict of root and of the names that the container needs: variable to key. */}}
{{- define "erratad.secretEnv" -}}
{{- $secret := .root.Values.secrets.name -}}
{{- range $variable, $key := .variables }}
{{- if $key }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef: { name: {{ $secret }}, key: {{ $key }} }
{{- end }}
{{- end }}
{{- end -}}

{{- define "erratad.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "erratad.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/*
The container that waits for the base model. With "downloads" true, that of the first pod downloads it. The servers only wait: their network
policy lets them reach nothing. Takes a dict of root and downloads.
*/}}
{{- define "erratad.modelInit" -}}
{{- $root := .root -}}
{{- $download := $root.Values.model.download -}}
- name: model
  image: {{ include "erratad.image" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  securityContext: {{- include "erratad.containerSecurity" $root | nindent 4 }}
  env:
    - { name: REPOSITORY, value: {{ $download.repository | quote }} }
    - { name: REVISION, value: {{ $download.revision | quote }} }
    - { name: MARK, value: /srv/models/base/.erratad-{{ printf "%s@%s" $download.repository $download.revision | sha256sum | trunc 12 }} }
    - { name: HF_HUB_OFFLINE, value: "0" }
    {{- if and .downloads $download.tokenKey }}
    {{- include "erratad.secretEnv" (dict "root" $root "variables" (dict "HF_TOKEN" $download.tokenKey)) | nindent 4 }}
    {{- end }}
    {{- if .downloads }}
    {{- with $download.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
  command: [sh, -euc]
  args:
    - |
      {{- if .downloads }}
      case "$HOSTNAME" in
        *-0) [ -f "$MARK" ] || { hf download "$REPOSITORY" --revision "$REVISION" --local-dir /srv/models/base; touch "$MARK"; } ;;
      esac
      {{- end }}
      until [ -f "$MARK" ]; do echo "waiting for the download of $REPOSITORY"; sleep 10; done
  volumeMounts:
    - name: model
      mountPath: /srv/models/base
      {{- if not .downloads }}
      readOnly: true
      {{- end }}
      {{- with $root.Values.model.subPath }}
      subPath: {{ . }}
      {{- end }}
    - { name: scratch, mountPath: /tmp, subPath: download-tmp }
    - { name: scratch, mountPath: /var/cache/erratad, subPath: download-cache }
{{- end -}}

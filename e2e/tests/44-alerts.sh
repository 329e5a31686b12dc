# A real Prometheus with the example's configuration and the rules of the ConfigMap: nothing fires while all is well but what was never there, and
# OrderOrchestratorDown does when the orchestrator stays away (its minute, which tests/alerts.rs measures, is made shorter); then the incident's words.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
source "$(dirname "$0")/resilience.sh"
source "$(dirname "$0")/platform.sh"
alerting='{onCall: "@lukmanulhakim", language: English}'
work=$(mktemp -d)
settled
platform_up
until_true "ten services" 180 platform_settled

# Targets as Prometheus' own discovery of pods names them (Debian's build has none): the example's relabelling does the rest.
discover() {
  k get pods -A -o json | python3 -c '
import json, re, sys
clean = lambda name: re.sub(r"[^a-zA-Z0-9_]", "_", name)
targets = []
for pod in json.load(sys.stdin)["items"]:
    meta, spec, address = pod["metadata"], pod["spec"], pod.get("status", {}).get("podIP")
    if not address: continue
    for container in spec["containers"] + spec.get("initContainers", []):
        for port in container.get("ports", []):
            labels = {"__meta_kubernetes_namespace": meta["namespace"], "__meta_kubernetes_pod_name": meta["name"], "__meta_kubernetes_pod_container_port_name": port.get("name", "")}
            labels.update({"__meta_kubernetes_pod_label_" + clean(name): value for name, value in meta.get("labels", {}).items()})
            targets.append({"targets": ["%s:%d" % (address, port["containerPort"])], "labels": labels})
print(json.dumps(targets))' >"$work/targets.new" && mv "$work/targets.new" "$work/targets.json"
}
discover
mkdir "$work/mrg" "$work/data"
k get configmap mrg-alerts -o 'jsonpath={.data.rules\.yaml}' | sed -e 's/interval: 30s/interval: 2s/' -e 's/for: 1m/for: 20s/' >"$work/mrg/rules.yaml"
sed -e "s|kubernetes_sd_configs: .*|file_sd_configs: [{files: [$work/targets.json], refresh_interval: 1s}]|" -e "s|/etc/prometheus/mrg|$work/mrg|" -e 's/_interval: 15s/_interval: 2s/' \
  -e '/^alerting:/,/^  alertmanagers/d' "$root/examples/prometheus.yml" >"$work/prometheus.yml"
promtool check config "$work/prometheus.yml" >/dev/null || fail "$(promtool check config "$work/prometheus.yml" 2>&1)"
ip netns exec mrg-n1 prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" --web.listen-address=127.0.0.1:9390 >"$work/log" 2>&1 &
prometheus=$!
trap 'kill $prometheus 2>/dev/null; rm -rf "$work"' EXIT
ask() { in_net curl -sf "http://127.0.0.1:9390/api/v1/$1"; }
query() { in_net curl -sfG "http://127.0.0.1:9390/api/v1/query" --data-urlencode "query=$1" | python3 -c 'import json,sys; print(len(json.load(sys.stdin)["data"]["result"]))'; }
alerts() { ask alerts | python3 -c 'import json,sys; print(" ".join(sorted({a["labels"]["alertname"] for a in json.load(sys.stdin)["data"]["alerts"] if a["state"] == sys.argv[1]})))' "${1:-firing}"; }
fires() { [[ " $(alerts) " = *" $1 "* ]]; }
seen() { [ "$(query "$1")" -ge "$2" ]; }
until_true "Prometheus sees the services" 40 seen 'up{job="orderorchestrator",namespace="default"} == 1' 3
until_true "and their sidecars" 20 seen 'mrg_proxy_inbound_latency_seconds_count' 22
until_true "and the database" 20 seen 'patroni_primary == 1' 1
until_true "and the pools" 20 seen 'mrg_pooler_held_seconds' 2
until_true "and the operator" 20 seen 'mrg_service_up{set="mrg"} == 1' 10
# What each rule asks for is there: an expression over a series that nobody has would never fire.
echo "    firing while all is well: $(alerts)"
[ -z "$(alerts)" ] || fail "these fire while all is well: $(alerts)"

# The orchestrator goes away and stays away: nobody is there who would put it back.
k scale -n mrg-system deploy/mrg-operator --replicas=0 >/dev/null
k wait -n mrg-system --for=delete pod -l app.kubernetes.io/name=mrg-operator --timeout=40s >/dev/null
k scale deploy/orderorchestrator --replicas=0 >/dev/null
began=$SECONDS
k wait --for=delete pod -l mrg.bluebird.id/service=orderorchestrator --timeout=60s >/dev/null
discover
until_true "OrderOrchestratorDown fires" 150 fires OrderOrchestratorDown
echo "    OrderOrchestratorDown fires $((SECONDS - began)) s after the orchestrator went; firing: $(alerts)"
ask alerts | python3 -c '
import json, sys
alert = next(a for a in json.load(sys.stdin)["data"]["alerts"] if a["labels"]["alertname"] == "OrderOrchestratorDown")
assert alert["labels"]["severity"] == "P0" and alert["labels"]["team"] == "mrg", alert
assert alert["annotations"]["summary"] == "Order Orchestrator DOWN" and alert["annotations"]["runbook_url"].endswith("#orderorchestratordown"), alert'
# The operator comes back, tells, and puts it back.
k scale -n mrg-system deploy/mrg-operator --replicas=2 >/dev/null
words() { k get events.events.k8s.io -o 'jsonpath={range .items[?(@.regarding.name=="mrg")]}{.note}{"\n"}{end}' | grep -A5 "P0 INCIDENT: Order Orchestrator Down"; }
heard_words() { [ -n "$(words)" ]; }
until_true "the incident's words" 60 heard_words
words | head -6 | sed 's/^/    /'
words | grep -q "On call: @lukmanulhakim" || fail "nobody is on call"
back() { discover; ! fires OrderOrchestratorDown; }
until_true "it is over" 60 back
until_true "settled" 90 platform_settled

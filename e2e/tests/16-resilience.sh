# A workload gets its sidecar and probes; its dispatch dies and comes back; payments fail over; what people change against the spec comes back.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/resilience.sh"
for name in bbd midtrans xendit; do stand_in $name 1; echo ---; done | k apply -f - >/dev/null
stand_in tpg 3 | k apply -f - >/dev/null
resilience | k apply -f - >/dev/null
until_true "enforced in every pod" 120 enforced
k scale deploy/tpg --replicas=3 >/dev/null
until_true "three pods" 60 shows .status.pods.summary 3/3
until_true "enforced in every pod" 60 enforced
injected=$(k get pods -l app=tpg -o 'jsonpath={range .items[*]}{.spec.containers[0].readinessProbe.httpGet.path} {.spec.initContainers[0].name}{"\n"}{end}' | sort -u)
[ "$injected" = "/ready mrg-proxy" ] || fail "injected: $injected"
pod=$(address tpg)
[ "$(call "$pod" 19001 POST /orders first | python3 -c 'import json,sys; print(json.load(sys.stdin)["status"])')" = 200 ] || fail "$(call "$pod" 19001 POST /orders first)"

# The dispatch is down: the tenth failure opens, orders are kept, the status says so.
faults bbd '{"status": 500}'
for number in $(seq 10); do call "$pod" 19001 POST /orders "fails-$number" >/dev/null; done
faults bbd '{"refuse": true}' 2>/dev/null || true
began=$(date +%s%N)
until_true "the open breaker in the status" 10 shows .status.breakersSummary '1 open/3'
echo "    open in the status after $((($(date +%s%N) - began) / 1000000)) ms: $(k get sres tpg --no-headers)"
[[ "$(column '.status.breakers[0].reason')" == *"of 1"*"failed; last: answered 500" ]] || fail "$(column '.status.breakers[0]')"
for number in $(seq 30); do call "$pod" 19001 POST /orders "order-$number" >"$work/answer"; done
grep -q '"status":202' "$work/answer" || fail "not kept: $(cat "$work/answer")"
until_true "the queue in the status" 10 shows .status.queue.depth '3[0-9]'

# A pushed configuration keeps the breaker's state.
before=$(column .status.configHash)
breaker_timeout=5s total=4s resilience | k apply -f - >/dev/null
hash_changed() { [ "$(column .status.configHash)" != "$before" ] && shows .status.pods.acknowledged 3; }
until_true "every pod acknowledges" 10 hash_changed

# It comes back: three probes, closed, drained, nothing lost and nothing twice. A refusing stand-in can only be told by its pod's restart.
k delete pod -l app=bbd --grace-period=0 --force >/dev/null 2>&1
until_true "all is sent" 60 shows .status.queue.depth 0
until_true "the breaker closes" 30 shows .status.breakersSummary '3 closed'
twice=$(received bbd '["byKey"]' | python3 -c 'import ast,sys; d=ast.literal_eval(sys.stdin.read()); print(sum(k.startswith("order-") for k in d), max(d.values(), default=0))')
[ "$twice" = "30 1" ] || fail "keys and the most often: $twice"
told() { k get events.events.k8s.io -o 'jsonpath={range .items[?(@.regarding.name=="tpg")]}{.reason} {end}'; }
heard() { for reason in BreakerOpened QueueFilling BreakerClosed QueueDrained; do [[ " $(told)" == *" $reason "* ]] || return 1; done; }
until_true "events of the outage's beginning and end" 10 heard

# Payments: the first provider dies, the second serves; and back.
k scale deploy/midtrans --replicas=0 >/dev/null
paid_by() { call "$pod" 19002 POST /pay x | grep -q "\"x-mrg-provider\":\"$1\""; }
until_true "the second provider serves" 30 paid_by xendit
for number in $(seq 12); do call "$pod" 19002 POST /pay x >/dev/null; done
until_true "the status names it" 10 shows .status.providerSummary '*xendit*'
k scale deploy/midtrans --replicas=1 >/dev/null
until_true "the first provider serves again" 60 paid_by midtrans

# What people change. The drift stands in the status within two seconds; pods never see it.
k patch deploy tpg --type=json -p '[{"op":"add","path":"/spec/template/spec/containers/0/livenessProbe","value":{"httpGet":{"path":"/health","port":8080},"initialDelaySeconds":2,"periodSeconds":10,"timeoutSeconds":2,"failureThreshold":3}},{"op":"add","path":"/spec/template/spec/containers/0/readinessProbe","value":{"httpGet":{"path":"/ready","port":8080},"initialDelaySeconds":1,"periodSeconds":2,"timeoutSeconds":2,"failureThreshold":2}}]' >/dev/null
until_true "the template's probes are known" 10 shows .status.templateProbes Match
k rollout status deploy/tpg --timeout=120s >/dev/null
k patch deploy tpg --field-manager=kubectl-edit --type=json -p '[{"op":"remove","path":"/spec/template/spec/containers/0/livenessProbe"},{"op":"remove","path":"/spec/template/spec/containers/0/readinessProbe"}]' >/dev/null
until_true "the drift is told" 2 shows '.status.drift[*].field' '*livenessProbe*'
k rollout status deploy/tpg --timeout=120s >/dev/null
[ "$(k get pods -l app=tpg -o 'jsonpath={.items[*].spec.containers[0].livenessProbe.httpGet.path}' | tr ' ' '\n' | sort -u)" = /health ] || fail "a pod lost its probe"
k scale deploy/tpg --replicas=1 >/dev/null
replicas_are() { [ "$(k get deploy tpg -o 'jsonpath={.spec.replicas}')" = "$1" ]; }
until_true "replicas come back" 10 replicas_are 3
until_true "with a word about it" 5 shows '.status.drift[*].outcome' '*raised to 3*'
k delete pdb tpg-proxy >/dev/null
budget() { k get pdb tpg-proxy >/dev/null; }
until_true "the disruption budget comes back" 10 budget

# A manager that follows Git is named and not fought.
k patch deploy tpg --field-manager=argocd-controller -p '{"spec":{"replicas":4}}' >/dev/null
k patch deploy tpg --field-manager=argocd-controller -p '{"spec":{"replicas":2}}' >/dev/null
conflict() { [ "$(condition FieldConflict)" = "True OwnedByOthers" ]; }
until_true "the conflict is told" 10 conflict
version=$(k get deploy tpg -o 'jsonpath={.metadata.generation}')
for _ in $(seq 20); do k patch deploy tpg --field-manager=argocd-controller -p '{"spec":{"replicas":2}}' >/dev/null; done
sleep 2
[ "$(k get deploy tpg -o 'jsonpath={.metadata.generation} {.spec.replicas}')" = "$version 2" ] || fail "20 resyncs were answered with a write"
k scale deploy/tpg --replicas=3 >/dev/null
until_true "settled again" 60 enforced

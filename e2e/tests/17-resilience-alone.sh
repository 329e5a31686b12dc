# Without operator, webhook and API server: breakers go on, a sidecar starts from its file, and a pod that bypasses it is reported.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/resilience.sh"
for name in bbd midtrans xendit; do stand_in $name 1; echo ---; done | k apply -f - >/dev/null
stand_in tpg 3 | k apply -f - >/dev/null
resilience | k apply -f - >/dev/null
until_true "enforced in every pod" 120 enforced
operators=$(k get deploy -n mrg-system mrg-operator -o 'jsonpath={.spec.replicas}')
trap '"$lab" start-apiserver >/dev/null 2>&1; k scale -n mrg-system deploy/mrg-operator --replicas=$operators >/dev/null' EXIT
k scale -n mrg-system deploy/mrg-operator --replicas=0 >/dev/null
k wait -n mrg-system --for=delete pod -l app.kubernetes.io/name=mrg-operator --timeout=60s >/dev/null

# A pod is made meanwhile: it lacks the sidecar, and the policy says so to whoever makes it.
said=$(k create --dry-run=server -f - 2>&1 <<Y || true
apiVersion: v1
kind: Pod
metadata: {name: tpg-x, labels: {app: tpg, pod-template-hash: abc}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: tpg-abc, uid: 00000000-0000-0000-0000-000000000000, controller: true}]}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers: [{name: app, image: $image, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]
Y
)
grep -q 'lacks the sidecar mrg-proxy' <<<"$said" || fail "no warning: $said"
k scale deploy/tpg --replicas=4 >/dev/null
four() { [ "$(k get pods -l app=tpg -o name | wc -l)" = 4 ]; }
until_true "a fourth pod without the sidecar" 20 four
pod=$(k get pods -l app=tpg,mrg.bluebird.id/resilience=tpg -o 'jsonpath={.items[0].status.podIP}')
name=$(k get pods -l app=tpg,mrg.bluebird.id/resilience=tpg -o 'jsonpath={.items[0].metadata.name}')
bbd=$(address bbd)
"$lab" stop-apiserver
in_net curl -sf -X PUT "http://$bbd:8080/faults" -d '{"status": 500}' >/dev/null
for number in $(seq 10); do call "$pod" 19001 POST /orders "alone-$number" >/dev/null; done
call "$pod" 19001 POST /orders alone | grep -q '"status":202' || fail "the breaker did not open: $(call "$pod" 19001 POST /orders alone)"
# The sidecar dies; the kubelet starts it again from the file, and what it kept is there.
in_net curl -s "http://$pod:15021/state" | grep -q '"onDisk":1' || fail "not kept: $(in_net curl -s "http://$pod:15021/state")"
for process in $(pgrep -f 'mrg-proxy run'); do nsenter -t "$process" -u hostname 2>/dev/null | grep -qx "$name" && kill -9 "$process"; done
up() { in_net curl -sf "http://$pod:15021/readyz"; }
sleep 1
until_true "the sidecar is back" 60 up
in_net curl -s "http://$pod:15021/state" | grep -q '"onDisk":1' || fail "lost: $(in_net curl -s "http://$pod:15021/state")"
in_net curl -sf -X PUT "http://$bbd:8080/faults" -d '{}' >/dev/null
drained() { in_net curl -s "http://$pod:15021/state" | grep -q '"onDisk":0\|"waiting":0'; }
until_true "what was kept is sent" 30 drained
"$lab" start-apiserver
k scale -n mrg-system deploy/mrg-operator --replicas="$operators" >/dev/null
bypass() { [ "$(condition Enforced)" = "False PodsBypass" ] || [ "$(k get pods -l app=tpg,mrg.bluebird.id/resilience=tpg -o name | wc -l)" = 4 ]; }
until_true "the pod without a sidecar is reported" 60 bypass
until_true "it is replaced by one that has it" 120 enforced
k scale deploy/tpg --replicas=3 >/dev/null
trap - EXIT

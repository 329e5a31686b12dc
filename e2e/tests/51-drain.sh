# A node is drained, a sidecar's configuration changes and a workload is rolled, while callers go on: no request is lost.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/resilience.sh"
for name in bbd midtrans xendit; do stand_in $name 1; echo ---; done | k apply -f - >/dev/null
stand_in tpg 3 | k apply -f - >/dev/null
resilience | k apply -f - >/dev/null
until_true "enforced in every pod" 120 enforced
until_true "three pods" 60 shows .status.pods.summary 3/3
node=$(k get pods -l app=tpg -o 'jsonpath={.items[0].spec.nodeName}')
trap 'k uncordon "$node" >/dev/null' EXIT
load() { # SECONDS
  in_net_long python3 "$root/e2e/http-load" "http://$(service tpg):8080/orders" "$1" >"$work/load" 2>&1 &
  loading=$!
  sleep 2
}
in_net_long() { ip netns exec mrg-n1 timeout 120 "$@"; }
unharmed() { # WHAT
  wait "$loading"
  echo "    $1: $(cat "$work/load")"
  grep -q '"wrong": 0' "$work/load" || fail "$1 cost requests"
}
load 40
# As people do it: by eviction, which the PodDisruptionBudget may refuse for a while.
k drain "$node" --pod-selector=app=tpg --delete-emptydir-data --ignore-daemonsets --timeout=35s >"$work/drain" 2>&1 || fail "drain: $(cat "$work/drain")"
unharmed "a drained node"
k uncordon "$node" >/dev/null
until_true "three pods" 60 shows .status.pods.summary 3/3
load 15
for seconds in 4 5 6 7; do total=${seconds}s resilience | k apply -f - >/dev/null; sleep 2; done
unharmed "four pushes"
load 45
k rollout restart deploy/tpg >/dev/null
k rollout status deploy/tpg --timeout=100s >/dev/null
unharmed "a rolling restart"

# What the on-call asks and does at a terminal.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
source "$(dirname "$0")/resilience.sh"
source "$(dirname "$0")/platform.sh"
settled
platform_up
until_true "ten services" 180 platform_settled
mrg() { "$lab" enter "${CARGO_TARGET_DIR:-$root/target}/lab/kubectl-mrg" "$@"; }
has() { grep -qF -- "$1" <<<"$2" || fail "expected «$1» in: $2"; }
screen=$(mrg status)
echo "$screen" | sed 's/^/    /'
has "PLATFORM mrg: 10/10 serve (P0 3/3, P1 3/3, P2 4/4), Healthy" "$screen"
has "BREAKERS: 0 of " "$screen"
has "100%     5%" "$(mrg blast)"
has "tracking of a taxi 100%" "$(mrg blast taxipartnergateway)"
has "name one of" "$(mrg blast nobody 2>&1 || true)"
has "flowchart LR" "$(mrg blast --mermaid)"

# A breaker is forced through the platform's object, in every pod, and released; no pod is changed by that.
before=$(pods_of orderorchestrator)
mrg breakers force orderorchestrator fds open --reason "INC-42: a drill" --for 10m
forced() { mrg breakers list | grep -q "^orderorchestrator *fds/fds *$1"; }
until_true "the breaker is forced open" 15 forced ForcedOpen
has "INC-42: a drill" "$(mrg breakers list)"
mrg breakers release orderorchestrator fds
until_true "and decides by itself" 15 forced Closed
[ "$before" = "$(pods_of orderorchestrator)" ] || fail "pods were changed"
has "is not forced" "$(mrg breakers release orderorchestrator fds 2>&1 || true)"
has 'such as 30s' "$(mrg breakers force orderorchestrator fds open --reason why --for soon 2>&1 || true)"

# The dispatch is down: an order is kept; people see it, send it.
pod=$(k get pod "$(pods_of taxipartnergateway | cut -d' ' -f1)" -o 'jsonpath={.status.podIP}')
waiting() { mrg queue list taxipartnergateway | awk '$2 == "tpg-bbd" && $3 != "Done" { print $1; exit }'; }
[ -z "$(waiting)" ] || fail "an order waits already: $(mrg queue list taxipartnergateway)"
k scale deploy/bbd --replicas=0 >/dev/null
kept() { call "$pod" 19001 POST /orders "order-$RANDOM" | grep -q '"status":202'; }
until_true "an order is kept" 30 kept
ticket=$(waiting)
[ -n "$ticket" ] || fail "no ticket: $(mrg queue list taxipartnergateway)"
has '"path": "/orders"' "$(mrg queue show taxipartnergateway "$ticket")"
has "Nobody is here to be asked; give --yes" "$(mrg queue discard taxipartnergateway "$ticket" 2>&1 </dev/null || true)"
until_true "the status counts it" 15 bash -c "[ \"\$('$lab' enter kubectl get oss mrg -o 'jsonpath={.status.services[?(@.name==\"taxipartnergateway\")].queued}')\" -gt 0 ]"
k scale deploy/bbd --replicas=1 >/dev/null
k rollout status deploy/bbd --timeout=60s >/dev/null
sent() {
  mrg queue replay taxipartnergateway "$ticket" --yes >/dev/null 2>&1 || true
  mrg queue list taxipartnergateway | grep "^$ticket" | grep -q ' Done .*answered 200'
}
until_true "it is sent" 60 sent
# A breaker closes by requests that succeed; a drill is refused while it has not.
closed() { call "$pod" 19001 POST /orders "well-$RANDOM" >/dev/null; [ "$(oss .status.risk)" = - ]; }
until_true "the dispatch is well again" 90 closed

# A drill: refused for what is no part, and told in a table.
has "name one of" "$(mrg drill nobody --yes 2>&1 || true)"
has "Nobody is here to be asked; give --yes" "$(mrg drill fds 2>&1 </dev/null || true)"
said=$(mrg drill fds --yes)
echo "$said" | sed 's/^/    /'
has "met" "$said"
until_true "the platform is well" 60 platform_settled
said=$(mrg drill postgresql --yes)
echo "$said" | sed 's/^/    /'
has "was a synchronous standby" "$said"
until_true "the platform is well" 90 platform_settled
settled

# The lead moves, as asked; a member that is none is refused.
from=$(leader)
has "cannot take over from $from" "$(mrg switchover $cluster --to nobody --yes 2>&1 || true)"
until_true "a switchover" 60 bash -c "'$lab' enter '${CARGO_TARGET_DIR:-$root/target}/lab/kubectl-mrg' switchover $cluster --yes"
until_true "the status names the new leader" 20 led_by_another "$from"
until_true "the platform is well" 60 platform_settled

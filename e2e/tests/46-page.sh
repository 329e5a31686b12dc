# The page of the person on call, in a real browser: what it shows is what there is, and it changes by itself.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
source "$(dirname "$0")/resilience.sh"
source "$(dirname "$0")/platform.sh"
settled
platform_up
until_true "ten services" 180 platform_settled
address=$(k get service -n mrg-system mrg-operator-page -o 'jsonpath={.spec.clusterIP}')
coproc browser { ip netns exec mrg-n1 "$root/e2e/browser"; }
trap 'exec {browser[1]}>&- 2>/dev/null; wait $browser_PID 2>/dev/null || true' EXIT
tell() { echo "$*" >&"${browser[1]}" && read -r -t 90 said <&"${browser[0]}" && echo "$said"; }
shows() { # WHAT SECONDS SCRIPT
  local said
  said=$(tell "wait $2 $3")
  [ "$said" = ok ] || fail "the page does not show $1: $said; it says: $(tell "eval document.body.innerText.slice(0, 1500)")"
}
card() { echo "document.querySelector('article[data-name=\"$1\"]')"; }
[ "$(tell "open http://$address/")" = ok ] || fail "the page does not open"
shows "ten services" 20 "document.querySelectorAll('h3').length > 4 && [...document.querySelectorAll('article')].filter((card) => card.innerText.includes('goes with it')).length >= 10"
for name in $services; do shows "$name" 5 "$(card "$name")?.dataset.mark === 'good'"; done
shows "that all is well" 5 "document.querySelector('.verdict').dataset.mark === 'good'"
shows "the leader" 5 "document.getElementById('data').innerText.includes('leader $(leader)')"
shows "the pools" 5 "document.getElementById('data').innerText.includes('platform-write')"
shows "the breakers" 5 "/^0 of \d+ breakers are not closed/.test(document.getElementById('breakers').innerText)"
shows "the blast radius" 5 "[...document.querySelectorAll('#blast tr')].some((row) => row.innerText.startsWith('postgresql') && row.innerText.includes('100 %'))"
shows "who uses whom" 5 "document.querySelectorAll('svg g.node').length > 15"
shows "that it is live" 5 "document.getElementById('link').dataset.state === 'live'"
[ -z "${SHOT:-}" ] || tell "shot $SHOT-well.png" >/dev/null
# Without a reload: a service dies, and comes back.
for pod in $(pods_of userservice); do in_net curl -sf -X PUT "http://$(k get pod "$pod" -o 'jsonpath={.status.podIP}'):8080/faults" -d '{"refuse": true}' >/dev/null || true; done
shows "a service that is down" 30 "$(card userservice)?.dataset.mark === 'bad' && document.querySelector('.verdict').dataset.mark === 'bad' && document.title.startsWith('✕')"
[ -z "${SHOT:-}" ] || tell "shot $SHOT-down.png" >/dev/null
kill_service userservice
shows "it back" 90 "$(card userservice)?.dataset.mark === 'good'"
shows "what was measured" 20 "document.getElementById('objectives').innerText.includes('userservice')"
# A switchover is there within moments.
from=$(leader)
"$lab" enter "${CARGO_TARGET_DIR:-$root/target}/lab/kubectl-mrg" switchover "$cluster" --yes >/dev/null
shows "the new leader" 20 "!document.getElementById('data').innerText.includes('leader $from') && /leader pg-/.test(document.getElementById('data').innerText)"
[ "$(tell errors)" = "[]" ] || fail "the browser complains: $(tell errors)"
# Nothing can be changed through it, and nothing foreign is loaded by it.
for method in POST PUT DELETE PATCH; do
  [ "$(in_net curl -s -o /dev/null -w '%{http_code}' -X $method "http://$address/events")" = 405 ] || fail "$method is not refused"
done
in_net curl -sI "http://$address/" | grep -qi "^content-security-policy: default-src 'none'" || fail "no policy"
# The operator goes: the page says that what it shows is old.
k scale -n mrg-system deploy/mrg-operator --replicas=0 >/dev/null
shows "that it has no news" 60 "document.getElementById('link').dataset.state === 'lost'"
k scale -n mrg-system deploy/mrg-operator --replicas=2 >/dev/null
k rollout status -n mrg-system deploy/mrg-operator --timeout=60s >/dev/null
shows "that it is live again" 60 "document.getElementById('link').dataset.state === 'live'"

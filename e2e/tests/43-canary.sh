# A changed service is tried out beside the old one: a good change gets 10, 25 and 50 % of real traffic and then all of it, without an error and across a
# restart of the operator; a bad one is taken back by itself and harms no more than its share; without traffic people are asked.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
source "$(dirname "$0")/resilience.sh"
source "$(dirname "$0")/platform.sh"
mrg() { "$lab" enter "${CARGO_TARGET_DIR:-$root/target}/lab/kubectl-mrg" "$@"; }
release_of() { [ "$(k get deploy "$1" -o "jsonpath={.spec.template.spec.containers[0].env[?(@.name=='RELEASE')].value}")" = "$2" ]; }
no_canary() { [ -z "$(k get deploy,service,sres -o name | grep canary)" ]; }
work=$(mktemp -d)
settled
# What the test before left changed is not tried out: nobody calls it, and people would be asked.
platform_up
until_true "ten services" 180 platform_settled
rollout='{progressDeadline: 30s, canary: {steps: [10, 25, 50], bake: 6s, minimumSamples: 20}}'
platform | k apply -f - >/dev/null
until_true "ten services, and trials from now on" 60 platform_settled
until_true "no canary" 30 no_canary

# Traffic from outside the platform: to the Service, as the gateway of the apps would.
load() { # SECONDS
  ip netns exec mrg-n1 timeout $(($1 + 10)) python3 "$root/e2e/http-load" "http://$(service userservice):8080/profile" "$1" >"$work/load" 2>&1 &
  load=$!
}
load 45
more_userservice=", env: [{name: RELEASE, value: '2'}]"
platform | k apply -f - >/dev/null
began=$SECONDS seen=""
while [ $((SECONDS - began)) -lt 120 ]; do
  now=$(oss .status.rollout)
  case " $seen " in *" ${now// /_} "*) ;; *) seen+=" ${now// /_}"; echo "    after $((SECONDS - began)) s: ${now:--}" ;; esac
  # The operator is replaced in the middle of it.
  if [[ $now = *25%* ]] && [ -z "${restarted:-}" ]; then restarted=yes; k delete pod -n mrg-system -l app.kubernetes.io/name=mrg-operator --wait=false >/dev/null; fi
  platform_settled && release_of userservice 2 && break
  sleep 0.5
done
platform_settled && release_of userservice 2 || fail "the change did not end: $(oss .status.rollout) $(of_service userservice message)"
for share in 10% 25% 50% 100%; do [[ $seen = *"userservice_$share"* ]] || fail "no step of $share: $seen"; done
until_true "the canary is gone" 30 no_canary
wait $load || true
said=$(cat "$work/load")
echo "    a good change: $said"
grep -q '"wrong": 0' <<<"$said" || fail "requests failed: $said"

# A bad one. Pods of the version before the last may still be on their way out.
standing() { k get pods -l mrg.bluebird.id/service=userservice -o 'go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}'; }
before=$(standing)
load 25
more_userservice=", env: [{name: RELEASE, value: '3'}, {name: FAULTS, value: '{\"status\": 500}'}]"
platform | k apply -f - >/dev/null
began=$SECONDS
until_true "it is taken back" 60 phase_is userservice Aborted
echo "    a bad change: $(of_service userservice message) (after $((SECONDS - began)) s)"
until_true "the canary is gone" 30 no_canary
wait $load || true
said=$(cat "$work/load")
echo "    $said"
python3 - "$said" <<'P' || fail "more than the canary's share failed: $said"
import json, sys
said = json.loads(sys.argv[1])
sys.exit(0 if said["wrong"] <= 60 and said["requests"] > 500 else 1)
P
[ "$before" = "$(standing)" ] || fail "pods that serve were touched: $before became $(standing)"
[ "$(oss_condition Stalled)" = "True RolloutAborted" ] || fail "Stalled: $(oss_condition Stalled)"
k get events.events.k8s.io -o 'jsonpath={range .items[?(@.regarding.name=="mrg")]}{.reason}: {.note}{"\n"}{end}' | grep -q "CanaryAborted: userservice" || fail "no event"
sleep 4
phase_is userservice Aborted || fail "an abort did not stay"
more_userservice=", env: [{name: RELEASE, value: '2'}]"
platform | k apply -f - >/dev/null
until_true "settled with the old spec" 60 platform_settled

# Nobody calls: nothing can be judged, and nothing is; a person decides.
more_hogateway=", env: [{name: RELEASE, value: '2'}]"
platform | k apply -f - >/dev/null
paused() { [[ "$(oss .status.rollout)" = "hogateway 10% (1/4) paused" ]]; }
until_true "people are asked" 90 paused
mrg rollout | sed 's/^/    /'
k annotate oss mrg mrg.bluebird.id/rollout-hogateway=yolo 2>&1 | grep -q "none of promote" || fail "a word that nobody knows was accepted"
mrg rollout hogateway promote | sed 's/^/    /'
until_true "it is promoted" 60 release_of hogateway 2
until_true "settled" 60 platform_settled
until_true "the canary is gone" 30 no_canary
[ -z "$(k get oss mrg -o 'jsonpath={.metadata.annotations.mrg\.bluebird\.id/rollout-hogateway}')" ] || fail "what was said is still there"
rm -rf "$work"

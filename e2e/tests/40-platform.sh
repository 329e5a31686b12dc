# Ten services from one object: started in their order, silent once settled, put back when somebody touches them, changed in turns; a service that dies takes
# what the blast radius says, and how long it was away stands beside its objective.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
source "$(dirname "$0")/resilience.sh"
source "$(dirname "$0")/platform.sh"
settled
began=$SECONDS
platform_up
until_true "ten services" 180 platform_settled
echo "    10/10 after $((SECONDS - began)) s: $(k get oss mrg --no-headers)"
created() { date -d "$(k get deploy "$1" -o 'jsonpath={.metadata.creationTimestamp}')" +%s; }
[ "$(created orderorchestrator)" -gt "$(created configservice)" ] || fail "the orchestrator did not wait for those that it calls"

# Settled means silent.
# A Deployment's status is its own controller's; what this operator writes of it shows in the generation.
versions() {
  k get service,sres,netpol,serviceaccount,secret -l mrg.bluebird.id/set=mrg -o 'jsonpath={range .items[*]}{.kind}/{.metadata.name}={.metadata.resourceVersion}{"\n"}{end}'
  k get deploy -l mrg.bluebird.id/set=mrg -o 'jsonpath={range .items[*]}{.kind}/{.metadata.name}={.metadata.generation}{"\n"}{end}'
  oss .metadata.resourceVersion
}
sleep 5
before=$(versions)
sleep 10
[ "$before" = "$(versions)" ] || fail "a settled platform was written to: $(diff <(echo "$before") <(versions))"

# The blast radius of the analysis stands in the status.
radius() { oss ".status.blastRadius[?(@.part==\"$1\")].radius}/{.status.blastRadius[?(@.part==\"$1\")].remaining"; }
[ "$(radius postgresql) $(radius redis) $(radius orderorchestrator) $(radius rabbitmq)" = "100/5 70/10 90/90 40/40" ] || fail "$(radius postgresql) $(radius redis) $(radius orderorchestrator) $(radius rabbitmq)"

# What people touch comes back: scaled, edited, deleted.
k scale deploy/fds --replicas=1 >/dev/null
replicas() { [ "$(k get deploy fds -o 'jsonpath={.spec.replicas}')" = 2 ]; }
until_true "replicas" 10 replicas
k set env deploy/configservice RELEASE=mine >/dev/null
release_of() { [ "$(k get deploy "$1" -o "jsonpath={.spec.template.spec.containers[0].env[?(@.name=='RELEASE')].value}")" = "$2" ]; }
until_true "an edited environment" 10 release_of configservice 1
k delete service/hogateway sres/hogateway netpol/hogateway serviceaccount/hogateway deploy/hogateway >/dev/null
there() { k get service/hogateway sres/hogateway netpol/hogateway serviceaccount/hogateway deploy/hogateway >/dev/null; }
until_true "everything deleted" 20 there
told() { k get events.events.k8s.io -o 'jsonpath={range .items[?(@.regarding.name=="mrg")]}{.reason}: {.note}{"\n"}{end}'; }
heard() { told | grep -q "$1"; }
until_true "a word about who touched it" 5 heard "Drift: Deployment configservice: taken back"
until_true "settled again" 90 platform_settled

# A service dies in all its pods: nothing else does, the risk is told, and how long it took.
for name in orderorchestrator taxipartnergateway authservice; do
  kill_and_hear $name
  [ "$others" = $name ] || fail "$others are down, not $name alone"
  echo "    $name: away for $(objective $name last) of $(objective $name rto); at risk: $at_risk"
  [ "$(objective $name met)" = true ] || fail "the objective of $name: $(objective $name 'last')"
done
# What others run is asked how it is, and how long it was away is measured, too.
store_is() { [ "$(oss ".status.stores[?(@.name==\"$1\")].answers")" = "$2" ]; }
k scale deploy/redis --replicas=0 >/dev/null
until_true "the cache is missed" 30 store_is redis false
[ "$(oss .status.risk)" = "10% (redis)" ] || fail "RISK is $(oss .status.risk)"
k scale deploy/redis --replicas=1 >/dev/null
until_true "the cache is back" 40 store_is redis true
echo "    redis: away for $(objective redis last) of $(objective redis rto)"
[ "$(objective redis met)" = true ] || fail "the objective of redis: $(objective redis last)"
until_true "the incident in the analysis' words" 5 heard "INSIDEN P0: Order Orchestrator Down"
heard "Dampak: Kegagalan total order" || fail "not the words of the analysis: $(told)"
[ "$(oss_condition ObjectivesMet)" = "True Measured" ] || fail "$(oss_condition ObjectivesMet)"

# An upgrade of the operator, as far as pods could see it: the sidecar's image has another name.
before=$(k get pods -l mrg.bluebird.id/set=mrg -o name | sort)
k set env -n mrg-system deploy/mrg-operator "MRG_IMAGE=$(k get deploy -n mrg-system mrg-operator -o 'jsonpath={.spec.template.spec.containers[0].image}')-next" >/dev/null
k rollout status -n mrg-system deploy/mrg-operator --timeout=90s >/dev/null
sleep 5
k annotate oss mrg touched=now --overwrite >/dev/null
sleep 3
[ "$before" = "$(k get pods -l mrg.bluebird.id/set=mrg -o name | sort)" ] || fail "the operator's upgrade changed pods"
k rollout undo -n mrg-system deploy/mrg-operator >/dev/null
k rollout status -n mrg-system deploy/mrg-operator --timeout=90s >/dev/null

# A change reaches P2 first, P0 last; one that does not come up holds the more important ones up, and may be mended.
more_fds=", image: \"localhost/there-is-no:such\"" more_paymentprocessor=", env: [{name: RELEASE, value: '2'}]"
platform | k apply -f - >/dev/null
until_true "a stuck change" 60 phase_is fds Stuck
phase_is paymentprocessor Pending || fail "paymentprocessor did not wait: $(of_service paymentprocessor phase)"
echo "    $(of_service paymentprocessor message); ROLLOUT $(oss .status.rollout)"
more_fds=
platform | k apply -f - >/dev/null
until_true "the change ends" 120 platform_settled
release_of paymentprocessor 2 || fail "paymentprocessor was not changed"

# The least number of pods: an autoscaler's minimum is raised, one that cannot reach it is named, and Flux is not fought.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/resilience.sh"
for name in bbd midtrans xendit; do stand_in $name 1; echo ---; done | k apply -f - >/dev/null
stand_in tpg 3 | k apply -f - >/dev/null
resilience | k apply -f - >/dev/null
k scale deploy/tpg --replicas=3 >/dev/null
until_true "enforced in every pod" 120 enforced
autoscaler() { # MOST
  cat <<Y
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: tpg}
spec: {minReplicas: 1, maxReplicas: $1, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: tpg}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}
Y
}
autoscaler 5 | k create -f - >/dev/null
trap 'k delete hpa tpg --ignore-not-found >/dev/null' EXIT
least_is() { [ "$(k get hpa tpg -o 'jsonpath={.spec.minReplicas}')" = "$1" ]; }
until_true "the autoscaler's minimum is raised" 10 least_is 3
until_true "with a word about it" 5 shows '.status.drift[*].object' '*HorizontalPodAutoscaler/tpg*'
k delete hpa tpg >/dev/null
autoscaler 2 | k create -f - >/dev/null
conflict() { [[ "$(k get sres tpg -o 'jsonpath={.status.conditions[?(@.type=="FieldConflict")].message}')" == *"$1"* ]]; }
until_true "an autoscaler that cannot reach it is told" 10 conflict 'maxReplicas 2 is below the 3 pods'
k delete hpa tpg >/dev/null
until_true "no conflict without it" 10 shows '.status.conditions[?(@.type=="FieldConflict")].status' False

# Flux applies from the server's side and takes what it applies.
flux() { stand_in tpg 1 | k apply --server-side --force-conflicts --field-manager=kustomize-controller -f - >/dev/null; }
flux
until_true "the conflict names Flux" 10 conflict kustomize-controller
generation() { k get deploy tpg -o 'jsonpath={.metadata.generation} {.spec.replicas}'; }
before=$(generation)
for _ in $(seq 20); do flux; done
sleep 2
[ "$(generation)" = "$before" ] || fail "20 resyncs were answered with a write: $before, $(generation)"
k scale deploy/tpg --replicas=3 >/dev/null
until_true "settled again" 60 enforced

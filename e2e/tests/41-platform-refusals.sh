# Wrong OrderServiceSets are refused, by the schema or by the operator's webhook, with field, value and the way out; what is only missing is waited for and told.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
source "$(dirname "$0")/resilience.sh"
source "$(dirname "$0")/platform.sh"
count=0
refused() { # WHAT EXPECTED-TEXT PYTHON-THAT-CHANGES-spec
  local said
  said=$(platform | k create --dry-run=client -o json -f - | python3 -c '
import json, sys
document = json.load(sys.stdin)
document["metadata"]["name"] = "wrong"
spec = document["spec"]
of = {service["name"]: service for service in spec["services"]}
oo, fds = of["orderorchestrator"], of["fds"]
call = {"name": "mine", "port": 19101, "providers": [{"name": "x", "url": "http://fds:8080"}]}
exec(sys.argv[1])
print(json.dumps(document))' "$3" | k create --dry-run=server -f - 2>&1) && { fail "$1 was accepted"; return 1; }
  grep -qF -- "$2" <<<"$said" || { fail "$1: expected «$2» in: $said"; return 1; }
  count=$((count + 1))
}
refused "an unknown service" 'Unsupported value: "billing": supported values' 'oo["name"] = "billing"'
refused "a service twice" "names a service twice" 'spec["services"][0] = {"name": "fds"}'
refused "eleven services" "services" 'spec["services"].append({"name": "fds2"})'
refused "no image" "spec.template.image is missing" 'del spec["template"]["image"]'
refused "an unknown provider" 'Unsupported value: "paypal"' 'spec["providers"][0]["name"] = "paypal"'
refused "a provider twice" "names a provider twice" 'spec["providers"][0]["name"] = "xendit"'
refused "a provider's address without scheme" "spec.providers[0].url" 'spec["providers"][0]["url"] = "bbd:8080"'
refused "no address for the first provider" 'there is no address for `bbd`' 'spec["providers"] = spec["providers"][1:]'
refused "too few pods for P0" "2 is fewer than the 3 pods of tier P0" 'oo["replicas"] = 2'
refused "an autoscaler below the tier" "services[fds].autoscaling.minReplicas" 'fds["autoscaling"] = {"minReplicas": 1, "maxReplicas": 4}'
refused "replicas beside an autoscaler" "exclude each other" 'fds["autoscaling"] = {"maxReplicas": 4}; fds["replicas"] = 2'
refused "an autoscaler upside down" "maxReplicas is below minReplicas" 'fds["autoscaling"] = {"minReplicas": 4, "maxReplicas": 3}'
refused "no pods at all" "replicas" 'fds["replicas"] = 0'
refused "the sidecar's port" "are the sidecar's own" 'fds["port"] = 15080'
refused "a privileged port" "port" 'fds["port"] = 80'
refused "a call that is not made" 'does not call `bbd`: it calls paymentprocessor' 'oo["without"] = ["bbd"]'
refused "a call at another call's port" "is another dependency's port" 'call["port"] = 19001; oo["dependencies"] = [call]'
refused "a total shorter than an attempt" "timeout.total" 'call["timeout"] = {"attempt": "5s", "total": "1s"}; oo["dependencies"] = [call]'
refused "a ratio over one" "failureRatio" 'call["breaker"] = {"failureRatio": 2}; oo["dependencies"] = [call]'
refused "a circle without a breaker" "call each other in a circle without a breaker" 'call["breaker"] = {"mode": "Off"}; of["userservice"]["dependencies"] = [call]; back = dict(call, providers=[{"name": "x", "url": "http://userservice:8080"}]); fds["dependencies"] = [back]'
refused "an override of nobody" 'no dependency is named `bank`' 'oo["overrides"] = [{"dependency": "bank", "state": "Open", "reason": "INC-42", "until": "2099-01-01T00:00:00Z"}]'
refused "an override in the past" "is in the past" 'oo["overrides"] = [{"dependency": "fds", "state": "Open", "reason": "INC-42", "until": "2020-01-01T00:00:00Z"}]'
refused "an override without a reason" "reason" 'oo["overrides"] = [{"dependency": "fds", "state": "Open", "until": "2099-01-01T00:00:00Z"}]'
refused "one path for both probes" "give them paths of their own" 'fds["probes"]["liveness"]["path"] = "/ready"'
refused "an objective of nobody" 'Unsupported value: "mainframe"' 'spec["objectives"] = [{"part": "mainframe", "rto": "5m"}]'
refused "an objective twice" "names a part twice" 'spec["objectives"] = [{"part": "fds", "rto": "5m"}, {"part": "fds", "rto": "1m"}]'
refused "an objective of nothing" "can be met by nothing" 'spec["objectives"] = [{"part": "fds", "rto": "0s"}]'
refused "a duration without unit" "rto" 'spec["objectives"] = [{"part": "fds", "rto": "300"}]'
refused "patience without end" "longer than 30m" 'spec["start"] = {"patience": "2h"}'
refused "a deadline too short" "not between 30s and 1h" 'spec["rollout"] = {"progressDeadline": "5s"}'
refused "canary steps that do not rise" "do not rise" 'spec["rollout"] = {"canary": {"steps": [25, 10]}}'
refused "the same step twice" "do not rise" 'spec["rollout"] = {"canary": {"steps": [10, 10, 50]}}'
refused "a canary with everything" "from 1 to 99 percent" 'spec["rollout"] = {"canary": {"steps": [10, 100]}}'
refused "a canary without steps" "steps" 'spec["rollout"] = {"canary": {"steps": []}}'
refused "a trial too short to see anything" "is not between 5s and 24h" 'spec["rollout"] = {"canary": {"bake": "1s"}}'
refused "a word that nobody knows" "is none of promote, pause, resume, abort, retry" 'document["metadata"]["annotations"] = {"mrg.bluebird.id/rollout-fds": "yolo"}'
refused "a word to nobody" 'there is no service `billing`' 'document["metadata"]["annotations"] = {"mrg.bluebird.id/rollout-billing": "abort"}'
refused "root" "runAsUser" 'spec["template"]["runAsUser"] = 0'
refused "a database without a pool" "write" 'spec["database"] = {}'
refused "a cache without a Secret" "secretName" 'spec["cache"] = {"key": "redis"}'
refused "a name too long" "longer than 40 characters" 'document["metadata"]["name"] = "a" * 41'
echo "    $count wrong specs refused"

# A pool that is not there: told with the name, and nothing that runs is touched.
before=$(k get deploy -l mrg.bluebird.id/set=mrg -o 'jsonpath={range .items[*]}{.metadata.name}={.metadata.generation} {end}')
write_pool=nobody platform | k apply -f - >/dev/null
lacks() { [ "$(oss_condition Ready)" = "False $1" ]; }
until_true "a missing pool is told" 20 lacks DatabaseNotFound
[[ "$(oss '.status.conditions[?(@.type=="Ready")].message')" == *'there is no PgBouncerPool `nobody`'* ]] || fail "$(oss .status.conditions)"
[ "$before" = "$(k get deploy -l mrg.bluebird.id/set=mrg -o 'jsonpath={range .items[*]}{.metadata.name}={.metadata.generation} {end}')" ] || fail "deployments were changed"
platform | k apply -f - >/dev/null
k delete secret stores >/dev/null
k annotate oss mrg touched=again --overwrite >/dev/null
until_true "a missing Secret is told" 20 lacks SecretNotFound
k create secret generic stores --from-literal=redis=redis://redis:6379/0 --from-literal=amqp=amqp://mrg:mrg@rabbitmq:5672/ >/dev/null
k annotate oss mrg touched=thrice --overwrite >/dev/null

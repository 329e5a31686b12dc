# Wrong specs are refused by the API server itself, with the field, the value and the way out.
source "$(dirname "$0")/lib.sh"

refused() { # WHAT EXPECTED-TEXT PATCH (a jq-free merge: yaml appended under spec by kubectl patch --dry-run)
  local said
  said=$(spec wrong | k create --dry-run=client -o json -f - | python3 -c '
import json, sys
document, change = json.load(sys.stdin), json.loads(sys.argv[1])
def merge(into, values):
    for key, value in values.items():
        if value is None: into.pop(key, None)
        elif isinstance(value, dict) and isinstance(into.get(key), dict): merge(into[key], value)
        else: into[key] = value
merge(document, change)
print(json.dumps(document))' "$3" | k create --dry-run=server -f - 2>&1) && { fail "$1 was accepted"; return 1; }
  grep -qF -- "$2" <<<"$said" || { fail "$1: expected «$2» in: $said"; return 1; }
  count=$((count + 1))
}
count=0
refused "an even etcd" "set 1, 3 or 5" '{"spec":{"etcd":{"managed":{"replicas":4}}}}'
refused "etcd too large" "should be less than or equal to 5" '{"spec":{"etcd":{"managed":{"replicas":7}}}}'
refused "a ttl that two slow requests outlast" "raise ttl or lower the others" '{"spec":{"failover":{"ttl":"5s","loopWait":"3s","retryTimeout":"2s"}}}'
refused "a ttl below the floor" "below the floor of 3s" '{"spec":{"failover":{"ttl":"2s","loopWait":"1s","retryTimeout":"500ms"}}}'
refused "a ttl of an hour" "longer than 10m" '{"spec":{"failover":{"ttl":"1h"}}}'
refused "a loopWait below the floor" "spec.failover.loopWait 500ms is below the floor" '{"spec":{"failover":{"loopWait":"500ms"}}}'
refused "a retryTimeout below the floor" "spec.failover.retryTimeout 500ms is below the floor" '{"spec":{"failover":{"retryTimeout":"500ms"}}}'
refused "an unresponsiveAfter below the floor" "spec.failover.unresponsiveAfter 500ms is below the floor" '{"spec":{"failover":{"unresponsiveAfter":"500ms"}}}'
refused "a duration without a unit" "spec.failover.ttl" '{"spec":{"failover":{"ttl":"30"}}}'
refused "no replicas" "spec.replicas" '{"spec":{"replicas":0}}'
refused "a hundred replicas" "spec.replicas" '{"spec":{"replicas":100}}'
refused "a mistyped size" "storage.size 10GiB is not a size such as 10Gi" '{"spec":{"storage":{"size":"10GiB"}}}'
refused "a negative size" "is not a size such as 10Gi" '{"spec":{"storage":{"size":"-1Gi"}}}'
refused "a mistyped lag" "spec.failover.maximumLagOnFailover lots is not a size" '{"spec":{"failover":{"maximumLagOnFailover":"lots"}}}'
refused "synchronous_standby_names by hand" "set spec.replication (mode: Quorum" '{"spec":{"postgresql":{"parameters":{"synchronous_standby_names":"ANY 1 (pg-node-2, pg-node-3)"}}}}'
refused "a reserved parameter" "the agent sets these itself" '{"spec":{"postgresql":{"parameters":{"primary_conninfo":"host=x"}}}}'
refused "a reserved parameter in another case" "the agent sets these itself" '{"spec":{"postgresql":{"parameters":{"Hba_File":"/tmp/x"}}}}'
refused "a directive instead of a parameter" "directives that read another file" '{"spec":{"postgresql":{"parameters":{"include":"/tmp/x"}}}}'
refused "a parameter with a blank" "as PostgreSQL writes it" '{"spec":{"postgresql":{"parameters":{"work mem":"4MB"}}}}'
refused "a parameter that is a number" "Invalid value" '{"spec":{"postgresql":{"parameters":{"max_connections":50}}}}'
refused "strict without replicas" "no commit could ever be acknowledged" '{"spec":{"replicas":1,"replication":{"strict":true}}}'
refused "more standbys than there are" "lower count or raise spec.replicas" '{"spec":{"replicas":2,"replication":{"count":2}}}'
refused "an unknown mode" 'supported values: "Async", "Sync", "Quorum"' '{"spec":{"replication":{"mode":"Semi"}}}'
refused "both kinds of etcd" "exactly one of managed and external" '{"spec":{"etcd":{"external":{"endpoints":["http://a:2379"]}}}}'
refused "an endpoint without a scheme" "spec.etcd.external.endpoints[0]" '{"spec":{"etcd":{"managed":null,"external":{"endpoints":["a:2379"]}}}}'
refused "no image" "spec.image" '{"spec":{"image":null}}'
refused "a misspelt field" "unknown field" '{"spec":{"replicass":3}}'
refused "a name that is too long" "choose a shorter name" '{"metadata":{"name":"a-name-that-is-much-too-long-for-what-is-made-of-it"}}'
echo "    $count wrong specs refused"

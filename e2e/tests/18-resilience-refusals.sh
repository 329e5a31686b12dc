# Wrong ServiceResiliences are refused, by the schema or by the operator's webhook, with field, value and the way out.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/resilience.sh"
count=0
refused() { # WHAT EXPECTED-TEXT PYTHON-THAT-CHANGES-spec
  local said
  said=$(resilience wrong | k create --dry-run=client -o json -f - | python3 -c '
import json, sys
document = json.load(sys.stdin)
spec = document["spec"]
bbd, payment = spec["dependencies"]
exec(sys.argv[1])
print(json.dumps(document))' "$3" | k create --dry-run=server -f - 2>&1) && { fail "$1 was accepted"; return 1; }
  grep -qF -- "$2" <<<"$said" || { fail "$1: expected «$2» in: $said"; return 1; }
  count=$((count + 1))
}
refused "a ratio over one" "failureRatio" 'bbd["breaker"]["failureRatio"] = 1.5'
refused "a ratio of nothing" "failureRatio" 'bbd["breaker"]["failureRatio"] = 0'
refused "an attempt shorter than connecting" "an attempt includes connecting" 'bbd["timeout"]["attempt"] = "100ms"'
refused "a total shorter than an attempt" "timeout.total is shorter than timeout.attempt" 'bbd["timeout"]["total"] = "500ms"'
refused "an attempt shorter than the default connect" "an attempt includes connecting" 'bbd["timeout"] = {"attempt": "10ms"}'
refused "a provider twice" "name each provider once" 'payment["providers"][1]["name"] = "midtrans"'
refused "the same address twice" "would ask the same one again" 'payment["providers"][1]["url"] = "http://midtrans:8080"'
refused "no provider" "providers" 'payment["providers"] = []'
refused "a dependency twice" "spec.dependencies has a name twice" 'payment["name"] = "tpg-bbd"'
refused "a port twice" "spec.dependencies has a port twice" 'payment["port"] = 19001'
refused "the proxy's own port" "15020 to 15029" 'payment["port"] = 15021'
refused "a privileged port" "port" 'payment["port"] = 80'
refused "a url without scheme" "url" 'payment["providers"][0]["url"] = "midtrans:8080"'
refused "a url with a user" "providers[0].url" 'payment["providers"][0]["url"] = "http://me@midtrans:8080"'
refused "a queue without a key" "idempotencyHeader" 'bbd["fallback"]["queue"] = {"capacity": 5}'
refused "a queue without a place" "add spec.queue" 'del spec["queue"]'
refused "a place that is none" "name at least one" 'spec["queue"] = {}'
refused "two fallbacks" "exclude each other" 'bbd["fallback"]["static"] = {"body": "later"}'
refused "an ambiguous payment into no queue" "onAmbiguous Queue needs fallback.queue" 'payment["onAmbiguous"] = "Queue"'
refused "failing over to nobody" "needs a second provider" 'bbd["onAmbiguous"] = "Failover"'
refused "until in the past" "is in the past" 'spec["overrides"] = [{"dependency": "payment", "state": "Open", "reason": "INC-42", "until": "2020-01-01T00:00:00Z"}]'
refused "until that is no moment" "until" 'spec["overrides"] = [{"dependency": "payment", "state": "Open", "reason": "INC-42", "until": "tomorrow"}]'
refused "an override of nobody" "not in spec.dependencies" 'spec["overrides"] = [{"dependency": "bank", "state": "Open", "reason": "INC-42", "until": "2099-01-01T00:00:00Z"}]'
refused "an override of an unknown provider" "name one of midtrans, xendit" 'spec["overrides"] = [{"dependency": "payment", "provider": "nicepay", "state": "Open", "reason": "INC-42", "until": "2099-01-01T00:00:00Z"}]'
refused "an override without a reason" "reason" 'spec["overrides"] = [{"dependency": "payment", "state": "Open", "until": "2099-01-01T00:00:00Z"}]'
refused "an unknown target kind" 'supported values: "Deployment", "StatefulSet"' 'spec["targetRef"]["kind"] = "DaemonSet"'
refused "a target without a name" "targetRef" 'spec["targetRef"] = {}'
refused "one path for both probes" "give them paths of their own" 'spec["probes"]["liveness"]["path"] = "/ready"'
refused "a probe that outlasts its period" "timeoutSeconds is longer than periodSeconds" 'spec["probes"]["readiness"]["timeoutSeconds"] = 60'
refused "eleven attempts" "attempts" 'bbd["retry"]["attempts"] = 11'
refused "a method in small letters" "write it in capitals" 'bbd["retry"]["methods"] = ["get"]'
refused "a header that is the connection's" "is made by the proxy itself" 'payment["providers"][0]["headers"] = {"Host": "x"}'
refused "a status that is none" "statuses" 'bbd["retry"]["statuses"] = [200]'
refused "a bucket longer than the window" "at most breaker.interval" 'bbd["breaker"]["bucket"] = "2m"'
refused "an inbound port that is the workload's" "where the workload itself listens" 'spec["inbound"]["port"] = 8080'
refused "a duration without a unit" "interval" 'bbd["breaker"]["interval"] = "60"'
echo "    $count wrong specs refused"

# A target that is not there yet is waited for.
resilience nobody | k apply -f - >/dev/null
waits() { [ "$(condition Ready nobody)" = "False TargetNotFound" ]; }
until_true "an unknown target is told" 20 waits
k delete sres nobody >/dev/null

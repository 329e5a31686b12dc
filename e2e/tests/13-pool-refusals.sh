# Wrong pools are refused by the API server or by a condition, with the field and the way out; what a good pool had goes on.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
settled
condition() { k get pgb "$1" -o "jsonpath={.status.conditions[?(@.type==\"$2\")].$3}"; }
refused() { # WHAT EXPECTED-TEXT MORE
  local said
  said=$(more="$3" pool wrong "${4:-Write}" | k create --dry-run=server -f - 2>&1) && { fail "$1 was accepted"; return 1; }
  grep -qF -- "$2" <<<"$said" || { fail "$1: expected «$2» in: $said"; return 1; }
}
refused "a reserved setting" "the pooler makes these settings itself" '  settings: {listen_addr: "*"}'
refused "a setting with a field of its own" "spec.defaultPoolSize" '  settings: {default_pool_size: "5"}'
refused "transaction_timeout" "PostgreSQL's own transaction_timeout" '  settings: {transaction_timeout: "5"}'
refused "the port of the metrics" "6432 for writes and 6433 for reads" '  port: 8009'
refused "a privileged port" "spec.port" '  port: 80'
refused "read settings in a write pool" "set spec.mode: Read" '  read: {maxLag: 1Mi}'
refused "a lag that is none" "neither a size such as 16Mi nor a time such as 2s" '  read: {maxLag: lots}' Read
refused "a hold of a day" "not between 1s and 10m" '  failover: {maxHold: 24h}'
refused "an unknown mode" 'supported values: "Write", "Read"' '' Both

stalls() { [ "$(condition bad Stalled status)" = True ]; }
more='  settings: {serverlifetime: "60"}' pool bad Write | k apply -f - >/dev/null
until_true "an unknown setting is told" 20 stalls
condition bad Stalled message | grep -q 'spec.settings.serverlifetime: PgBouncer has no such setting' || fail "$(condition bad Stalled message)"
k delete pgb bad >/dev/null

# A Secret that lacks something is told, and picked up when it has it.
k delete secret half --ignore-not-found >/dev/null
k create secret generic half --from-literal=tls.crt=x >/dev/null
more='  tls: {secretName: half}' pool half Write | k apply -f - >/dev/null
malformed() { [ "$(condition half Stalled reason)" = SecretMalformed ]; }
until_true "a Secret that lacks its key is told" 20 malformed
condition half Stalled message | grep -q 'the Secret `half` has no `tls.key`' || fail "$(condition half Stalled message)"
k patch secret half -p '{"stringData":{"tls.key":"y"}}' >/dev/null
goes_on() { [ "$(condition half Stalled status)" = False ]; }
until_true "it goes on when the key is there" 20 goes_on
k delete pgb/half secret/half --wait=false >/dev/null

waits() { [ "$(condition early Reconciling reason)" = ClusterNotFound ]; }
pool early Write | sed "s/name: $cluster}/name: nowhere}/" | k apply -f - >/dev/null
until_true "a pool without a cluster waits" 20 waits
condition early Ready message | grep -q 'no PostgresCluster `nowhere`.*picked up when it appears' || fail "$(condition early Ready message)"
pool early Write | k apply -f - >/dev/null
until_true "it is picked up when there is one" 60 pool_serves early

# 2 pods x 40 for one database and user, and max_connections is 50.
pool_size=40 pool early Write | k apply -f - >/dev/null
sums() { condition early Degraded message | grep -q 'early: 2 pods x 40 = 80.*max_connections 50 leaves 40'; }
until_true "the sum is told" 60 sums

# A wrong password is refused as such, also while clients are held.
wrong() { ip netns exec mrg-n1 env PGPASSWORD=wrong PGCONNECT_TIMEOUT=5 psql -h "$(service_ip early)" -p 6432 -U app mrg_write -c 'SELECT 1' 2>&1 || true; }
for _ in $(seq 25); do wrong; sleep 0.1; done >"$work/wrong" &
tries=$!
switch_over
wait $tries
[ "$(grep -c 'SASL authentication failed' "$work/wrong")" = 25 ] || fail "a wrong password was not refused as such: $(sort "$work/wrong" | uniq -c)"
k delete pgb early --wait=false >/dev/null

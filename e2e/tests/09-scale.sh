# 3 → 5 → 3 members, larger volumes, and an image of another major version, which is refused while everything runs on.
source "$(dirname "$0")/lib.sh"
settled
condition() { k get pgc "$cluster" -o "jsonpath={.status.conditions[?(@.type==\"$1\")].$2}"; }
starts() { k get pods -l "app.kubernetes.io/name=postgres,mrg.bluebird.id/cluster=$cluster" -o 'jsonpath={range .items[*]}{.metadata.name}={.metadata.uid}{"\n"}{end}' | sort; }
writer_start 45
replicas=5 spec $cluster | k apply -f - >/dev/null
replicas=5 wait_healthy
may_take_over() { [ "$(k get pgc $cluster -o 'jsonpath={.status.sync}' | tr , '\n' | grep -c .)" = "$1" ]; }
until_true "the new members in /sync" 20 may_take_over 4
spec $cluster | k apply -f - >/dev/null
wait_healthy
until_true "members that are gone leave /sync" 20 may_take_over 2
# A leader without etcd needs the promise of everybody in the failsafe key, and these will never promise anything.
listed() { k exec $cluster-etcd-0 -c etcd -- etcdctl get --print-value-only "/service/$cluster/failsafe" | grep -o '"pg-[0-9]*":' | tr -d '":\n'; }
three_listed() { [ "$(listed)" = pg-0pg-1pg-2 ]; }
until_true "members that are gone leave the failsafe key" 10 three_listed
# Nor will they fetch the WAL that a slot would hold for them.
slots() { k exec "$(leader)" -c postgres -- psql -qAtc "SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ('pg_3', 'pg_4')"; }
no_slots() { [ "$(slots)" = 0 ]; }
until_true "their slots are gone" 30 no_slots
writer_end
[ "$gap" -lt 3000 ] || fail "scaling cost $gap ms"

before=$(starts)
size=2Gi spec $cluster | k apply -f - >/dev/null
claims() { k get pvc -l "app.kubernetes.io/name=postgres,mrg.bluebird.id/cluster=$cluster" -o 'jsonpath={range .items[*]}{.spec.resources.requests.storage}{"\n"}{end}' | sort -u; }
grown_claims() { [ "$(claims)" = 2Gi ]; }
until_true "every claim asks for 2Gi" 20 grown_claims
# A claim of an earlier run may be that large already, so the set is waited for, too.
grown_template() { [ "$(k get statefulset $cluster -o 'jsonpath={.spec.volumeClaimTemplates[0].spec.resources.requests.storage}' 2>/dev/null)" = 2Gi ]; }
until_true "a later member would get 2Gi" 20 grown_template
wait_healthy
[ "$(starts)" = "$before" ] || fail "growing the volumes restarted a member"

size=2Gi spec $cluster | sed s/postgres:17/postgres:18/ | k apply -f - >/dev/null
stalled() { [ "$(condition Stalled status)" = True ]; }
until_true "the major version is refused" 20 stalled
echo "    $(condition Stalled message)"
condition Stalled message | grep -q 'localhost/postgres:18.*17.*set the image back' || fail "$(condition Stalled message)"
sleep 3
[ "$(starts)" = "$before" ] || fail "a member was touched"
size=2Gi spec $cluster | k apply -f - >/dev/null
wait_healthy

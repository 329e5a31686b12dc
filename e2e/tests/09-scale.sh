# 3 → 5 → 3 members. Volumes and images: tests/lab/scale.rs.
source "$(dirname "$0")/lib.sh"
settled
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
wait_healthy

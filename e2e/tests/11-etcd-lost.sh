# Every etcd container dies at once and comes back: the leader goes on, since all members promise to wait.
source "$(dirname "$0")/lib.sh"
settled
old=$(leader)
writer_start 30
for i in 0 1 2; do kill_container $cluster-etcd-$i; done
sleep 5
for i in 0 1 2; do kill_container $cluster-etcd-$i 2>/dev/null || true; done
writer_end
[ "$gap" -lt 3000 ] || fail "the leader did not go on: $gap ms"
[ "$(leader)" = "$old" ] || fail "the lead moved from $old to $(leader)"
wait_healthy

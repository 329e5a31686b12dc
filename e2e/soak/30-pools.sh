# Everything that happens to a platform, with 200 clients behind a write pool. Nobody who had nothing under way gets an error, unless the pod that
# he was connected to goes; nothing acknowledged is lost.
source "$(dirname "$0")/../tests/lib.sh"
source "$(dirname "$0")/../tests/pools.sh"
settled
pool w Write | k apply -f - >/dev/null
until_true "the write pool serves" 60 pool_serves w

# WHAT SECONDS IDLE-ERRORS-ALLOWED COMMAND...
during() {
  local what=$1 seconds=$2 allowed=$3
  shift 3
  wait_healthy
  until_true "the write pool serves" 60 pool_serves w
  echo "  $what"
  crowd_start w 6432 mrg_write "$seconds"
  "$@"
  crowd_end
  [ "$idle_errors" -le "$allowed" ] || fail "$what cost clients that had nothing under way $idle_errors errors"
}
twenty_switchovers() { for _ in $(seq 20); do switch_over >/dev/null; sleep 1; done; }
restart_postgres() { k annotate pgc "$cluster" --overwrite "mrg.bluebird.id/test=$SECONDS" >/dev/null; work_mem=$((RANDOM % 50 + 5))MB max_connections=$((RANDOM % 20 + 60)) spec "$cluster" | k apply -f - >/dev/null; sleep 15; }
restart_poolers() { k rollout restart deploy/w >/dev/null; k rollout status deploy/w --timeout=90s >/dev/null; }
restart_operator() { k rollout restart -n mrg-system deploy/mrg-operator >/dev/null; sleep 10; }
drain() { local node; node=$(node_of "$(leader)"); k cordon "$node" >/dev/null; k delete pod "$(leader)" --wait=false >/dev/null; sleep 10; k uncordon "$node" >/dev/null; }
kill_leader_container() { kill_container "$(leader)"; sleep 5; }
cut_leader() { # from a node that keeps its pod of the pool; the crowd is on it, too
  local node
  node=$(node_of "$(leader)")
  [ "$node" != "$crowd_node" ] || { switch_over >/dev/null; node=$(node_of "$(leader)"); }
  "$lab" cut "$node" >/dev/null
  sleep 15
  "$lab" heal "$node" >/dev/null
  sleep 15
}
kill_etcd() { kill_container "$cluster-etcd-$((RANDOM % 3))"; sleep 5; }
kill_all_etcd() { for i in 0 1 2; do kill_container "$cluster-etcd-$i"; done; sleep 8; }
pooler_pods() { k get pods -l mrg.bluebird.id/pool=w --field-selector=status.phase=Running -o name; }
kill_pooler() { local pod; pod=$(pooler_pods | head -n 1); kill_container "${pod#pod/}"; sleep 5; }
paused_across_a_failover() { # its pgbouncer lives on, without the one that would rewire it
  local pod pid
  pod=$(pooler_pods | head -n 1)
  pid=$(pgrep -f 'mrg-pooler /etc/mrg/pooler.json' | while read -r pid; do grep -q "${pod#pod/}" "/proc/$pid/environ" && echo "$pid"; done | head -n 1)
  kill -STOP "$pid"
  kill_postmaster "$(leader)"
  sleep 6
  kill -CONT "$pid"
}
crowd_node=n1
during "twenty switchovers" 110 0 twenty_switchovers
during "a rolling restart of PostgreSQL" 40 0 restart_postgres
during "a rolling restart of the operator" 20 0 restart_operator
during "a drained node" 25 0 drain
during "the leader's postmaster killed" 15 0 kill_postmaster "$(leader)"
during "the leader's container killed" 20 0 kill_leader_container
during "the leader's node cut off" 60 400 cut_leader
during "an etcd member killed" 15 0 kill_etcd
during "every etcd killed" 25 0 kill_all_etcd
# From here on the clients of one pod lose their connections with it, each once.
during "a rolling restart of the poolers" 40 600 restart_poolers
during "a pooler killed" 20 400 kill_pooler
during "a pooler stopped across a failover" 30 400 paused_across_a_failover

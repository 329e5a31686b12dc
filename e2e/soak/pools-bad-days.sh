# What the soaks of pools share. Sourced.
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

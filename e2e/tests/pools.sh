# What tests of pools share. Sourced after lib.sh.
pool() { # NAME MODE; further lines of the spec come from the variable more
  cat <<Y
apiVersion: mrg.bluebird.id/v1alpha1
kind: PgBouncerPool
metadata: {name: $1}
spec:
  clusterRef: {name: $cluster}
  mode: $2
  replicas: ${pods:-2}
  image: localhost/postgres:17
  defaultPoolSize: ${pool_size:-8}
  databases: [{name: mrg_${2,,}, database: app}]
  drain: 5s
${more:-}
Y
}
pool_serves() {
  local said
  said=$(k get pgb "$1" -o 'jsonpath={.metadata.generation} {.status.observedGeneration} {range .status.conditions[*]}{.type}={.reason} {end}')
  set -- $said
  [ "${1:-}" = "${2:-}" ] && [[ $said = *" Ready=Healthy Reconciling=Settled "* ]]
}
service_ip() { k get service "$1" -o 'jsonpath={.spec.clusterIP}'; }
crowd_start() { # POOL PORT DATABASE SECONDS [MORE...]
  local program=${CARGO_TARGET_DIR:-$root/target}/lab/examples/crowd pool=$1 port=$2 database=$3 seconds=$4
  shift 4
  rm -f "$work/progress"
  # From a node: Services exist only there.
  PGPASSWORD=$(password app-password) ip netns exec "mrg-${crowd_node:-n1}" "$program" --host "$(service_ip "$pool")" --port "$port" --database "$database" \
    --user app --seconds "$seconds" --progress "$work/progress" "$@" >"$work/crowd.out" 2>"$work/crowd.err" &
  crowd=$!
  until_true "the first transactions" 30 test -s "$work/progress"
  sleep 1
}
said() { sed "s/.*\"$1\":\([0-9.]*\).*/\1/" "$work/crowd.out"; }
crowd_end() { # sets in_flight_errors, idle_errors, longest_ms; fails if a row was lost
  wait "$crowd" || { fail "the crowd failed: $(cat "$work/crowd.out" "$work/crowd.err")"; return 1; }
  echo "    $(cat "$work/crowd.out")"
  in_flight_errors=$(said in_flight_errors) idle_errors=$(said idle_errors) longest_ms=$(said longest_ms)
}
rest() { # MEMBER METHOD PATH BODY
  local ip
  ip=$(k get pod "$1" -o 'jsonpath={.status.podIP}')
  "$lab" enter curl -sS -m 70 -u "mrg:$(password rest-password)" -X "$2" -d "$4" "http://$ip:8008$3"
}
switch_over() { # and says what was said; waits until somebody could take over
  local from said end=$((SECONDS + 60))
  while :; do
    from=$(leader)
    said=$(rest "$from" POST /switchover "{\"leader\": \"$from\"}" || true)
    [[ $said != Successfully* ]] || break
    [ $SECONDS -lt $end ] || { fail "no switchover for a minute: $said"; return 1; }
    sleep 0.5
  done
  echo "    $said"
  until_true "the status names the new leader" 20 led_by_another "$from"
}
led_by_another() { [ -n "$(leader)" ] && [ "$(leader)" != "$1" ]; }
kill_postmaster() { k exec "$1" -c postgres -- bash -c 'kill -9 $(head -1 /var/lib/postgresql/data/pgdata/postmaster.pid)'; }

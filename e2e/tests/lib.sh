# What the tests of the lab share. Sourced.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
lab=$root/e2e/lab/lab
work=$(mktemp -d)
cluster=pg

k() { "$lab" enter kubectl "$@"; }
fail() { echo "    $*" >&2; return 1; }

# Volumes only grow.
grown() { k get pgc "$1" -o 'jsonpath={.spec.storage.size}' 2>/dev/null || echo 1Gi; }
# A small, quick cluster. Further lines of the spec come by standard input.
spec() { # NAME
  cat <<Y
apiVersion: mrg.bluebird.id/v1alpha1
kind: PostgresCluster
metadata: {name: $1}
spec:
  replicas: ${replicas:-3}
  image: localhost/postgres:17
  storage: {size: ${size:-$(grown "$1")}}
  etcd: {managed: {replicas: 3, image: localhost/etcd:3.6, storage: {size: 1Gi}}}
  failover: {ttl: 5s, loopWait: 1s, retryTimeout: 2s}
  replication: {mode: Quorum, count: 1}
  scheduling: {spread: Required}
  bootstrap: {databases: [{name: app, owner: app}]}
  postgresql: {parameters: {max_connections: "${max_connections:-50}", shared_buffers: 32MB, work_mem: "${work_mem:-4MB}"}}
Y
}
leader() { k get pgc "$cluster" -o 'jsonpath={.status.leader}'; }
node_of() { k get pod "$1" -o 'jsonpath={.spec.nodeName}'; }
healthy() {
  local said
  said=$(k get pgc "$cluster" -o 'jsonpath={.metadata.generation} {.status.observedGeneration} {.status.ready} {range .status.conditions[*]}{.type}={.reason} {end}')
  set -- $said
  [ "${1:-}" = "${2:-}" ] && [ "${3:-}" = "${replicas:-3}/${replicas:-3}" ] && [[ $said = *" Ready=Healthy Reconciling=Settled "* ]]
}
until_true() { # WHAT SECONDS COMMAND...
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" 2>/dev/null; do
    [ $SECONDS -lt $end ] || { fail "$what did not come true"; k get pgc,pods -o wide >&2 || true; return 1; }
    sleep 0.5
  done
}
# As a test finds it, whatever the one before left; the first one creates it.
settled() {
  spec "$cluster" | k apply -f - >/dev/null
  sleep 1
  wait_healthy 180
}
wait_healthy() {
  until_true "a healthy cluster" "${1:-120}" healthy
  # After a cut etcd's members find each other again later than the database's: TCP waits longer and longer between two tries.
  until_true "an etcd with all its members" 60 etcd_healthy
}
etcd_healthy() { [ "$(k exec "$cluster-etcd-0" -c etcd -- etcdctl endpoint health --cluster --command-timeout=2s 2>&1 | grep -c 'is healthy')" = 3 ]; }
hosts() { k get pods -l "app.kubernetes.io/name=postgres,mrg.bluebird.id/cluster=$cluster" -o 'jsonpath={range .items[*]}{.status.podIP}:5432{"\n"}{end}'; }
password() { k get secret "$cluster-credentials" -o "jsonpath={.data.$1}" | base64 -d; }

writer_start() { # SECONDS
  hosts >"$work/hosts"
  rm -f "$work/progress"
  local program=${CARGO_TARGET_DIR:-$root/target}/lab/examples/writer
  PGPASSWORD=$(password superuser-password) "$lab" enter "$program" --hosts-file "$work/hosts" --seconds "$1" --progress "$work/progress" \
    >"$work/writer.out" 2>"$work/writer.err" &
  writer=$!
  until_true "the first writes" 20 test -s "$work/progress"
  sleep 1
}
writer_end() { # sets gap, acknowledged; fails if a row was lost
  wait "$writer" || { fail "the writer failed: $(cat "$work/writer.out" "$work/writer.err")"; return 1; }
  gap=$(sed 's/.*"longest_gap_ms":\([0-9]*\).*/\1/' "$work/writer.out")
  echo "    $(cat "$work/writer.out")"
  grep -q '"lost":0' "$work/writer.out" || fail "acknowledged rows were lost"
}
kill_container() {
  local node id
  node=$(node_of "$1")
  id=$(k get pod "$1" -o 'jsonpath={.status.containerStatuses[0].containerID}')
  ctr -a "/run/mrg-lab/$node/containerd.sock" -n k8s.io task kill --signal SIGKILL "${id#containerd://}"
}
# The same without the API server: the container's id is learned before.

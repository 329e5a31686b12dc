# A read pool leaves a standby that is too far behind, uses the leader or refuses when there is none, and comes back.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
settled
laggards() { pods=1 more="  read: {maxLag: 1Mi, fallback: $1}
  failover: {maxHold: 3s}" pool l Read | k apply -f - >/dev/null; }
laggards Primary
until_true "the read pool serves" 60 pool_serves l
lead=$(leader)
standbys=$(k get pods -l "app.kubernetes.io/name=postgres,mrg.bluebird.id/cluster=$cluster" -o name | sed 's|pod/||' | grep -v "^$lead$")
one=$(head -n 1 <<<"$standbys") two=$(tail -n 1 <<<"$standbys")
ip() { k get pod "$1" -o 'jsonpath={.status.podIP}{"\n"}'; }
sql() { k exec "$1" -c postgres -- psql -U postgres -d app -Atqc "$2"; }
# Who answers a few clients at once, since one after another they would share a connection; an error's text instead.
readers() {
  k exec "$lead" -c postgres -- bash -c "export PGPASSWORD='$(password app-password)' PGCONNECT_TIMEOUT=20
    for _ in 1 2 3 4 5 6; do psql -h l -p 6433 -U app -d mrg_read -Atqc 'SELECT inet_server_addr() FROM pg_sleep(0.3)' 2>&1 & done; wait" | sort -u | tr '\n' ' '
}
are() { local seen; seen=$(readers); [ "$seen" = "$(for member in "$@"; do ip "$member"; done | sort -u | tr '\n' ' ')" ]; }
until_true "both standbys are read from" 30 are "$one" "$two"
grow() { sql "$lead" "CREATE TABLE IF NOT EXISTS lag (x text); INSERT INTO lag SELECT md5(random()::text) FROM generate_series(1, 60000)" 2>/dev/null; }
trap 'for member in "$one" "$two"; do sql "$member" "SELECT pg_wal_replay_resume()"; done >/dev/null; sql "$lead" "DROP TABLE IF EXISTS lag"' EXIT
sql "$one" "SELECT pg_wal_replay_pause()" >/dev/null
grow
began=$(date +%s%N)
until_true "the laggard is left" 10 are "$two"
echo "    left after $((($(date +%s%N) - began) / 1000000)) ms, six reads included"
sql "$two" "SELECT pg_wal_replay_pause()" >/dev/null
grow
until_true "without a standby the leader is read from" 10 are "$lead"
[ "$(k get pgb l -o 'jsonpath={.status.target}')" = "$lead" ] || fail "TARGET: $(k get pgb l -o 'jsonpath={.status.target}')"
# The new pods of a pool find a server first: until then its old ones go on as before.
sql "$one" "SELECT pg_wal_replay_resume()" >/dev/null
until_true "the one that caught up is read from" 20 are "$one"
laggards Refuse
changed() { pool_serves l && k rollout status deploy/l --timeout=60s >/dev/null; }
until_true "the pool's new pods" 60 changed
until_true "the near one is read from by the new pods, too" 20 are "$one"
sql "$one" "SELECT pg_wal_replay_pause()" >/dev/null
grow
refuses() { [[ "$(readers)" == *"no server"* || "$(readers)" == *"paus"* || "$(readers)" == *"rror"* ]]; }
until_true "without a standby nobody is served" 100 refuses
echo "    what clients are told: $(readers | head -c 200)"
sql "$one" "SELECT pg_wal_replay_resume()" >/dev/null
until_true "the one that caught up is read from" 20 are "$one"
sql "$two" "SELECT pg_wal_replay_resume()" >/dev/null
until_true "both are" 20 are "$one" "$two"
k delete pgb l --wait=false >/dev/null

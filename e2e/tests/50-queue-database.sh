# The queue in PostgreSQL, through a write pool: what was acknowledged outlives its pods, is sent once by whoever is there, and waits on the pods' volumes
# while the database takes nobody.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
source "$(dirname "$0")/resilience.sh"
settled
pods=1 pool q Write | k apply -f - >/dev/null
until_true "the pool serves" 60 pool_serves q
for name in bbd midtrans xendit; do stand_in $name 1; echo ---; done | k apply -f - >/dev/null
stand_in taxi 3 | k apply -f - >/dev/null
k create secret generic taxi-queue --from-literal=dsn="postgres://app:$(password app-password)@q:6432/mrg_write" --dry-run=client -o yaml | k apply -f - >/dev/null
resilience taxi | sed 's/queue: {volume: {}}/queue: {database: {secretName: taxi-queue}, volume: {}}/' | k apply -f - >/dev/null
ready() { [ "$(condition Enforced taxi)" = "True Enforced" ] && [ "$(k get sres taxi -o 'jsonpath={.status.pods.summary}')" = 3/3 ]; }
until_true "enforced in every pod" 120 ready
says() { k get sres taxi -o "jsonpath={.status.queue.$1}"; }
is() { [ "$(says "$1")" = "$2" ]; }
sql() { k exec "$(leader)" -c postgres -- psql -U postgres -d app -Atc "$1"; }
# A test before may have left its rows.
sql 'DROP TABLE IF EXISTS mrg_queue' >/dev/null 2>&1
k delete pod -l app=taxi --wait=true >/dev/null
until_true "enforced in every pod" 120 ready
k scale deploy/bbd --replicas=0 >/dev/null
k wait --for=delete pod -l app=bbd --timeout=40s >/dev/null
order() { call "$(address taxi)" 19001 POST /orders "$1" | grep -q '"status":202' || fail "$1: $(call "$(address taxi)" 19001 POST /orders "$1")"; }
for number in $(seq 10); do order "kept-$number"; done
# One may be out on its next try at this moment.
[ "$(sql "SELECT count(*) FROM mrg_queue WHERE standing IN ('Waiting', 'Sending')")" = 10 ] || fail "rows: $(sql 'SELECT standing, count(*) FROM mrg_queue GROUP BY 1')"
until_true "the depth in the status" 10 is depth 10
k delete pod -l app=taxi --wait=true >/dev/null
until_true "enforced in every pod" 120 ready
until_true "the queue outlives its pods" 20 is depth 10

# The database takes nobody: requests wait on the volume, and are moved when it does again.
sql 'ALTER ROLE app CONNECTION LIMIT 0' >/dev/null
sql "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'" >/dev/null
for number in $(seq 5); do order "on-volume-$number"; done
until_true "requests on the volume" 10 is onVolumes 5
sql 'ALTER ROLE app CONNECTION LIMIT -1' >/dev/null
until_true "they are moved" 90 is onVolumes 0
[ "$(sql "SELECT count(*) FROM mrg_queue WHERE standing <> 'Done'")" = 15 ] || fail "rows: $(sql 'SELECT standing, count(*) FROM mrg_queue GROUP BY 1')"
k scale deploy/bbd --replicas=1 >/dev/null
until_true "everything is sent" 120 is depth 0
counted=$(received bbd '["byKey"]' | python3 -c 'import ast,sys; d=ast.literal_eval(sys.stdin.read()); print(len(d), max(d.values(), default=0))')
[ "$counted" = "15 1" ] || fail "keys and the most often: $counted; $(sql 'SELECT idempotency_key, standing, attempts, note FROM mrg_queue')"
k delete sres/taxi deploy/taxi service/taxi pgb/q --wait=false >/dev/null

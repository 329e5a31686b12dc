# Reads of orders are split: by itself, step by step, judged beside the orchestrator's own answers; a missing user is told; orders that have ended leave the
# leader alone; a failover is noticed by no reader; one field goes back.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
source "$(dirname "$0")/resilience.sh"
source "$(dirname "$0")/platform.sh"
rollout='{progressDeadline: 60s, canary: {steps: [10, 25, 50], bake: 6s, minimumSamples: 20, maximumLatencyPercent: 1000}}'
work=$(mktemp -d)
settled
platform_up
until_true "ten services" 180 platform_settled

# A pool that does not let the users in: told, with the way out.
read_split='{activeReplicas: 2, historyReplicas: 2}'
platform | k apply -f - >/dev/null
told() { oss .status.readSplit.message | grep -qF "$1"; }
until_true "what is missing is told" 20 told "PgBouncerPool platform-write does not know the user mrg_orders_active: add it to its spec.users"
for name in platform-write platform-read; do k patch pgb $name --type=merge -p '{"spec": {"users": ["mrg_orders_active", "mrg_orders_history"]}}' >/dev/null; done
ready() { [ "$(k get deploy "$1" -o 'jsonpath={.status.readyReplicas}')" = 2 ]; }
until_true "orders under way are served" 90 ready orders-active
until_true "and those that have ended" 60 ready orders-history

# Orders, and who may write them.
sql() { k exec "$(leader)" -c postgres -- psql -U postgres -d app -Atc "$1"; }
sql "INSERT INTO orders (id, customer, state, created_at, updated_at, detail) SELECT gen_random_uuid(), 'ana', CASE WHEN n % 10 = 0 THEN 'ongoing' ELSE 'completed' END, now() - n * interval '1 minute', now() - n * interval '1 minute', '{\"fare\": 45000}' FROM generate_series(1, 1000) n" >/dev/null
ended=$(sql "SELECT id FROM orders WHERE state = 'completed' LIMIT 1") active=$(sql "SELECT id FROM orders WHERE state = 'ongoing' LIMIT 1")
[ "$(sql "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename IN ('orders', 'orders_archived')")" = app ] || fail "the tables are not the database owner's"
sql "SET ROLE mrg_orders_history; SET default_transaction_read_only = off; UPDATE orders SET state = 'failed'" 2>&1 | grep -q "permission denied" || fail "the history's user can write"

# Without traffic nothing rises; with it the split goes its way.
load() { # PATH SECONDS
  ip netns exec mrg-n1 timeout $(($2 + 20)) python3 "$root/e2e/http-load" "http://$(service orderorchestrator):8080$1" "$2" 8 >"$work/load" 2>&1 &
  load=$!
}
load "/orders/$ended/history" 60
began=$SECONDS seen=""
while [ $((SECONDS - began)) -lt 100 ]; do
  now=$(oss .status.readSplit.weight)
  case " $seen " in *" $now "*) ;; *) seen+=" $now"; echo "    after $((SECONDS - began)) s: $now% of order reads" ;; esac
  [ "$now" = 100 ] && break
  sleep 0.5
done
[ "$seen" = " 0 10 25 50 100" ] || [ "$seen" = " 10 25 50 100" ] || fail "the weights were $seen: $(oss .status.readSplit.message)"
wait $load || true
echo "    $(cat "$work/load")"
grep -q '"wrong": 0' "$work/load" || fail "order reads failed while they were split"
ask() { in_net curl -s -o "$work/body" -D "$work/head" -w '%{http_code}' "http://$(service orderorchestrator):8080$1"; }
source_of() { ask "$1" >/dev/null; tr -d '\r' <"$work/head" | awk 'tolower($1) == "order-source:" { print $2 }'; }
[ "$(ask "/orders/$ended/history")" = 200 ] && grep -q '"fare": *45000' "$work/body" || fail "history: $(cat "$work/head" "$work/body")"
[ "$(source_of "/orders/$ended/history")" = cache ] || fail "history came from $(source_of "/orders/$ended/history")"
case $(source_of "/orders/$active/active") in primary | cache) ;; *) fail "an active order came from $(cat "$work/head")" ;; esac
[ "$(ask "/orders/$ended/active")" = 404 ] || fail "an ended order is active: $(cat "$work/body")"
# What changes is seen at once.
sql "UPDATE orders SET state = 'completed' WHERE id = '$active'" >/dev/null
over() { [ "$(ask "/orders/$active/active")" = 404 ]; }
until_true "the end of an order" 5 over

# A failover that no order read notices.
active=$(sql "SELECT id FROM orders WHERE state = 'ongoing' LIMIT 1")
from=$(leader)
load "/orders/$active/active" 20
sleep 4
k exec "$from" -c postgres -- sh -c 'kill -KILL $(head -1 "$PGDATA/postmaster.pid" 2>/dev/null || pgrep -o postgres)' >/dev/null 2>&1 || k delete pod "$from" --force --grace-period=0 >/dev/null 2>&1
until_true "another leads" 40 led_by_another "$from"
wait $load || true
echo "    reads of an active order across a failover from $from to $(leader): $(cat "$work/load")"
grep -q '"wrong": 0' "$work/load" || fail "readers noticed the failover"
settled

# The way back is one field.
read_split='{activeReplicas: 2, historyReplicas: 2, weight: 0}'
platform | k apply -f - >/dev/null
back() { [ -z "$(source_of "/orders/$ended/history")" ]; }
until_true "the orchestrator answers again" 20 back
read_split=
platform | k apply -f - >/dev/null
without() { [ -z "$(k get deploy,service -o name | grep orders-)" ]; }
until_true "the two deployments are gone" 60 without
rm -rf "$work"
platform_gone

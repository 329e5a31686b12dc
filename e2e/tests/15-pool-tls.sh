# TLS towards clients, several PgBouncer processes behind one port, and cancel requests that find their way among them.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
settled
k delete secret pool-tls --ignore-not-found >/dev/null
more='  processes: 2
  tls: {secretName: pool-tls}' pods=1 pool t Write | k apply -f - >/dev/null
waits() { k get pgb t -o 'jsonpath={.status.conditions[?(@.type=="Reconciling")].reason}' | grep -qx SecretNotFound; }
until_true "a missing Secret is told" 20 waits
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=t -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
k create secret tls pool-tls --cert="$work/tls.crt" --key="$work/tls.key" >/dev/null
until_true "the pool serves once the Secret is there" 60 pool_serves t
ask() { ip netns exec mrg-n1 env PGPASSWORD="$(password app-password)" PGSSLMODE="$1" PGCONNECT_TIMEOUT=5 psql -h "$(service_ip t)" -p 6432 -U app mrg_write -Atc "$2" 2>&1; }
# The node may know the Service's new pod a moment later than the status.
reached() {
  answer=$(ask require 'SELECT 1')
  case "$answer" in 1 | *refused* | *"No route"*) ;; *) fail "$answer" ;; esac
  [ "$answer" = 1 ]
}
until_true "the Service leads to it" 10 reached
ask disable 'SELECT 1' | grep -q 'no authentication method found\|SSL required' || fail "without TLS: $(ask disable 'SELECT 1')"
running=$(k exec deploy/t -c pgbouncer -- bash -c 'cat /proc/[0-9]*/comm' 2>/dev/null | grep -cx pgbouncer)
[ "$running" = 2 ] || fail "$running PgBouncer processes"

# psql's cancel request is a connection of its own, and reaches either process.
for _ in 1 2 3 4 5 6; do
  ask require 'SELECT pg_sleep(20)' >"$work/cancelled" &
  asked=$!
  sleep 0.7
  pkill -INT -n -x psql
  wait $asked || true
  grep -q 'canceling statement due to user request' "$work/cancelled" || fail "not cancelled: $(cat "$work/cancelled")"
done
k delete pgb t --wait=false >/dev/null

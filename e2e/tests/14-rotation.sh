# New passwords: nobody who is connected notices, and from some moment on the new one opens the pool and the server, and the old one does not.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
settled
pool w Write | k apply -f - >/dev/null
until_true "the write pool serves" 60 pool_serves w
old=$(password app-password)
login() { ip netns exec mrg-n1 env PGPASSWORD="$1" PGCONNECT_TIMEOUT=5 psql -h "$2" -p "$3" -U app "$4" -Atc 'SELECT 1' 2>&1; }
direct() { login "$1" "$(k get pod "$(leader)" -o 'jsonpath={.status.podIP}')" 5432 app; }
pooled() { login "$1" "$(service_ip w)" 6432 mrg_write; }
# A pool that is ready is not yet a Service that every node knows.
opens() { [ "$(pooled "$old")" = 1 ]; }
until_true "the password opens the pool" 30 opens
printf %s "$old" >"$work/password"
crowd_start w 6432 mrg_write 170 --password-file "$work/password"
k annotate pgc $cluster --overwrite "mrg.bluebird.id/rotate-passwords=$(date +%s)" >/dev/null
changed() { [ "$(password app-password)" != "$old" ]; }
until_true "a new password stands in the Secret" 20 changed
new=$(password app-password)
taken() { [ "$(direct "$new")" = 1 ] && [ "$(pooled "$new")" = 1 ] && [ "$(pooled "$new")" = 1 ]; }
until_true "the new password opens the server and the pool" 140 taken
direct "$old" | grep -q 'password authentication failed' || fail "the old password still opens the server"
printf %s "$new" >"$work/password"
sleep 3
kill -INT "$(pgrep -n -f "examples/crowd --host $(service_ip w)")"
crowd_end
[ "$in_flight_errors" = 0 ] && [ "$idle_errors" = 0 ] || fail "a new password cost clients errors"

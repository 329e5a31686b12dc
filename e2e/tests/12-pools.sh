# A write pool and a read pool with a crowd of clients: planned switchovers cost nobody an error, a killed postmaster or container only those
# who were in a transaction, and everybody's acknowledged rows are there.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
settled
pool w Write | k apply -f - >/dev/null
pool r Read | k apply -f - >/dev/null
until_true "the write pool serves" 60 pool_serves w
until_true "the read pool serves" 60 pool_serves r

crowd_start w 6432 mrg_write 16
for _ in 1 2 3; do
  switch_over
  sleep 2
done
crowd_end
[ "$in_flight_errors" = 0 ] && [ "$idle_errors" = 0 ] || fail "a planned switchover cost clients errors"

for fault in kill_postmaster kill_container; do
  wait_healthy
  crowd_start w 6432 mrg_write 14
  $fault "$(leader)"
  crowd_end
  [ "$idle_errors" = 0 ] || fail "$fault cost clients that had nothing under way an error"
done
wait_healthy

# A read pool's clients do not notice that a standby goes: those on it get one error each.
crowd_start r 6433 mrg_read 10 --read-only
sync=$(k get pgc $cluster -o 'jsonpath={.status.sync}')
k delete pod "${sync%%,*}" --wait=false >/dev/null
crowd_end
[ "$idle_errors" = 0 ] || fail "a standby that left cost clients of the read pool that had nothing under way an error"
wait_healthy
until_true "the standby is back in the read pool" 20 pool_serves r
k get pgb

# A write pool and a read pool with a crowd of clients: planned switchovers cost nobody an error, a killed postmaster only those who were in a
# transaction, and everybody's acknowledged rows are there.
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/pools.sh"
settled
pool w Write | k apply -f - >/dev/null
pool r Read | k apply -f - >/dev/null
until_true "the write pool serves" 60 pool_serves w
until_true "the read pool serves" 60 pool_serves r

crowd_start w 6432 mrg_write 14
for _ in 1 2 3; do
  switch_over
  sleep 2
done
crowd_end
[ "$in_flight_errors" = 0 ] && [ "$idle_errors" = 0 ] || fail "a planned switchover cost clients errors"

crowd_start w 6432 mrg_write 10
kill_postmaster "$(leader)"
crowd_end
[ "$idle_errors" = 0 ] || fail "a failover cost clients that had nothing under way an error"
wait_healthy
k get pgb

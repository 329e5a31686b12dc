# The leader's postmaster, then its container, are killed under load.
source "$(dirname "$0")/lib.sh"
settled
old=$(leader)
writer_start 10
k exec "$old" -c postgres -- sh -c 'kill -9 $(head -n 1 /var/lib/postgresql/data/pgdata/postmaster.pid)'
writer_end
[ "$gap" -lt 4000 ] || fail "the lease was waited for: $gap ms"
wait_healthy
old=$(leader)
writer_start 12
kill_container "$old"
writer_end
[ "$gap" -lt 12000 ] || fail "$gap ms"
wait_healthy

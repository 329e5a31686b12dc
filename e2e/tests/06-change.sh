# A changed parameter reloads; one that needs a restart reaches replicas first and the leader last, after a switchover.
source "$(dirname "$0")/lib.sh"
settled
show() { k exec "$1" -c postgres -- psql -qAtc "show $2"; }
work_mem=8MB spec $cluster | k apply -f - >/dev/null
until_true "work_mem is reloaded everywhere" 30 bash -c "$(declare -f k show); lab='$lab'; for i in 0 1 2; do [ \"\$(show $cluster-\$i work_mem)\" = 8MB ] || exit 1; done"
old=$(leader)
writer_start 40
work_mem=8MB max_connections=60 spec $cluster | k apply -f - >/dev/null
until_true "max_connections is changed everywhere" 100 bash -c "$(declare -f k show); lab='$lab'; for i in 0 1 2; do [ \"\$(show $cluster-\$i max_connections)\" = 60 ] || exit 1; done"
writer_end
[ "$(leader)" != "$old" ] || fail "the leader was restarted without a switchover"
[ "$gap" -lt 5000 ] || fail "$gap ms"
wait_healthy

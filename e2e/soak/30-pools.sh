# Everything that happens to a platform, with 200 clients behind a write pool. Nobody who had nothing under way gets an error, unless the pod that
# he was connected to goes; nothing acknowledged is lost.
source "$(dirname "$0")/../tests/lib.sh"
source "$(dirname "$0")/../tests/pools.sh"
settled
pool w Write | k apply -f - >/dev/null
until_true "the write pool serves" 60 pool_serves w

source "$(dirname "$0")/pools-bad-days.sh"
crowd_node=n1
during "twenty switchovers" 110 0 twenty_switchovers
during "a rolling restart of PostgreSQL" 40 0 restart_postgres
during "a rolling restart of the operator" 20 0 restart_operator
during "a drained node" 25 0 drain
during "the leader's postmaster killed" 15 0 kill_postmaster "$(leader)"
during "the leader's container killed" 20 0 kill_leader_container
during "the leader's node cut off" 60 400 cut_leader
during "an etcd member killed" 15 0 kill_etcd
during "every etcd killed" 25 0 kill_all_etcd

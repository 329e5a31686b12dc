# Poolers that restart, die and hang, with 200 clients behind them: the clients of one pod lose their connections with it, each once at most.
source "$(dirname "$0")/../tests/lib.sh"
source "$(dirname "$0")/../tests/pools.sh"
settled
pool w Write | k apply -f - >/dev/null
until_true "the write pool serves" 60 pool_serves w

source "$(dirname "$0")/pools-bad-days.sh"
crowd_node=n1
during "a rolling restart of the poolers" 40 600 restart_poolers
during "a pooler killed" 20 400 kill_pooler
during "a pooler stopped across a failover" 30 400 paused_across_a_failover

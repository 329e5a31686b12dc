# An etcd member loses its volume: it leaves, joins again, and nobody notices.
source "$(dirname "$0")/lib.sh"
settled
writer_start 25
node=$(node_of $cluster-etcd-0)
claim=$(k get pvc data-$cluster-etcd-0 -o 'jsonpath={.spec.volumeName}')
path=$(k get pv "$claim" -o 'jsonpath={.spec.local.path}')
rm -rf "$path"/*
k delete pod $cluster-etcd-0 --grace-period=0 --force >/dev/null 2>&1
until_true "the member is back" 60 bash -c "$(declare -f k); lab='$lab'; [ \"\$(k get pod $cluster-etcd-0 -o 'jsonpath={.status.containerStatuses[0].ready}')\" = true ]"
writer_end
[ "$gap" -lt 5000 ] || fail "$gap ms"
count=$(k exec $cluster-etcd-1 -c etcd -- etcdctl member list 2>/dev/null | grep -c started)
[ "$count" = 3 ] || fail "$count etcd members"
wait_healthy

# API server, controller-manager, scheduler and operator are gone while the leader dies: the failover does not need them.
source "$(dirname "$0")/lib.sh"
settled
old=$(leader)
node=$(node_of "$old")
id=$(k get pod "$old" -o 'jsonpath={.status.containerStatuses[0].containerID}')
k scale -n mrg-system deploy/mrg-operator --replicas=0 >/dev/null
writer_start 14
"$lab" stop-control-plane
ctr -a "/run/mrg-lab/$node/containerd.sock" -n k8s.io task kill --signal SIGKILL "${id#containerd://}"
writer_end || { "$lab" start-control-plane; exit 1; }
"$lab" start-control-plane
k scale -n mrg-system deploy/mrg-operator --replicas=2 >/dev/null
[ "$gap" -lt 10000 ] || fail "$gap ms"
wait_healthy

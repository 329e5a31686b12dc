# The leader's agent is stopped past its lease and goes on later, as a machine under a hypervisor may: its fence has killed postgres before
# anybody else could lead, and it comes back as a standby.
source "$(dirname "$0")/lib.sh"
settled
old=$(leader)
node=$(node_of "$old")
id=$(k get pod "$old" -o 'jsonpath={.status.containerStatuses[0].containerID}')
pid=$(ctr -a "/run/mrg-lab/$node/containerd.sock" -n k8s.io task ls | awk -v id="${id#containerd://}" '$1 == id { print $2 }')
writer_start 20
kill -STOP "$pid"
sleep 9
[ -z "$(pgrep -P "$pid" -f 'postgres -D' || true)" ] || { kill -CONT "$pid"; fail "postgres outlived the lease"; }
moved() { [ -n "$(leader)" ] && [ "$(leader)" != "$old" ]; }
until_true "another leader" 10 moved || { kill -CONT "$pid"; exit 1; }
kill -CONT "$pid"
writer_end
[ "$gap" -lt 9000 ] || fail "$gap ms"
wait_healthy

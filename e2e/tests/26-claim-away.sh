# A standby's volume is thrown away, and takes its time to go. Kubernetes tries to make the pod after longer and longer waits, and is not told when it could;
# the operator has it try again.
source "$(dirname "$0")/lib.sh"
settled
lead=$(leader)
member=$(k get pods -l "app.kubernetes.io/name=postgres,mrg.bluebird.id/cluster=$cluster" -o name | sed 's|pod/||' | grep -v "^$lead$" | head -n 1)
claim=data-$member
old=$(k get pvc "$claim" -o 'jsonpath={.metadata.uid}')
release() { k get pvc "$claim" -o 'jsonpath={.metadata.uid}' 2>/dev/null | grep -q "$old" && k patch pvc "$claim" --type=merge -p '{"metadata": {"finalizers": null}}' >/dev/null || true; }
trap release EXIT
k patch pvc "$claim" --type=merge -p '{"metadata": {"finalizers": ["kubernetes.io/pvc-protection", "mrg.bluebird.id/test"]}}' >/dev/null
k delete pvc "$claim" --wait=false >/dev/null
k delete pod "$member" >/dev/null
sleep 30
! k get pod "$member" >/dev/null 2>&1 || fail "$member is there, on a volume that goes away"
told() { k get pgc $cluster -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}'; }
[[ "$(told)" = *"$member: no pod"* ]] || fail "what is missing is not said: $(told)"
release
began=$(date +%s%N)
until_true "the pod" 15 k get pod "$member" -o name >/dev/null
echo "    made after $((($(date +%s%N) - began) / 1000000)) ms"
wait_healthy
[ "$(k get pvc "$claim" -o 'jsonpath={.metadata.uid}')" != "$old" ] || fail "the volume is the old one"

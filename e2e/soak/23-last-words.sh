# A container that dies for the second time is restarted late by the kubelet. Its own last words, read by the operator, end its lease at once.
source "$(dirname "$0")/../tests/lib.sh"
settled
spec $cluster | sed 's/ttl: 5s, loopWait: 1s, retryTimeout: 2s/ttl: 30s, loopWait: 2s, retryTimeout: 3s/' | k apply -f - >/dev/null
sleep 8
# The status is a moment behind what is done to the pods.
old=$(leader)
k delete pod "$old" >/dev/null
sleep 5
wait_healthy
old=$(leader)
kill_container "$old"
sleep 5
wait_healthy
# Twice the same member within ten minutes.
if [ "$(leader)" != "$old" ]; then
  now=$(leader)
  address=$(k get pod "$now" -o 'jsonpath={.status.podIP}')
  "$lab" enter curl -sf -u "mrg:$(password rest-password)" -d "{\"leader\":\"$now\",\"candidate\":\"$old\"}" "http://$address:8008/switchover" >/dev/null
  back() { [ "$(leader)" = "$old" ]; }
  until_true "$old leads" 20 back
  wait_healthy
fi
writer_start 40
kill_container "$old"
writer_end || exit 1
k logs -n mrg-system deploy/mrg-operator --since=60s --all-pods 2>/dev/null | grep -h 'its lease is revoked' | sed 's/^/    /' | cut -c1-220 || true
[ "$gap" -lt 9000 ] || fail "the lease was waited for: $gap ms"
wait_healthy
spec $cluster | k apply -f - >/dev/null
sleep 3
wait_healthy

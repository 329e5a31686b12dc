# Deleting the object deletes what belongs to it, and keeps the volumes and the passwords; a new object finds its data again.
source "$(dirname "$0")/lib.sh"
settled
identifier=$(k get pgc $cluster -o 'jsonpath={.status.systemIdentifier}')
k delete pgc $cluster --wait >/dev/null
until_true "the pods are gone" 90 bash -c "$(declare -f k); lab='$lab'; [ -z \"\$(k get pods -l mrg.bluebird.id/cluster=$cluster -o name)\" ]"
[ "$(k get pvc -l mrg.bluebird.id/cluster=$cluster -o name | wc -l)" -ge 3 ] || fail "volumes are gone"
spec $cluster | k apply -f - >/dev/null
wait_healthy 150
[ "$(k get pgc $cluster -o 'jsonpath={.status.systemIdentifier}')" = "$identifier" ] || fail "another database"

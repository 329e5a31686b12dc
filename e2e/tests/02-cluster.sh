# From kubectl apply to three streaming members; once settled, nothing is written any more; what cannot change is refused.
source "$(dirname "$0")/lib.sh"
began=$(date +%s%3N)
spec $cluster | k apply -f - >/dev/null
wait_healthy 180
echo "    healthy after $(($(date +%s%3N) - began)) ms"
k get pgc $cluster | sed 's/^/    /'
labelled() { [ "$(k get pods -l "mrg.bluebird.id/cluster=$cluster,mrg.bluebird.id/role=$1" -o name | wc -l)" = "$2" ]; }
until_true "one pod with the primary's label" 20 labelled primary 1
until_true "two pods with the replica's label" 20 labelled replica 2
k exec "$(leader)" -c postgres -- psql -qAtc 'select 1' >/dev/null

sleep 8
objects() { k get pgc,sts,svc,cm,secret,pdb,sa,pod -l "mrg.bluebird.id/cluster=$cluster" -o 'jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}'; k get pgc $cluster -o 'jsonpath={.metadata.resourceVersion}'; }
before=$(objects)
sleep 12
[ "$before" = "$(objects)" ] || { diff <(echo "$before") <(objects) >&2; fail "a settled cluster was written to"; }

said=$(k patch pgc $cluster --type=merge -p '{"spec":{"storage":{"size":"500Mi"}}}' 2>&1) && fail "storage shrank"
grep -q 'volumes only grow' <<<"$said" || fail "unclear: $said"
said=$(k patch pgc $cluster --type=merge -p '{"spec":{"scope":"other"}}' 2>&1) && fail "the scope changed"
grep -q "the cluster's place in etcd" <<<"$said" || fail "unclear: $said"

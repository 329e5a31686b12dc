# The leader's disk fills up: a standby takes over, nothing is lost, and the member is back when there is room again.
source "$(dirname "$0")/../tests/lib.sh"
cluster=full
size=256Mi spec $cluster | sed 's/storage: {size: 256Mi}/storage: {size: 256Mi, storageClassName: lab-small}/' | k apply -f - >/dev/null
wait_healthy 120
# Without a ttl of quiet after its first start nobody may race.
sleep 6
old=$(leader)
writer_start 60
k exec "$old" -c postgres -- sh -c 'dd if=/dev/zero of=/var/lib/postgresql/data/filler bs=1M 2>/dev/null || true'
# WAL files are recycled; new ones are needed when many are begun.
k exec "$old" -c postgres -- sh -c 'for i in $(seq 60); do psql -qAtc "select pg_logical_emit_message(false, repeat(chr(65), 5), chr(66)); select pg_switch_wal()" >/dev/null 2>&1; done' || true
moved() { [ -n "$(leader)" ] && [ "$(leader)" != "$old" ]; }
until_true "another leader" 60 moved || { k exec "$old" -c postgres -- rm /var/lib/postgresql/data/filler; exit 1; }
k exec "$old" -c postgres -- rm /var/lib/postgresql/data/filler
writer_end || exit 1
wait_healthy 120
k delete pgc $cluster --wait >/dev/null
k delete pvc -l "mrg.bluebird.id/cluster=$cluster" --wait=false >/dev/null
k delete secret $cluster-credentials >/dev/null

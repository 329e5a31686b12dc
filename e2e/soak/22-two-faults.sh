# Two faults at once: the leader with etcd's leader; the leader with a standby; the leader twice.
source "$(dirname "$0")/../tests/lib.sh"
etcd_leader() {
  k exec $cluster-etcd-0 -c etcd -- etcdctl endpoint status --cluster -w json 2>/dev/null |
    python3 -c 'import json,sys; print(next(s["Endpoint"].split("//")[1].split(".")[0] for s in json.load(sys.stdin) if s["Status"].get("leader") == s["Status"]["header"]["member_id"]))'
}
wait_healthy
old=$(leader)
other=$(etcd_leader)
echo "    $old and $other"
writer_start 25
kill_container "$other"
kill_container "$old"
writer_end || exit 1
[ "$gap" -lt 12000 ] || fail "$gap ms"
wait_healthy

old=$(leader)
standby=$(k get pgc $cluster -o 'jsonpath={.status.sync}' | cut -d, -f1)
echo "    $old and $standby"
writer_start 40
k delete pod "$standby" --force --grace-period=0 >/dev/null 2>&1
k exec "$old" -c postgres -- sh -c 'kill -9 $(head -n 1 /var/lib/postgresql/data/pgdata/postmaster.pid)'
writer_end || exit 1
wait_healthy

writer_start 30
for _ in 1 2; do
  old=$(leader)
  k exec "$old" -c postgres -- sh -c 'kill -9 $(head -n 1 /var/lib/postgresql/data/pgdata/postmaster.pid)'
  sleep 3
done
writer_end || exit 1
wait_healthy

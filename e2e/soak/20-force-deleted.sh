# The leader's pod is deleted by force while its node is cut off and the old container lives on; a node dies and comes back.
source "$(dirname "$0")/../tests/lib.sh"
settled
old=$(leader)
node=$(node_of "$old")
writer_start 30
"$lab" cut "$node"
k delete pod "$old" --force --grace-period=0 >/dev/null 2>&1
sleep 15
"$lab" heal "$node"
writer_end || exit 1
[ "$gap" -lt 9000 ] || fail "$gap ms"
wait_healthy 180

old=$(leader)
node=$(node_of "$old")
echo "    $node with $old dies"
writer_start 20
"$lab" kill-node "$node"
writer_end || { "$lab" start-node "$node"; exit 1; }
"$lab" start-node "$node"
[ "$gap" -lt 9000 ] || fail "$gap ms"
wait_healthy 240

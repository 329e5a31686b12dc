# The leader's node is cut off, both ways and one way: one writer, nothing lost, and all members stream again when it is healed.
source "$(dirname "$0")/lib.sh"
for how in "" "--one-way out" "--one-way in"; do
  wait_healthy
  old=$(leader)
  node=$(node_of "$old")
  echo "    $old on $node is cut off ${how:-both ways}"
  writer_start 20
  # shellcheck disable=SC2086
  "$lab" cut "$node" $how
  sleep 14
  "$lab" heal "$node"
  writer_end
  [ "$gap" -lt 10000 ] || fail "$gap ms"
done
wait_healthy

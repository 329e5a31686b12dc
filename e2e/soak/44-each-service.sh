# Each of the ten services dies in all its pods: nothing else does, calls to everybody else go on, calls to it get what the catalog says, and it is back within its
# objective.
source "$(dirname "$0")/../tests/lib.sh"
source "$(dirname "$0")/../tests/pools.sh"
source "$(dirname "$0")/../tests/resilience.sh"
source "$(dirname "$0")/../tests/platform.sh"
settled
platform_up
until_true "ten services" 180 platform_settled
ip_of() { k get pod "$1" -o 'jsonpath={.status.podIP}'; }
said() { python3 -c 'import json,sys; print(json.load(sys.stdin).get("status", "error"))'; }
# What the orchestrator gets from each service that it calls, in the order of their ports: a GET, and a POST where answers are kept for later.
asked="paymentprocessor taxipartnergateway userservice sessionmanager configservice notificationcenter fds"
answers() {
  local from port=19000
  from=$(ip_of "$(pods_of orderorchestrator | cut -d' ' -f1)")
  for name in $asked; do
    port=$((port + 1))
    case $name in
    paymentprocessor | taxipartnergateway | notificationcenter) echo "$name=$(call "$from" $port POST /it "key-$name-$RANDOM$RANDOM" | said)" ;;
    *) echo "$name=$(call "$from" $port GET /it "" | said)" ;;
    esac
  done
}
well=$(for name in $asked; do echo "$name=200"; done)
[ "$(answers)" = "$well" ] || fail "before anything failed: $(answers)"
for name in $services; do
  for pod in $(pods_of "$name"); do in_net curl -sf -X PUT "http://$(ip_of "$pod"):8080/faults" -d '{"refuse": true}' >/dev/null || true; done
  until_true "$name is down" 30 phase_is "$name" Down
  [ "$(oss '.status.services[?(@.phase=="Down")].name')" = "$name" ] || fail "not $name alone is down: $(oss '.status.services[?(@.phase=="Down")].name')"
  risk=$(oss .status.risk)
  # Kept for later (202), the last good answer or a fixed one (200): the orchestrator goes on.
  if [ "$name" != orderorchestrator ]; then
    expected=$well
    case $name in paymentprocessor | taxipartnergateway | notificationcenter) expected=${well/$name=200/$name=202} ;; esac
    [ "$(answers)" = "$expected" ] || fail "while $name is down the orchestrator gets: $(answers | tr '\n' ' ')"
  fi
  kill_service "$name"
  until_true "$name serves again" 90 phase_is "$name" Ready
  [ "$(objective "$name" met)" = true ] || fail "the objective of $name: $(objective "$name" last) of $(objective "$name" rto)"
  echo "    $name: at risk $risk; down for $(objective "$name" last) of $(objective "$name" rto)"
  sent() { [ "$(oss '.status.services[?(@.name=="orderorchestrator")].breakersOpen')" = "" ]; }
  until_true "breakers close" 90 sent
done
# The database's leader: services stay, the write pool's clients are held, and that is the measured time.
kill_postmaster "$(leader)"
measured() { [ -n "$(objective postgresql last)" ]; }
until_true "the database's time away is measured" 60 measured
echo "    postgresql: away for $(objective postgresql last) of $(objective postgresql rto)"
[ "$(oss '.status.services[?(@.phase=="Down")].name')" = "" ] || fail "services went with the leader"

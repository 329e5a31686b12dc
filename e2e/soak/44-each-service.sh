# Each of the ten services dies in all its pods, and then what they stand on: Redis, RabbitMQ, BBD, the database's leader. Nothing else goes with it, calls to
# everybody else go on, calls to it get what the catalog says, and it is back within its objective.
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
    # A connection that was kept open fails after the request was sent: that call is told so, since it may have been heard.
    (answers >/dev/null)
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
# Redis and RabbitMQ: the status says that they are away and what share is at risk, as the blast radius has it; no service goes with them.
store_is() { [ "$(oss ".status.stores[?(@.name==\"$1\")].answers")" = "$2" ]; }
nobody_down() { [ -z "$(oss '.status.services[?(@.phase=="Down")].name')" ] || fail "with $1 went: $(oss '.status.services[?(@.phase=="Down")].name')"; }
for store in redis rabbitmq; do
  k scale "deploy/$store" --replicas=0 >/dev/null
  until_true "$store is missed" 30 store_is $store false
  risk=$(oss .status.risk) share=$(oss ".status.blastRadius[?(@.part==\"$store\")].remaining")
  [ "$risk" = "$share% ($store)" ] || fail "RISK is $risk, and the blast radius of $store says $share"
  [ "$(answers)" = "$well" ] || fail "while $store is away the orchestrator gets: $(answers | tr '\n' ' ')"
  nobody_down $store
  k scale "deploy/$store" --replicas=1 >/dev/null
  until_true "$store is back" 60 store_is $store true
  [ "$(objective $store met)" = true ] || fail "the objective of $store: $(objective $store last) of $(objective $store rto)"
  echo "    $store: at risk $risk; away for $(objective $store last) of $(objective $store rto)"
done
# BBD: what the Taxi Partner Gateway would send is kept, and sent once when BBD is back; the orchestrator notices nothing.
gateway() { ip_of "$(pods_of taxipartnergateway | cut -d' ' -f1)"; }
run=$RANDOM
k scale deploy/bbd --replicas=0 >/dev/null
k wait --for=delete pod -l app=bbd --timeout=40s >/dev/null
for number in $(seq 12); do
  [ "$(call "$(gateway)" 19001 POST /orders "kept-$run-$number" | said)" = 202 ] || fail "without BBD: $(call "$(gateway)" 19001 POST /orders "kept-$run-$number")"
done
breaker_open() { [[ "$(oss '.status.services[?(@.name=="taxipartnergateway")].breakersOpen')" == *bbd* ]]; }
until_true "the breaker to BBD is open" 30 breaker_open
[ "$(answers)" = "$well" ] || fail "while BBD is away the orchestrator gets: $(answers | tr '\n' ' ')"
nobody_down bbd
risk=$(oss .status.risk)
k scale deploy/bbd --replicas=1 >/dev/null
# Those that were tried in vain while the breaker was still closed are the first that it lets through.
sent_once() { received bbd '["byKey"]' 2>/dev/null | python3 -c 'import ast,sys; d=ast.literal_eval(sys.stdin.read()); assert max(d.values(), default=0) <= 1; print(sum(1 for k in d if k.startswith("kept-'"$run"'-")))'; }
back=$SECONDS
all_sent() { [ "$(sent_once)" = 12 ]; }
until_true "all twelve are sent once" 120 all_sent
echo "    bbd: at risk $risk; all twelve requests are sent, once each, $((SECONDS - back)) s after it was asked to come back"
# The database's leader: services stay, the write pool's clients are held, and that is the measured time.
kill_postmaster "$(leader)"
measured() { [ -n "$(objective postgresql last)" ]; }
until_true "the database's time away is measured" 60 measured
echo "    postgresql: away for $(objective postgresql last) of $(objective postgresql rto)"
[ "$(oss '.status.services[?(@.phase=="Down")].name')" = "" ] || fail "services went with the leader"

# The platform on stand-ins: every service and every system outside is one. Sourced after lib.sh, pools.sh and resilience.sh.
outside="partner-fleet midtrans xendit nicepay google-maps here-maps twilio infobip sendgrid ses fcm apns whatsapp head-office"
services="orderorchestrator paymentprocessor taxipartnergateway userservice sessionmanager authservice configservice notificationcenter fds hogateway"
stores() {
  cat <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: redis}
spec:
  selector: {matchLabels: {app: redis}}
  template:
    metadata: {labels: {app: redis}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      terminationGracePeriodSeconds: 5
      containers:
      - name: redis
        image: localhost/redis:lab
        imagePullPolicy: Never
        args: [--save, "", --protected-mode, "no", --maxmemory, 64mb, --maxmemory-policy, allkeys-lru, --dir, /tmp]
        ports: [{containerPort: 6379}]
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec: {selector: {app: redis}, ports: [{port: 6379}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: rabbitmq}
spec:
  selector: {matchLabels: {app: rabbitmq}}
  template:
    metadata: {labels: {app: rabbitmq}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      terminationGracePeriodSeconds: 5
      containers:
      - name: rabbitmq
        image: localhost/rabbitmq:lab
        imagePullPolicy: Never
        ports: [{containerPort: 5672}]
        readinessProbe: {tcpSocket: {port: 5672}, periodSeconds: 2}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: rabbitmq}
spec: {selector: {app: rabbitmq}, ports: [{port: 5672}]}
Y
}
outsiders() {
  stores; echo ---
  stand_in bbd 1; echo ---
  stand_in outside 1
  for name in $outside; do
    printf -- '---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {selector: {app: outside}, ports: [{name: http, port: 8080, targetPort: http}]}\n' "$name"
  done
}
# Probes are made quicker where a test would wait.
platform() {
  cat <<Y
apiVersion: mrg.bluebird.id/v1alpha1
kind: OrderServiceSet
metadata: {name: mrg}
spec:
  template:
    image: ${platform_image:-$image}
    imagePullPolicy: Never
    command: [/usr/local/bin/stand-in, "{service}", "0.0.0.0:8080"]
    env: [{name: RELEASE, value: "${release:-1}"}]
    terminationGracePeriodSeconds: 20
  database: {write: {name: ${write_pool:-platform-write}}, read: {name: platform-read}}
  cache: {secretName: stores, key: redis, failsOver: true}
  broker: {secretName: stores, key: amqp}
  rollout: ${rollout:-{progressDeadline: 30s\}}
  alerting: ${alerting:-{\}}
${read_split:+  readSplit: $read_split}
  providers:
$(for name in bbd $outside; do echo "  - {name: $name, url: \"http://$name:8080\"}"; done)
  services:
$(for name in $services; do
    printf '  - {name: %s, probes: {liveness: {path: /health, initialDelaySeconds: 2, periodSeconds: 10, timeoutSeconds: 2, failureThreshold: 3}, readiness: {path: /ready, initialDelaySeconds: 1, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 2}}%s}\n' "$name" "$(more_of "$name")"
  done)
Y
}
more_of() { local more=more_$1; printf '%s' "${!more:-}"; }
oss() { k get oss mrg -o "jsonpath={$1}"; }
oss_condition() { oss ".status.conditions[?(@.type==\"$1\")].status} {.status.conditions[?(@.type==\"$1\")].reason"; }
of_service() { oss ".status.services[?(@.name==\"$1\")].$2"; }
phase_is() { [ "$(of_service "$1" phase)" = "$2" ]; }
objective() { oss ".status.objectives[?(@.part==\"$1\")].$2"; }
platform_settled() {
  local said
  said=$(oss '.metadata.generation} {.status.observedGeneration} {.status.ready} {range .status.conditions[*]}{.type}={.reason} {end')
  set -- $said
  [ "${1:-}" = "${2:-}" ] && [ "${3:-}" = 10/10 ] && [[ $said = *" Ready=Healthy Reconciling=Settled "* ]]
}
pods_of() { k get pods -l "mrg.bluebird.id/service=$1" -o 'jsonpath={range .items[*]}{.metadata.name} {end}'; }
platform_up() {
  pool platform-write Write | k apply -f - >/dev/null
  pool platform-read Read | k apply -f - >/dev/null
  k create secret generic stores --from-literal=redis=redis://redis:6379/0 --from-literal=amqp=amqp://mrg:mrg@rabbitmq:5672/ --dry-run=client -o yaml | k apply -f - >/dev/null
  outsiders | k apply -f - >/dev/null
  platform | k apply -f - >/dev/null
}
# A service dies in all its pods at once; says how long it was away by the status. What else fails then is the caller's to look at.
# Its status is followed all the while, so that nothing is too short to be seen: sets `others`, all that were down with it, and `at_risk`.
kill_and_hear() { # SERVICE
  local heard=$work/heard-$1 watcher
  # Without `range`: kubectl's template with one is good for the first object only.
  "$lab" enter timeout 120 kubectl get oss mrg -w -o 'jsonpath={.status.services[?(@.phase=="Down")].name} |{.status.risk}{"\n"}' >"$heard" 2>/dev/null &
  watcher=$!
  until_true "a watch of the status" 10 test -s "$heard"
  kill_service "$1"
  until_true "the status tells that $1 is down" 20 grep -q "$1 " "$heard"
  until_true "$1 serves again" 60 phase_is "$1" Ready
  kill $watcher 2>/dev/null || true
  others=$(cut -d'|' -f1 "$heard" | tr ' ' '\n' | grep . | sort -u | paste -sd' ')
  at_risk=$(grep -m1 "$1 " "$heard" | cut -d'|' -f2)
}
kill_service() { k delete pod -l "mrg.bluebird.id/service=$1" --force --grace-period=0 >/dev/null 2>&1; }
platform_gone() {
  k delete oss mrg >/dev/null
  k delete pgb platform-write platform-read >/dev/null
  for name in bbd outside redis rabbitmq; do k delete deploy/$name service/$name >/dev/null; done
  for name in $outside; do k delete service/$name >/dev/null; done
  gone() { [ -z "$(k get deploy,service,sres,netpol,pods -l mrg.bluebird.id/set=mrg -o name)" ]; }
  until_true "everything of the platform is gone" 90 gone
}

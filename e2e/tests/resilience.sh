# A workload and what it calls, played by stand-ins. Sourced.
image=localhost/mrg-e2e:lab-$(cat "${MRG_CACHE:-$HOME/.cache/mrg-operator}/lab/images/.mrg")

stand_in() { # NAME REPLICAS
  cat <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  replicas: $2
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 20
      containers:
      - name: app
        image: $image
        imagePullPolicy: Never
        command: [/usr/local/bin/stand-in, "$1", "0.0.0.0:8080"]
        ports: [{name: http, containerPort: 8080}]
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: $1}
spec: {selector: {app: $1}, ports: [{name: http, port: 8080, targetPort: http}]}
Y
}
# The gateway to the dispatch, with the analysis' breaker, made quicker where a test would wait.
resilience() {
  cat <<Y
apiVersion: mrg.bluebird.id/v1alpha1
kind: ServiceResilience
metadata: {name: ${1:-tpg}}
spec:
  targetRef: {name: ${1:-tpg}}
  priority: P0
  mode: ${mode:-Enforce}
  probes: {liveness: {path: /health, initialDelaySeconds: 2, periodSeconds: 10, timeoutSeconds: 2, failureThreshold: 3}, readiness: {path: /ready, initialDelaySeconds: 1, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 2}}
  inbound: {port: 15080, maxConcurrent: 64, timeout: 5s}
  queue: {volume: {}}
  dependencies:
  - name: tpg-bbd
    port: 19001
    providers: [{name: bbd, url: "http://bbd:8080"}]
    timeout: {connect: 500ms, attempt: 1s, total: ${total:-3s}}
    retry: {attempts: 1}
    breaker: {maxRequests: 3, interval: 60s, timeout: ${breaker_timeout:-5s}, minRequests: 10, failureRatio: 0.5}
    fallback: {queue: {idempotencyHeader: Idempotency-Key, retryAfter: 1s, perSecond: 50}}
  - name: payment
    port: 19002
    providers: [{name: midtrans, url: "http://midtrans:8080"}, {name: xendit, url: "http://xendit:8080"}]
    timeout: {connect: 500ms, attempt: 1s, total: 3s}
    failback: {minHold: 3s}
    breaker: {timeout: 2s}
Y
}
address() { k get pods -l "app=$1" --field-selector=status.phase=Running -o 'jsonpath={range .items[*]}{.status.podIP}{"\n"}{end}' | head -1; }
service() { k get service "$1" -o 'jsonpath={.spec.clusterIP}'; }
in_net() { ip netns exec mrg-n1 timeout 20 "$@"; }
faults() { in_net curl -sf -X PUT "http://$(address "$1"):8080/faults" -d "$2" >/dev/null; }
received() { in_net curl -sf "http://$(address "$1"):8080/received" | python3 -c "import json,sys; print(json.load(sys.stdin)$2)"; }
# A call that the workload in a pod makes to a dependency: its status, reason and body.
call() { # POD-ADDRESS PORT METHOD PATH KEY
  in_net curl -s -X POST "http://$1:8080/call" \
    -d "{\"url\": \"http://127.0.0.1:$2$4\", \"method\": \"$3\", \"headers\": {\"idempotency-key\": \"$5\"}, \"body\": \"{}\"}"
}
condition() { k get sres "${2:-tpg}" -o "jsonpath={.status.conditions[?(@.type==\"$1\")].status} {.status.conditions[?(@.type==\"$1\")].reason}"; }
enforced() { [ "$(condition Enforced)" = "True Enforced" ] && [ "$(condition Ready | cut -d' ' -f1)" = True ]; }
column() { k get sres tpg -o "jsonpath={$1}"; }
shows() { [[ "$(column "$1")" == $2 ]]; }

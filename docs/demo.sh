#!/usr/bin/env bash
# The newcomer's first five minutes: a two-node cluster, a Deployment on both nodes, its pods answering each other by address and by
# name, and a policy that lets only some of them. Run again, it finds everything there and ends in seconds. `provisioner delete-cluster demo` removes all of it.
set -euo pipefail
cd "$(dirname "$0")/.."

name=demo
python=.venv/bin/python
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo --preserve-env=HOME,XDG_CACHE_HOME)
provisioner=("${as_root[@]}" .venv/bin/provisioner)
kubeconfig=$PWD/.demo/kubeconfig
mkdir -p .demo

bold='' plain=''
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] && bold=$'\033[1m' plain=$'\033[0m'
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '$ %s\n' "$*"; "$@"; }

cat <<END

A Kubernetes cluster called $name, on this machine and gone without a trace when it is deleted. It takes a minute or two:
  1. a control plane and two nodes   2. pods on both   3. pods reach pods   4. a Service by its name
  5. a policy that cuts   6. what the dataplane says
END

say "1. A cluster: two nodes, pod network by anetd"
show "${provisioner[@]}" create-cluster "$name" --dataplane-v2 --num-nodes 2 --kubeconfig "$kubeconfig"
[ "$(id -u)" = 0 ] || "${as_root[@]}" chown "$(id -u):$(id -g)" "$kubeconfig"

bin=$("$python" -m provisioner.binaries 2>/dev/null)
kubectl() { "$bin/kubectl" --kubeconfig "$kubeconfig" "$@"; }

say "2. A Deployment with four pods, spread over both nodes, behind a Service"
# As root, like the create: what root has put into the cache, another user cannot add to.
images=$("${as_root[@]}" "$python" -m provisioner.images --json)
read -r toolbox archive < <("$python" -c 'import json, sys; t = json.load(sys.stdin)["toolbox"]; print(t["name"], t["archive"])' <<<"$images")
if [ "$(kubectl get deployment greeter --ignore-not-found -o jsonpath='{.spec.template.spec.containers[0].image}')" != "$toolbox" ]; then
  show "${provisioner[@]}" load-image "$name" "$archive"
fi
echo "$ kubectl apply -f -    # a Deployment and a Service called greeter"
kubectl apply -f - <<MANIFEST
apiVersion: apps/v1
kind: Deployment
metadata: {name: greeter}
spec:
  replicas: 4
  selector: {matchLabels: {app: greeter}}
  template:
    metadata: {labels: {app: greeter}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: greeter}}}
      containers:
        - name: greeter
          image: $toolbox
          command: [sh, -c, "mkdir /tmp/www && busybox hostname >/tmp/www/hostname && exec busybox httpd -f -p 8080 -h /tmp/www"]
          readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: greeter}
spec:
  selector: {app: greeter}
  ports: [{port: 80, targetPort: 8080}]
MANIFEST
show kubectl rollout status deployment/greeter --timeout=120s || {
  kubectl describe pods -l app=greeter | tail -n 40 >&2
  exit 1
}
show kubectl get pods -o wide -l app=greeter

say "3. Every pod asks every pod, by address"
kubectl delete networkpolicy friends-only --ignore-not-found >&2 # what an interrupted run has left
mapfile -t rows < <(kubectl get pods -l app=greeter -o jsonpath='{range .items[*]}{.metadata.name} {.status.podIP} {.spec.nodeName}{"\n"}{end}')
for from in "${rows[@]}"; do
  read -r pod _ node <<<"$from"
  for to in "${rows[@]}"; do
    read -r peer address peer_node <<<"$to"
    answer=$(kubectl exec "$pod" -- curl -sS --max-time 5 "http://$address:8080/hostname")
    [ "$answer" = "$peer" ] || { echo "expected $peer at $address, got: $answer" >&2; exit 1; }
    printf '%s (%s) -> %s (%s): %s\n' "$pod" "$node" "$address" "$peer_node" "$answer"
  done
done

say "4. And the Service, by its name"
read -r first _ <<<"${rows[0]}"
for _ in 1 2 3 4 5 6; do
  printf 'http://greeter/hostname -> %s\n' "$(kubectl exec "$first" -- curl -sS --max-time 5 http://greeter/hostname)"
done

say "5. A NetworkPolicy: greeters answer friends only"
read -r friend _ <<<"${rows[0]}"
read -r stranger _ <<<"${rows[1]}"
read -r target address _ <<<"${rows[2]}"
show kubectl label pod "$friend" friend=yes --overwrite
echo "$ kubectl apply -f -    # a NetworkPolicy called friends-only"
kubectl apply -f - <<MANIFEST
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends-only}
spec:
  podSelector: {matchLabels: {app: greeter}}
  ingress: [{from: [{podSelector: {matchLabels: {friend: "yes"}}}], ports: [{port: 8080}]}]
MANIFEST
# The policy is in force within milliseconds; a machine that is busy with other things may need longer.
for _ in $(seq 20); do
  kubectl exec "$stranger" -- curl -sS --max-time 1 -o /dev/null "http://$address:8080/hostname" 2>/dev/null || break
  sleep 0.5
done
for pod in "$friend" "$stranger"; do
  answer=$(kubectl exec "$pod" -- curl -sS --max-time 3 "http://$address:8080/hostname" 2>/dev/null) || answer="(no answer)"
  printf '%s asks %s: %s\n' "$pod" "$target" "$answer"
  wanted=$target
  [ "$pod" = "$friend" ] || wanted="(no answer)"
  [ "$answer" = "$wanted" ] || { echo "expected: $wanted" >&2; exit 1; }
done
show "${provisioner[@]}" policy explain "$name" --from "default/$stranger" --to "default/$target" --port 8080 --verify --expect denied
show kubectl delete networkpolicy friends-only
show kubectl label pod "$friend" friend-

say "6. What the node agent knows"
show kubectl -n kube-system exec daemonset/anetd -- anetd status

say "The cluster is yours ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
cat <<END
Use it:
  export KUBECONFIG=$kubeconfig PATH=$bin:\$PATH
  kubectl get pods -A -o wide
  kubectl exec -it deployment/greeter -- bash
Delete it, and all that it made:
  ${provisioner[*]} delete-cluster $name
'make demo' can be run again at any time: it continues from what is there. README.md has the other commands.
END

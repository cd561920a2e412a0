#!/usr/bin/env bash
# Trains on TPU VMs of Google Cloud: one slice, or several that talk over the data center's network.
#
#   scripts/launch/tpu_vm.sh create        asks for the slices in the queue, and waits until they are there
#   scripts/launch/tpu_vm.sh install       copies this clone to every VM and installs it
#   scripts/launch/tpu_vm.sh train --config=quickstart --workdir=/mnt/runs/mine
#   scripts/launch/tpu_vm.sh run ...       the three in turn, and again whenever slices are taken away (SPOT=true)
#   scripts/launch/tpu_vm.sh stop          saves the run and ends it, as Ctrl-C in `train` does
#   scripts/launch/tpu_vm.sh delete
set -euo pipefail

NAME=${NAME:-wukong}
ZONE=${ZONE:?"ZONE: give a zone that has such TPUs"}
TYPE=${TYPE:-v5p-32}                            # of a slice; for v5p the number counts cores, two a chip
CHIPS=${CHIPS:-16}                              # of a slice
SLICES=${SLICES:-1}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5}              # the VMs' image: v2-alpha-tpuv5-lite for v5e, v2-alpha-tpuv6e for v6e
SPOT=${SPOT:-false}
SHARE=${SHARE:-}                                # NFS export such as 10.0.0.2:/runs, mounted as /mnt/runs; "": none
PYTHON=${PYTHON:-python3.12}
POLL_SECONDS=${POLL_SECONDS:-30}
HANGS="--megascale_graph_hang_threshold=10m --megascale_error_reporter_abort_on_hang=true"

queue=(gcloud compute tpus queued-resources)

on_vms() {  # runs a command; `all`: on every VM, `0`: on the first
  "${queue[@]}" ssh "$NAME" --zone="$ZONE" --node="$1" --worker="$1" --batch-size=all --command="$2"
}

find_state() {
  "${queue[@]}" describe "$NAME" --zone="$ZONE" --format="value(state.state)"
}

create() {
  local nodes=(--node-id="$NAME") spot=() state
  if ((SLICES > 1)); then nodes=(--node-count="$SLICES" --node-prefix="$NAME"); fi
  if [[ $SPOT == true ]]; then spot=(--spot); fi
  if ! find_state >/dev/null 2>&1; then
    "${queue[@]}" create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
      "${nodes[@]}" "${spot[@]}"
  fi
  until state=$(find_state) && [[ $state == ACTIVE ]]; do
    if [[ $state == FAILED || $state == SUSPENDED ]]; then
      echo "error: NAME = $NAME: is $state; 'delete' it, then 'create' it again" >&2
      return 1
    fi
    sleep "$POLL_SECONDS"
  done
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git archive --format=tar.gz --output="$archive" HEAD
  "${queue[@]}" scp "$archive" "$NAME:wukong.tar.gz" --zone="$ZONE" --node=all --worker=all --batch-size=all
  rm "$archive"
  on_vms all "mkdir -p wukong && tar -xzf wukong.tar.gz -C wukong && cd wukong && $PYTHON -m venv .venv \
    && .venv/bin/pip install --quiet '.[tpu]'"
  if [[ -n $SHARE ]]; then
    on_vms all "sudo mkdir -p /mnt/runs && (mountpoint -q /mnt/runs || sudo mount -t nfs $SHARE /mnt/runs)"
  fi
}

train() {
  local arguments pid code
  arguments=$(printf '%q ' --config.mesh.hosts="$SLICES" --config.mesh.chips="$CHIPS" "$@")
  on_vms all "cd wukong && echo \$\$ >train.pid \
    && exec env LIBTPU_INIT_ARGS='$HANGS' .venv/bin/wukong-jax train $arguments" &
  pid=$!
  trap stop TERM INT
  while true; do
    code=0
    wait "$pid" || code=$?
    kill -0 "$pid" 2>/dev/null || break  # a signal ends `wait`, not the process
  done
  trap - TERM INT
  return "$code"
}

stop() {  # one process tells the others
  on_vms 0 "kill -TERM \$(cat wukong/train.pid)" || true
}

delete() {
  "${queue[@]}" delete "$NAME" --zone="$ZONE" --force --quiet
}

run() {  # goes on while slices are taken away
  local code
  while true; do
    create
    install
    code=0
    train "$@" || code=$?
    sleep "$POLL_SECONDS"  # until the service knows that a slice is gone
    if ((code == 0)) || [[ $(find_state) == ACTIVE ]]; then return "$code"; fi
    delete
  done
}

case ${1:-} in
  create | install | train | run | stop | delete) "$@" ;;
  *) echo "usage error: ${1:-no command}: give create, install, train, run, stop or delete" >&2; exit 2 ;;
esac

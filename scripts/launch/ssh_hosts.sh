#!/usr/bin/env bash
# Trains on plain hosts over ssh, one process a host with all its devices. Arguments are those of `train`:
#
#   HOSTS="gpu1 gpu2 gpu3 gpu4" scripts/launch/ssh_hosts.sh --config=quickstart --workdir=/shared/runs/mine
#
# Every host needs the clone with its .venv in the same FOLDER, and the same --workdir. Ctrl-C or SIGTERM saves the run and
# ends it everywhere; the same command goes on from there. Exit code: that of the first host whose process ended badly.
set -euo pipefail

HOSTS=${HOSTS:?"HOSTS: names the hosts, as ssh does, with spaces between them"}
PORT=${PORT:-$((20000 + RANDOM % 10000))}       # of the first host, where the processes meet; no two runs may share one
COORDINATOR=${COORDINATOR:-}                    # address of the first host for the others; "": its name in HOSTS
FOLDER=${FOLDER:-$PWD}                          # the clone
PROGRAM=${PROGRAM:-.venv/bin/wukong-jax}        # seen from there
ENVIRONMENT=${ENVIRONMENT:-}                    # NAME=VALUE, with spaces between them
SSH=${SSH:-ssh -o BatchMode=yes -o ServerAliveInterval=30}

read -r -a hosts <<<"$HOSTS"
read -r -a ssh <<<"$SSH"
count=${#hosts[@]}
coordinator=${COORDINATOR:-${hosts[0]#*@}}:$PORT
pid_file=${TMPDIR:-/tmp}/wukong_jax_${USER:-}_$PORT  # with the process's number behind it, on its host
folder=$(printf '%q' "$FOLDER")
arguments=$(printf '%q ' "--config.mesh.hosts=$count" "$@")

start() {  # a process; prefixes its output
  local place="--coordinator=$coordinator --processes=$count --process=$1"
  local command="cd $folder && echo \$\$ >$pid_file.$1 && exec env $ENVIRONMENT $PROGRAM train $place $arguments"
  "${ssh[@]}" "${hosts[$1]}" "$command" </dev/null 2>&1 | sed -u "s/^/[$1] /"
}

# shellcheck disable=SC2329  # called by traps
stop() {  # sends a signal to process 0, which tells the others
  "${ssh[@]}" "${hosts[0]}" "kill -$1 \$(cat $pid_file.0)" </dev/null || true
}

trap 'stop TERM' TERM
trap 'stop INT' INT
pids=()
for ((process = 0; process < count; process++)); do
  start "$process" &
  pids+=($!)
done

code=0
for process in "${!pids[@]}"; do
  while true; do
    own=0
    wait "${pids[$process]}" || own=$?
    kill -0 "${pids[$process]}" 2>/dev/null || break  # a signal ends `wait`, not the process
  done
  if ((own)); then
    echo "process $process on ${hosts[$process]} ended with exit code $own" >&2
    ((code)) || code=$own
  fi
done
exit "$code"

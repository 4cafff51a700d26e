#!/bin/bash
# Train on a TPU slice: a queued resource of Google Cloud, and the same command on each of its hosts.
#   export NAME=reward ZONE=us-east5-b TYPE=v6e-64 CONFIG=configs/reward_ip2p.py WORKDIR=/mnt/runs/reward
#   export SETUP='sudo mount SERVER:/runs /mnt/runs && git clone REPOSITORY . && pip install -e . "jax[tpu]"'
#   bash launch/cluster/train.tpu.sh --config.mesh.fsdp=8
#   DRY_RUN=1 bash launch/cluster/train.tpu.sh --config.mesh.fsdp=8      # prints the commands
# SETUP runs on each new host, in an empty folder; all hosts must see WORKDIR. The log of a host is ~/train/train.log. A
# slice that was preempted is SUSPENDED: delete it with the last command that DRY_RUN prints, and run this script again.
set -euo pipefail

: "${NAME:?of the slice}" "${ZONE:?}" "${TYPE:?such as v6e-64}" "${SETUP:?commands}" "${CONFIG:?recipe}" "${WORKDIR:?}"
tpus=(gcloud compute tpus)
run() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
state() { "${tpus[@]}" queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)'; }

run "${tpus[@]}" queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" --accelerator-type="$TYPE" \
  --runtime-version="${RUNTIME:-v2-alpha-tpuv6e}" ${SPOT:+--spot}
until [[ -n ${DRY_RUN:-} || $(state) == ACTIVE ]]; do
  if [[ $(state) =~ FAILED|SUSPEND ]]; then
    echo "the request for $NAME is $(state)" >&2
    exit 1
  fi
  sleep 30
done
train=(python launch/train.py --config "$CONFIG" --workdir "$WORKDIR" --resume --distributed "$@")
# Without a terminal (setsid, nohup), so that the training outlives the connection.
start="mkdir -p ~/train && cd ~/train || exit
[ -e .ready ] || ( $SETUP ) && touch .ready && mkdir -p $WORKDIR || exit
nohup setsid ${train[*]@Q} >>train.log 2>&1 </dev/null &"
run "${tpus[@]}" tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$start"
if [[ -n ${DRY_RUN:-} ]]; then
  run "${tpus[@]}" queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
fi

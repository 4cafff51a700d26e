#!/bin/bash
# Train on nodes with GPUs: a Slurm job with one process per GPU. In the folder of the repository:
#   export CONFIG=configs/reward_ip2p.py WORKDIR=/shared/runs/reward
#   sbatch --nodes=2 launch/cluster/train.slurm.sh --config.mesh.fsdp=8
#   DRY_RUN=1 bash launch/cluster/train.slurm.sh --config.mesh.fsdp=8     # prints what the job would start
# All nodes must see the repository, its environment and WORKDIR. The job is queued again until the training is done.
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --gres=gpu:8
#SBATCH --ntasks-per-node=8  # as many as GPUs: JAX gives one to each process
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300  # sent to the processes five minutes before the time is over: they save and stop
set -euo pipefail

: "${CONFIG:?recipe, such as configs/reward_ip2p.py}" "${WORKDIR:?folder that all nodes see}"
command=(srun python launch/train.py --config "$CONFIG" --workdir "$WORKDIR" --resume --distributed "$@")
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  exit
fi
mkdir -p "$WORKDIR"  # --resume takes an empty folder for a new run, and a missing one for a mistyped name
status=0
"${command[@]}" || status=$?
# 75: the run stopped because it was asked to, and its state is saved.
if [[ $status == 75 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

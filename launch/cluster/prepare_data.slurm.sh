#!/bin/bash
# Prepare a data set on many machines: a Slurm array job, and one job that joins its files.
#   NAME=editreward_data SOURCE=/data/EditReward-Data OUT=/data/prepared/pairs bash launch/cluster/prepare_data.slurm.sh
# All machines must see SOURCE and OUT. A hub id as SOURCE is downloaded by each machine: add its commit, REVISION=...
#SBATCH --job-name=prepare-data
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

MACHINES=${MACHINES:-16}  # parts of the data set
: "${NAME:?layout, see launch/prepare_data.py --help}" "${OUT:?folder of the prepared data set}"
prepare=(python launch/prepare_data.py "$NAME" --out "$OUT")

if [[ ${1:-} == merge ]]; then
  exec "${prepare[@]}" --merge --skip-bad "${SKIP_BAD:-0}"
elif [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
  # A task that was preempted or ran out of time goes on with the files that it lacks: submit the same command again.
  exec "${prepare[@]}" --source "${SOURCE:?local copy or hub id}" ${REVISION:+--revision "$REVISION"} \
    --shard "$SLURM_ARRAY_TASK_ID/$MACHINES"
fi
array=$(sbatch --parsable --export=ALL --array="1-$MACHINES" "$0")
sbatch --export=ALL --dependency="afterok:$array" "$0" merge

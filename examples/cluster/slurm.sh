#!/bin/bash
# Label a set of shards on a Slurm cluster: networks on one GPU, parts on an array of 16, the sum on a processor.
#
#   sbatch examples/cluster/slurm.sh
#
# Give it again after failures: what is done is left as it is.
#SBATCH --job-name=maskwright
#SBATCH --output=maskwright-%j.log
#SBATCH --time=00:10:00
set -euo pipefail

TASKS=16
LABEL="maskwright label instant data=/data/shards out=/data/runs/photos engine=task"

first=$(sbatch --parsable --gpus=1 --cpus-per-task=8 --time=12:00:00 --wrap "$LABEL task=first")
array=$(sbatch --parsable --gpus=1 --cpus-per-task=8 --time=24:00:00 --array="0-$((TASKS - 1))" \
  --requeue --dependency="afterok:$first" --wrap "$LABEL task=\$SLURM_ARRAY_TASK_ID/$TASKS")
sbatch --cpus-per-task=8 --time=04:00:00 --dependency="afterany:$array" --wrap "$LABEL task=last"

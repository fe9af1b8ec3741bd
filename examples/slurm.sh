#!/usr/bin/env bash
# Train a language expert on several machines of a Slurm cluster: torchrun on each of them, a process for every GPU.
#
#   sbatch --nodes 2 --gpus-per-node 4 examples/slurm.sh examples/recipes/paper_js.json --model openai/whisper-small \
#       --teacher openai/whisper-large-v2 --data FOLDER --language ca --save_strategy steps --save_steps 500 \
#       --output_dir runs/ca
#
# Arguments are those of `distil-whisper train`. Speech and --output_dir lie in folders that all machines share. When a
# process dies, all are started again, at most three times, and go on from the last checkpoint; so does the whole job
# when Slurm puts it back into its queue. PROGRAM=baseline trains what an expert is compared with, PROGRAM=evaluate (with
# its flags) shares an evaluation.
#SBATCH --job-name=distil-whisper
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
set -euo pipefail

program=${PROGRAM:-train}
resume=(--resume)
# An evaluation always goes on where it stopped.
[[ $program == evaluate ]] && resume=()

read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export OMP_NUM_THREADS=1

srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" --max_restarts 3 \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$first:$((20000 + SLURM_JOB_ID % 20000))" \
    -m distil_whisper_hf.cli "$program" "$@" "${resume[@]}"

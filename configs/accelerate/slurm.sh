#!/bin/bash
# Several nodes of 8 GPUs under SLURM; submit from the root of the repository: sbatch configs/accelerate/slurm.sh
# Change the lines below to your cluster and run. Another launcher file (fsdp2.yaml, deepspeed_zero2.yaml) goes in the
# same place; fit.batch_size must be a multiple of nodes x 8 x fit.per_device_batch_size.
# A job that is requeued goes on from its newest checkpoint, which the SIGTERM before makes it write (launchers hand on
# only that signal); in an empty folder --resume latest starts at step 0. SLURM requeues after preemption or the failure
# of a node; at the time limit the run ends in order, and whoever submits the same job again goes on. The folder must lie on a file system that all nodes share. The options are tested against accelerate's own parser; no
# cluster has run it yet.
#SBATCH --job-name=diffpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

export LAUNCHER=configs/accelerate/ddp.yaml
export RECIPE=configs/diffusion/diffusion_dpo_sd15.yaml
export OUTPUT_DIR=runs/diffusion_dpo_sd15

export HEAD_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export HEAD_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=8

# Single quotes: each node reads its own SLURM_NODEID.
srun --kill-on-bad-exit=1 bash -c 'accelerate launch --config_file "$LAUNCHER" \
  --num_machines "$SLURM_NNODES" --num_processes "$((8 * SLURM_NNODES))" --machine_rank "$SLURM_NODEID" \
  --main_process_ip "$HEAD_NODE" --main_process_port "$HEAD_PORT" --rdzv_backend c10d \
  scripts/train_diffusion_dpo.py --config "$RECIPE" --output_dir "$OUTPUT_DIR" --resume latest'

#!/usr/bin/env bash
# Train on several hosts under Slurm:
#   sbatch --nodes 4 --gpus-per-node 8 slurm.sh imagenet_1536_20 --data-dir /data/tfds
# One task a host; each trains on all GPUs of its host, and TensorFlow finds the others through Slurm's variables.
# Runs are on a file system that all hosts see, in runs/ of the folder that sbatch was called in.
# Neither TensorFlow's workers, which listen on every address of a host at port 8888, nor NCCL, between GPUs at ports of
# its choice above 1024, ask who connects: let the firewall close these ports to all but the job's hosts.
#SBATCH --job-name=convmixer
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Five minutes before the time is up, so that a checkpoint is saved; to the tasks, not to this script.
#SBATCH --signal=TERM@300
set -uo pipefail

# --kill-on-bad-exit: workers cannot go on without one.
srun --kill-on-bad-exit=1 convmixer train "$@"
code=$?
# 75: stopped by a signal with a checkpoint saved; over 128: killed. Begin again where it was. A wrong option or a loss
# that diverged would only come again; Slurm itself requeues a job whose node failed.
if { [ "$code" -eq 75 ] || [ "$code" -gt 128 ]; } && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

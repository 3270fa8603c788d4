#!/usr/bin/env bash
# voxelmill in one SLURM job, on one to several nodes: Dask's scheduler, workers and the driver.
#
#   sbatch cluster/batch/slurm.sh SOURCE OUT [options of `voxelmill run`]
#
# SOURCE and OUT lie on a disk that all nodes see. The job's exit status is that of `voxelmill run`. After any
# other end, time limit and scancel included, the same line goes on. Logs: OUT/logs/slurm-<job>/.
# What follows are defaults: change them here, or on the command line (sbatch --nodes=8 --time=1-0 ...).
#
# From one to so many nodes, as many as are free.
#SBATCH --nodes=1-4
# Workers on each node. 2 fit any node; one a core is best: change this first.
#SBATCH --ntasks-per-node=2
# A worker computes on one core; more make it no faster.
#SBATCH --cpus-per-task=1
# Memory for each worker. On the first node, driver and scheduler live on 512 MiB of it all.
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
# Two minutes before the time is up the driver is told, and ends in order; workers need no --lifetime, then.
#SBATCH --signal=B:TERM@120
# A node that is lost costs its tasks, which run again; a job that is preempted starts again and goes on.
#SBATCH --no-kill --requeue --open-mode=append
#SBATCH --job-name=voxelmill
# Yours: #SBATCH --partition=... --account=...
set -euo pipefail
# Where the queue did not start it, nodes and cores are not known.
if [[ -z ${SLURM_JOB_ID:+${SLURM_CPUS_PER_TASK:+${SLURM_NTASKS_PER_NODE:+yes}}} ]]; then
    echo "voxelmill: this script is a job of its own for SLURM. Submit it: sbatch $0 ${*:-SOURCE OUT}" >&2
    exit 2
fi

# ---- The environment, if it is not active where you submit: ----
# module load python
# source "$HOME/voxelmill/bin/activate"

network=() # (--interface ib0) where nodes have several networks
job=slurm-$SLURM_JOB_ID
options=()

# The limit of a worker process: its share of a node's memory, less driver and scheduler, less 256 MiB for
# libraries and the process that restarts it. Your own --memory-limit goes before it.
memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * SLURM_CPUS_PER_TASK * SLURM_NTASKS_PER_NODE))}
((memory == 0)) || options+=(--memory-limit "$(((memory - 512) / SLURM_NTASKS_PER_NODE - 256))MiB")

# One worker for each task slot of the job, each with a log of its own.
start_workers() {
    srun --overlap --cpus-per-task="$SLURM_CPUS_PER_TASK" --no-kill --kill-on-bad-exit=0 --wait=0 \
        --input=none --open-mode=append --output="$logs/worker-%N-%t.log" "${worker[@]}" \
        2>>"$logs/launch.log" &
}

# ---- The same in all these scripts from here on: scheduler, workers and driver, and an end in order ----
die() { echo "voxelmill: $*" >&2; exit 2; }
[[ ${1:--} != -* && ${2:--} != -* ]] || die "SOURCE and OUT come first, then options."
command -v voxelmill dask >/dev/null || die "no voxelmill on the PATH; this script has a place for that."
[[ -e $1 ]] || die "SOURCE does not exist. SOURCE comes first, then OUT."

logs=$2/logs/$job
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)
address=$logs/scheduler.json
rm -f "$address" # of an earlier start of this very job

# Dask's settings, as voxelmill wants them: one file for scheduler, workers and driver.
settings='import pathlib, voxelmill; print(pathlib.Path(voxelmill.__file__).with_name("dask.yaml"))'
export DASK_CONFIG=${DASK_CONFIG:-$(python -c "$settings")}
# Encryption, and nobody else lets tasks run: VOXELMILL_TLS is a folder of cluster/make_certificates.sh.
# shellcheck source=/dev/null
[[ -z ${VOXELMILL_TLS:-} ]] || source "$VOXELMILL_TLS/tls.sh"

# No web pages, which anyone on the network could read.
both=(--scheduler-file "$address" --no-dashboard --dashboard-address 127.0.0.1:0 "${network[@]}")
# One thread a worker: a task computes on one core. No memory limit of Dask's own: tasks keep to voxelmill's.
export PYTHONFAULTHANDLER=1 # a crash of a native library leaves its Python stack in the worker's log
worker=(dask worker "${both[@]}" --nthreads 1 --memory-limit 0 --death-timeout 300
    --preload voxelmill.worker --preload-nanny voxelmill.nanny)

# However this ends: the scheduler is stopped, which ends workers; what is there 5 s later is told to go.
# shellcheck disable=SC2317 # the trap calls it
stop() {
    trap '' INT TERM USR2
    local signal
    kill "$scheduler" 2>/dev/null || true
    for signal in TERM KILL; do
        for _ in {1..10}; do [[ -n $(jobs -rp) ]] || return 0; sleep 0.5; done
        jobs -rp | xargs -r kill -s "$signal" || true
    done
}

dask scheduler "${both[@]}" --port 0 >>"$logs/scheduler.log" 2>&1 &
scheduler=$!
trap stop EXIT
until [[ -s $address ]]; do
    kill -0 "$scheduler" 2>/dev/null || die "the scheduler ended, see scheduler.log in OUT/logs/$job."
    sleep 0.2
done
start_workers

# What the driver says goes to driver.log and to the job's own output. The queue's signals are passed on to
# the driver, which gives back its lease and says how to go on; tee must outlive them.
exec 3> >(trap '' INT TERM USR2; exec tee -a "$logs/driver.log")
tee=$!
voxelmill run "${options[@]}" "$@" --scheduler "$address" >&3 2>&1 3>&- &
driver=$!
exec 3>&-
trap 'kill "$driver" 2>/dev/null || true' INT TERM USR2
while :; do
    status=0
    wait "$driver" || status=$?
    kill -0 "$driver" 2>/dev/null || break # else a signal came while waiting
done
wait "$tee" || true
exit "$status"

#!/usr/bin/env bash
# voxelmill in one SLURM job, on one to several nodes: Dask's scheduler, workers and the driver.
#
#   sbatch cluster/batch/slurm.sh SOURCE OUT [options of `voxelmill run`]
#
# SOURCE and OUT must be on a disk that all nodes see. The job's exit status is that of `voxelmill run`. After
# any other end, such as a time limit or scancel, submit the same line again: it continues.
# Logs: OUT/logs/slurm-<job>/.
# The lines below are defaults: change them here, or on the command line (sbatch --nodes=8 --time=1-0 ...).
#
# Smallest and largest number of nodes; the job takes as many as are free.
#SBATCH --nodes=1-4
# Workers per node. 2 fit any node, one per core is fastest: change this first.
#SBATCH --ntasks-per-node=2
# A worker computes on one core; more cores do not make it faster.
#SBATCH --cpus-per-task=1
# Memory per worker. On the first node, driver and scheduler together use 512 MiB of the total.
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
# Two minutes before the time limit the driver gets SIGTERM and ends in order, so workers need no --lifetime.
#SBATCH --signal=B:TERM@120
# If a node is lost, its tasks run again elsewhere. A preempted job is started again and continues.
#SBATCH --no-kill --requeue --open-mode=append
#SBATCH --job-name=voxelmill
# Set for your site: #SBATCH --partition=... --account=...
set -euo pipefail
# Outside a job of the queue, the nodes and cores are not known.
if [[ -z ${SLURM_JOB_ID:+${SLURM_CPUS_PER_TASK:+${SLURM_NTASKS_PER_NODE:+yes}}} ]]; then
    echo "voxelmill: this script is a job of its own for SLURM. Submit it: sbatch $0 ${*:-SOURCE OUT}" >&2
    exit 2
fi

# ---- Activate the environment here if it is not active when you submit: ----
# module load python
# source "$HOME/voxelmill/bin/activate"

network=() # (--interface ib0) if the nodes have several networks
job=slurm-$SLURM_JOB_ID
options=()

# Memory limit of a worker process: its share of the node's memory without driver and scheduler, minus 256 MiB
# for libraries and the process that restarts it. A --memory-limit of your own overrides it.
memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * SLURM_CPUS_PER_TASK * SLURM_NTASKS_PER_NODE))}
((memory == 0)) || options+=(--memory-limit "$(((memory - 512) / SLURM_NTASKS_PER_NODE - 256))MiB")

# One worker per task slot of the job, each with its own log.
start_workers() {
    srun --overlap --cpus-per-task="$SLURM_CPUS_PER_TASK" --no-kill --kill-on-bad-exit=0 --wait=0 \
        --input=none --open-mode=append --output="$logs/worker-%N-%t.log" "${worker[@]}" \
        2>>"$logs/launch.log" &
}

# ---- The same in all these scripts from here on: start scheduler, workers and driver, and end in order ----
die() { echo "voxelmill: $*" >&2; exit 2; }
[[ ${1:--} != -* && ${2:--} != -* ]] || die "SOURCE and OUT come first, then options."
command -v voxelmill dask >/dev/null || die "no voxelmill on the PATH; this script has a place for that."
[[ -e $1 ]] || die "SOURCE does not exist. SOURCE comes first, then OUT."

logs=$2/logs/$job
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)
address=$logs/scheduler.json
rm -f "$address" # left by an earlier start of this job, if it was requeued

# Dask's settings for voxelmill: the same file for scheduler, workers and driver.
settings='import pathlib, voxelmill; print(pathlib.Path(voxelmill.__file__).with_name("dask.yaml"))'
export DASK_CONFIG=${DASK_CONFIG:-$(python -c "$settings")}
# TLS, so that nobody else can run tasks: VOXELMILL_TLS is a folder made by cluster/make_certificates.sh.
# shellcheck source=/dev/null
[[ -z ${VOXELMILL_TLS:-} ]] || source "$VOXELMILL_TLS/tls.sh"

# No web pages: anyone on the network could read them.
both=(--scheduler-file "$address" --no-dashboard --dashboard-address 127.0.0.1:0 "${network[@]}")
# One thread per worker: a task computes on one core. Dask's memory limit is off: tasks keep to voxelmill's.
export PYTHONFAULTHANDLER=1 # after a crash in a native library the worker's log shows the Python stack
worker=(dask worker "${both[@]}" --nthreads 1 --memory-limit 0 --death-timeout 300
    --preload voxelmill.worker --preload-nanny voxelmill.nanny)

# On any exit, stop the scheduler, which ends the workers. Whatever runs 5 s later gets SIGTERM, then SIGKILL.
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

# The driver's output goes to driver.log and to the job's output. The queue's signals are passed on to the
# driver, which releases the lease and says how to continue; tee ignores them, so that this is logged too.
exec 3> >(trap '' INT TERM USR2; exec tee -a "$logs/driver.log")
tee=$!
voxelmill run "${options[@]}" "$@" --scheduler "$address" >&3 2>&1 3>&- &
driver=$!
exec 3>&-
trap 'kill "$driver" 2>/dev/null || true' INT TERM USR2
while :; do
    status=0
    wait "$driver" || status=$?
    kill -0 "$driver" 2>/dev/null || break # otherwise a signal interrupted the wait
done
wait "$tee" || true
exit "$status"

#!/usr/bin/env bash
# voxelmill in one job of Grid Engine, on one to several nodes: Dask's scheduler, workers and the driver.
#
#   qsub cluster/batch/sge.sh SOURCE OUT [options of `voxelmill run`]
#
# SOURCE and OUT must be on a disk that all nodes see, and OUT's path must not contain blanks. The job's exit
# status is that of `voxelmill run`. After any other end, such as a time limit or qdel, submit the same line
# again: it continues.
# Logs: OUT/logs/sge-<job>/.
# The lines below are defaults: change them here or on the command line
# (qsub -pe mpi 32 -l h_rt=24:00:00 ...).
#
# Total number of workers, one per core. Sites name their parallel environments themselves (`qconf -spl`): one
# such as smp stays on one node; one that spans nodes needs control_slaves TRUE.
#$ -pe smp 4
#$ -l h_rt=04:00:00
# Ask for memory in your site's way, such as -l mem_free=2G per worker. On the first node, driver and
# scheduler together use 512 MiB of it. Beware of h_vmem: it limits address space, of which Python uses a lot.
# One minute before the job is killed the driver is signalled and ends in order.
#$ -notify
# If its first node is lost, the job is started again and continues.
#$ -r y
#$ -cwd
# Pass on the environment, including an active virtual one.
#$ -V
#$ -S /bin/bash
#$ -j y
#$ -N voxelmill
# Set for your site: #$ -q ... -P ...
set -euo pipefail
# Outside a job of the queue, the nodes and cores are not known.
if [[ -z ${JOB_ID:-} ]]; then
    echo "voxelmill: this script is a job of its own for Grid Engine. Submit it: qsub $0 ${*:-SOURCE OUT}" >&2
    exit 2
fi

# ---- Activate the environment here if it is not active when you submit: ----
# module load python
# source "$HOME/voxelmill/bin/activate"

network=() # (--interface ib0) if the nodes have several networks
job=sge-$JOB_ID
options=() # (--memory-limit 1500MiB): a slot's memory minus 256 MiB for Dask and a share of the 512 MiB above

# Launchers pass neither this shell's environment nor its folder to other nodes: a script on disk sets both.
write_worker_script() {
    local name
    {
        for name in PATH LD_LIBRARY_PATH PYTHONPATH "${!DASK_@}" "${!NUMBA_@}"; do
            [[ -z ${!name+x} ]] || printf 'export %s=%q\n' "$name" "${!name}"
        done
        printf 'cd %q\n' "$PWD"
        printf '%q ' exec "${worker[@]}"
        # shellcheck disable=SC2016 # expands on the nodes
        printf -- '--nworkers "$1" >>%q"/worker-$2.log" 2>&1\n' "$logs"
    } >"$logs/worker.sh"
}

# Workers on one node, one per slot, with a common log.
start_on() { # HOST SLOTS
    local command=("$BASH" "$logs/worker.sh" "$2" "$1")
    [[ ${1%%.*} == "$(hostname -s)" ]] || command=(qrsh -inherit -nostdin "$1" "${command[@]}")
    "${command[@]}" </dev/null >>"$logs/launch.log" 2>&1 &
}

# Each line of the file reads: host slots queue ...; without -pe there is no file.
start_workers() {
    write_worker_script
    local host slots
    while read -r host slots _; do
        start_on "$host" "$slots"
    done < <(if [[ -n ${PE_HOSTFILE:-} ]]; then cat "$PE_HOSTFILE"; else echo "$(hostname -s) 1"; fi)
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

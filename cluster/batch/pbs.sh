#!/usr/bin/env bash
# voxelmill in one PBS job (OpenPBS, PBS Pro, Torque), on one to several nodes: scheduler, workers and driver.
#
#   VOXELMILL_ARGS='SOURCE OUT [options of `voxelmill run`]' qsub -v VOXELMILL_ARGS cluster/batch/pbs.sh
#   qsub -F 'SOURCE OUT [options]' cluster/batch/pbs.sh                                     (Torque)
#
# OpenPBS passes no arguments to a script if it reads its #PBS lines, so a variable carries them; with
# `qsub -- script arguments` it skips those lines. -V instead of -v passes on the whole active environment.
# SOURCE and OUT must be on a disk that all nodes see, and OUT's path must not contain blanks. The job's exit
# status is that of `voxelmill run`. After any other end, such as a time limit or qdel, submit the same line
# again: it continues.
# Logs: OUT/logs/pbs-<job>/.
# The lines below are defaults: change them here, or on the command line (qsub -l walltime=24:00:00 ...).
#
# Nodes (select), workers per node (mpiprocs = ncpus, one per core) and memory per node. On the first node,
# driver and scheduler together use 512 MiB of it. For Torque write instead: -l nodes=1:ppn=4,mem=8gb
#PBS -l select=1:ncpus=4:mpiprocs=4:mem=8gb
#PBS -l walltime=04:00:00
# A preempted job is started again and continues.
#PBS -r y
#PBS -j oe
#PBS -N voxelmill
# Set for your site: #PBS -q ... -A ...
set -euo pipefail
# Outside a job of the queue, the nodes and cores are not known.
if [[ -z ${PBS_JOBID:+${PBS_O_WORKDIR:+yes}} ]]; then
    echo "voxelmill: this script is a job of its own for PBS. Submit it: VOXELMILL_ARGS='${*:-SOURCE OUT}' qsub -v VOXELMILL_ARGS $0" >&2
    exit 2
fi

# ---- Activate the environment here if it is not active when you submit: ----
# module load python
# source "$HOME/voxelmill/bin/activate"

network=() # (--interface ib0) if the nodes have several networks
cd "$PBS_O_WORKDIR"
job=pbs-${PBS_JOBID%%.*}
options=() # (--memory-limit 1500MiB): a slot's memory minus 256 MiB for Dask and a share of the 512 MiB above

# Arguments come from VOXELMILL_ARGS if the queue passes none; quotes work as in a shell.
if (($# == 0)); then
    mapfile -d '' -t words < <(xargs printf '%s\0' <<<"${VOXELMILL_ARGS:-}")
    set -- "${words[@]}"
fi

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
    if [[ ${1%%.*} == "$(hostname -s)" ]]; then
        :
    elif command -v pbs_tmrsh >/dev/null; then
        command=(pbs_tmrsh "$1" "${command[@]}") # OpenPBS
    else
        command=(pbsdsh -h "$1" "${command[@]}") # Torque
    fi
    "${command[@]}" </dev/null >>"$logs/launch.log" 2>&1 &
}

# The file has one line per slot.
start_workers() {
    write_worker_script
    local slots host
    while read -r slots host; do start_on "$host" "$slots"; done < <(sort "$PBS_NODEFILE" | uniq -c)
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

#!/usr/bin/env bash
# voxelmill as SLURM job arrays. The jobs do not communicate, so the nodes need no network between them.
#
#   bash cluster/batch/slurm_array.sh SOURCE OUT [options of every stage]                  (or sbatch ...)
#   SHARES=100 SBATCH_PARTITION=long bash cluster/batch/slurm_array.sh SOURCE OUT [options]
#
# The script submits itself four times: ingest, an array of SHARES jobs (4 by default); plan, which runs
# `voxelmill fingerprint` and `voxelmill plan`; preprocess, again an array; status, which fails if OUT lacks
# anything. SOURCE and OUT must be on a disk that all nodes see. One element can be run again on its own:
#
#   STAGE=preprocess SHARES=4 sbatch --array=3 cluster/batch/slurm_array.sh SOURCE OUT [options]
#
# or everything with the first line, which keeps what is finished. Logs: OUT/logs/slurm-array/. The lines
# below are defaults for each job; sbatch's variables (SBATCH_TIMELIMIT, SBATCH_ACCOUNT, ...) override them.
#
# Workers per job, and memory per worker; driver and scheduler together use 512 MiB of the total.
#SBATCH --cpus-per-task=2
#SBATCH --mem-per-cpu=2G
#SBATCH --nodes=1 --ntasks=1
#SBATCH --time=04:00:00
# Two minutes before the time limit the job gets SIGTERM and ends in order.
#SBATCH --signal=B:TERM@120
# A job that is preempted or loses its node is started again and continues.
#SBATCH --requeue --open-mode=append
#SBATCH --job-name=voxelmill
# Set for your site: #SBATCH --partition=... --account=...
set -euo pipefail

# ---- Activate the environment here if it is not active when you submit: ----
# module load python
# source "$HOME/voxelmill/bin/activate"

die() { echo "voxelmill: $*" >&2; exit 2; }
[[ ${1:--} != -* && ${2:--} != -* ]] || die "SOURCE and OUT come first, then options."
command -v voxelmill >/dev/null || die "no voxelmill on the PATH; this script has a place for that."
shares=${SHARES:-4}

# Submit one job and print its id; the arguments after LOG are sbatch's own.
submit() { # STAGE LOG OPTIONS
    STAGE=$1 SHARES=$shares sbatch --parsable --job-name="voxelmill-$1" --output="$logs/$2" "${@:3}" \
        "$script" "${words[@]}" | cut -d';' -f1
}

# Submit the jobs, each after those it depends on. A bad case must not stop the others, so plan starts after
# any end of ingest; `voxelmill fingerprint` refuses if a case is neither ingested nor reported as failed.
submit_all() {
    local name ingest plan preprocess status
    for name in "${!SLURM_@}"; do # set by the job that this script may run in
        [[ $name == SLURM_CONF ]] || unset "$name"
    done
    mkdir -p "$logs"
    cp "$0" "$script" # $0 may be a spooled copy that vanishes with this job
    ingest=$(submit ingest ingest-%A_%a.log --array="1-$shares")
    plan=$(submit plan plan-%j.log --dependency="afterany:$ingest")
    preprocess=$(submit preprocess preprocess-%A_%a.log --array="1-$shares" \
        --dependency="afterok:$plan" --kill-on-invalid-dep=yes)
    status=$(submit status status-%j.log --dependency="afterany:$preprocess" --cpus-per-task=1 --time=30)
    echo "ingest $ingest, plan $plan, preprocess $preprocess, status $status"
    echo "One element again, such as the third of preprocess:"
    printf '  STAGE=preprocess SHARES=%s sbatch --array=3 --output=%q' "$shares" "$logs/preprocess-%A_%a.log"
    printf ' %q' "$script" "${words[@]}"
    echo
}

# Run a command, and pass SIGTERM from the queue on to it.
attend() { # COMMAND
    local status
    "$@" &
    child=$!
    trap 'kill "$child" 2>/dev/null || true' TERM
    while :; do
        status=0
        wait "$child" || status=$?
        kill -0 "$child" 2>/dev/null || return "$status" # otherwise a signal interrupted the wait
    done
}

# Run a command; failed cases (status 1) are in the report and do not stop the other cases.
but_for_bad_cases() { # COMMAND
    local status=0
    "$@" || status=$?
    ((status == 1)) || return "$status"
}

words=("$@")
logs=$2/logs/slurm-array
script=$logs/slurm_array.sh
if [[ -n ${STAGE:-} ]]; then
    [[ -n ${SLURM_JOB_ID:+${SLURM_CPUS_PER_TASK:+yes}} ]] ||
        die "STAGE is $STAGE, and this is no job of SLURM. Submit it with sbatch, or leave STAGE out."
    share=(--share "${SLURM_ARRAY_TASK_ID:-1}/$shares")
    here=(--cluster local --workers "$SLURM_CPUS_PER_TASK")
    memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * SLURM_CPUS_PER_TASK))}
    ((memory == 0)) || here+=(--memory-limit "$(((memory - 512) / SLURM_CPUS_PER_TASK - 256))MiB")
fi
case ${STAGE:-} in
    '')
        [[ -e $1 ]] || die "SOURCE does not exist. SOURCE comes first, then OUT."
        command -v sbatch >/dev/null || die "no sbatch on the PATH. Run this where SLURM takes jobs."
        submit_all
        ;;
    ingest) attend voxelmill ingest "$1" "$2" "${share[@]}" "${here[@]}" "${@:3}" ;;
    plan)
        but_for_bad_cases attend voxelmill fingerprint "$2" "${here[@]}" "${@:3}"
        but_for_bad_cases attend voxelmill plan "$2" "${here[@]}" "${@:3}"
        ;;
    preprocess) attend voxelmill preprocess "$2" "${share[@]}" "${here[@]}" "${@:3}" ;;
    status) voxelmill status "$2" ;;
    *) die "STAGE is $STAGE; it is ingest, plan, preprocess, status, or empty: all of them." ;;
esac

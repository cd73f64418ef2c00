#!/bin/sh
# Make a Slurm of one machine answer, for the tests marked cluster: install Debian's slurm-wlm and munge, configure and start
# them in a folder of their own. Two processors, and two "GPUs" that are plain device nodes: enough to see jobs scheduled.
#   .ci/slurm.sh             prints SLURM_CONF=...
#   .ci/slurm.sh --stop      ends the jobs and the daemons, deletes their folder
# As root; calling it again changes nothing. Everything but the last line goes to stderr.
set -eu

WAIT_SECONDS=30
run=/run/nnbox-slurm
export SLURM_CONF=$run/slurm.conf

say() { echo "slurm: $*" >&2; }
idle() { [ -f "$SLURM_CONF" ] && [ "$(sinfo --noheader --format=%T 2>/dev/null | sed 's/allocated/idle/;s/mixed/idle/')" = idle ]; }

if [ "$(id -u)" != 0 ]; then
    say "the daemons of these tests run as root"
    exit 1
fi
if [ "${1:-}" = --stop ]; then
    if [ -f "$SLURM_CONF" ]; then
        scancel --user=root 2>/dev/null || true
    fi
    # The munge daemon last: the others speak through it until they are gone.
    for name in slurmd slurmctld munged; do
        [ -f "$run/$name.pid" ] || continue
        pid=$(cat "$run/$name.pid")
        kill "$pid" 2>/dev/null || continue
        waited=0
        while kill -0 "$pid" 2>/dev/null && [ "$waited" -lt "$WAIT_SECONDS" ]; do
            sleep 1
            waited=$((waited + 1))
        done
    done
    rm -rf --one-file-system "$run"
    exit 0
fi

mkdir -p "$run"
exec 9>"$run/lock"
flock 9
if ! command -v slurmctld >/dev/null 2>&1 || ! command -v slurmd >/dev/null 2>&1 || ! command -v munged >/dev/null 2>&1; then
    say "installing slurm-wlm and munge"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2 9>&-
    apt-get install -q -y --no-install-recommends slurm-wlm munge >&2 9>&-
fi

if ! idle; then
    host=$(hostname -s)
    mkdir -p "$run/munge" "$run/state" "$run/spool"
    [ -s "$run/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$run/munge.key")
    for number in 0 1; do
        # Numbers of /dev/null: whoever opens it does no harm.
        [ -c "$run/gpu$number" ] || mknod "$run/gpu$number" c 1 3
    done
    # cred_expire: so long a requeued job waits; less than 5 is not heard. SlurmdTimeout: after it a silent node is down. task/none and linuxproc need no control groups.
    cat >"$SLURM_CONF" <<CONF
ClusterName=nnbox
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$run/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$run/state
SlurmdSpoolDir=$run/spool
SlurmctldPidFile=$run/slurmctld.pid
SlurmdPidFile=$run/slurmd.pid
SlurmctldLogFile=$run/slurmctld.log
SlurmdLogFile=$run/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2,bf_min_age_reserve=0
SlurmdParameters=config_overrides
MinJobAge=10
SlurmdTimeout=30
KillWait=10
CompleteWait=0
ReturnToService=2
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    cat >"$run/gres.conf" <<CONF
NodeName=$host Name=gpu File=$run/gpu[0-1]
CONF
    # Daemons must not keep the lock's descriptor, nor stand in a clone that may be deleted.
    cd /
    if ! [ -S "$run/munge/socket" ] || ! munge --socket="$run/munge/socket" --no-input >/dev/null 2>&1; then
        rm -f "$run/munge/socket" "$run/munge/socket.lock"
        munged --force --socket="$run/munge/socket" --key-file="$run/munge.key" --pid-file="$run/munged.pid" \
            --log-file="$run/munged.log" --seed-file="$run/munge.seed" >&2 9>&-
    fi
    slurmctld -f "$SLURM_CONF" >&2 9>&-
    slurmd -f "$SLURM_CONF" >&2 9>&-
    waited=0
    until idle; do
        if [ "$waited" -ge "$WAIT_SECONDS" ]; then
            say "no answer after $WAIT_SECONDS s; the ends of the logs:"
            tail -n 15 "$run/slurmctld.log" "$run/slurmd.log" "$run/munged.log" >&2 || true
            exit 1
        fi
        sleep 1
        waited=$((waited + 1))
    done
    say "two processors and two GPUs that are none answer after $waited s"
fi
echo "SLURM_CONF=$SLURM_CONF"

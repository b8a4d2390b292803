#!/bin/bash
# Starts a real SLURM with one node and two pretended GPUs on this machine, without systemd, for the tests.
# As root on Debian or Ubuntu: one_node_slurm.sh FOLDER; to stop it: one_node_slurm.sh FOLDER stop
set -euo pipefail
folder=$(realpath -m "$1")
host=$(hostname -s)

if [ "${2:-start}" = stop ]; then
    for name in slurmctld slurmd munged; do
        [ -f "$folder/$name.pid" ] && kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
    done
    rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
    exit 0
fi
command -v slurmctld >/dev/null || apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null

mkdir -p "$folder"/{state,spool} /run/munge /etc/slurm
for i in 0 1; do [ -e /dev/fakegpu$i ] || mknod /dev/fakegpu$i c 1 3; done
cat > "$folder/slurm.conf" <<EOF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=60
JobRequeue=1
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem/ {print int($2 * 0.9)}') Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
EOF
# Snakemake's plugin clears SLURM_CONF within jobs, so the file must be where SLURM looks for it.
[ -e /etc/slurm/slurm.conf ] && [ "$(readlink /etc/slurm/slurm.conf)" != "$folder/slurm.conf" ] && {
    echo "/etc/slurm/slurm.conf is there: this machine has a SLURM of its own, which is left alone" >&2
    exit 1
}
ln -sfn "$folder/slurm.conf" /etc/slurm/slurm.conf
ln -sfn "$folder/gres.conf" /etc/slurm/gres.conf
echo "NodeName=$host Name=gpu Count=2 File=/dev/fakegpu[0-1]" > "$folder/gres.conf"
if [ ! -s /etc/munge/munge.key ]; then
    dd if=/dev/urandom bs=1 count=1024 status=none of=/etc/munge/munge.key
    chown munge: /etc/munge/munge.key && chmod 400 /etc/munge/munge.key
fi
chown munge: /run/munge /etc/munge /var/lib/munge /var/log/munge
if ! munge -n >/dev/null 2>&1; then
    runuser -u munge -- munged
    pgrep -n -x munged > "$folder/munged.pid"
fi
slurmctld
slurmd -N "$host"
for _ in $(seq 50); do
    scontrol update NodeName="$host" State=RESUME 2>/dev/null || true
    [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && exit 0
    sleep 0.2
done
echo "SLURM did not start; see $folder/slurmctld.log and $folder/slurmd.log" >&2
exit 1

#!/usr/bin/env bash
# A real Slurm on this machine alone, to try the profile where there is no cluster: one node, one partition, `main`.
#
#   one_node.sh start [folder]    all cores and three quarters of the memory; state and logs lie in the folder
#   one_node.sh stop [folder]     ends it, running jobs as well
#
# Run as root, with Debian's packages: apt-get install --no-install-recommends slurm-wlm slurm-client munge
set -euo pipefail

action=${1:-}
folder=${2:-/tmp/one_node_slurm}
etc=/etc/slurm

say() {
  echo "one_node.sh: $*" >&2
  exit 1
}

start() {
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null ||
      say "$program is missing: apt-get install --no-install-recommends slurm-wlm slurm-client munge"
  done
  [ "$(id -u)" = 0 ] || say "only root can start it"
  for name in slurm cgroup gres; do
    [ ! -e "$etc/$name.conf" ] || say "$etc/$name.conf exists: this machine has a Slurm already"
    rm -f "$etc/$name.conf" # a link into a folder that is gone
  done
  mkdir -p "$folder/state" "$folder/spool"
  folder=$(cd "$folder" && pwd)
  # munged trusts no folder that others may write to, and no key that others may read.
  chmod 755 "$folder"
  (umask 077 && head -c 256 /dev/urandom >"$folder/munge.key")
  # The key is this cluster's own: another munged of this machine is left alone.
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"

  local host
  host=$(hostname -s)
  cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
# Finished jobs are remembered for an hour: squeue tells how they ended.
MinJobAge=3600
ReturnToService=2
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$(awk '/MemTotal/ {print int($2 / 1366)}' /proc/meminfo) Gres=gpu:1
PartitionName=main Nodes=$host Default=YES State=UP
CONF
  printf 'CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n' >"$folder/cgroup.conf"
  # A GPU to ask for; without one it is no device at all.
  printf 'NodeName=%s Name=gpu File=%s\n' "$host" "$(ls /dev/nvidia0 2>/dev/null || echo /dev/null)" >"$folder/gres.conf"
  # Snakemake's executor takes SLURM_CONF out of the environment: the files must be where Slurm looks by itself.
  mkdir -p $etc
  ln -s "$folder"/{slurm,cgroup,gres}.conf $etc/
  slurmctld
  slurmd -N "$host"
  for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then
      sinfo
      return
    fi
    sleep 0.5
  done
  tail -5 "$folder"/slurm*.log >&2
  stop
  say "no node came up within 30 seconds; see above"
}

stop() {
  folder=$(cd "$folder" && pwd) || say "$folder does not exist"
  [ "$(readlink $etc/slurm.conf)" = "$folder/slurm.conf" ] || say "$etc/slurm.conf is not of $folder"
  scancel --state=RUNNING --state=PENDING --user=root 2>/dev/null || true
  for daemon in slurmd slurmctld munged; do
    if [ -s "$folder/$daemon.pid" ]; then
      kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
    fi
  done
  rm -f $etc/{slurm,cgroup,gres}.conf
}

case $action in
start | stop) $action ;;
*) say "start or stop?" ;;
esac

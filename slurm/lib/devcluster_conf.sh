# shellcheck shell=bash
# Sourced by slurm/devcluster: the settings of its daemons, from its ROOT, PORT, ACCOUNTING and
# numbers of nodes.

: "${ROOT:?}" "${PORT:?}" "${ACCOUNTING:?}" "${GPU_NODES:?}" "${GPUS:?}" "${CPU_NODES:?}"

# slurm.conf on standard output.
slurm_conf() {
    local host
    host="$(hostname -s)"
    local gpu="h200-[0-$((GPU_NODES - 1))]" cpu="cpu-[0-$((CPU_NODES - 1))]"
    local gpu_ports="$((PORT + 10))-$((PORT + 9 + GPU_NODES))"
    local cpu_ports="$((PORT + 10 + GPU_NODES))-$((PORT + 9 + GPU_NODES + CPU_NODES))"
    cat <<TEXT
ClusterName=aevo
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it starts again. It must outlast KillWait
# and srun's 5 s, else the job meets its own dying step: the node is drained ("Duplicate jobid") and
# the job held for ever.
AuthInfo=socket=$ROOT/run/munge.sock,cred_expire=15
CredType=cred/munge
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/slurmd.%n.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
ReturnToService=2
JobRequeue=1
# a job over its partition's limits is refused, not left waiting for ever
EnforcePartLimits=ALL
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
DefMemPerCPU=1000
MaxJobCount=20000
# Short intervals, for tests; Slurm's own: SlurmdTimeout 300, KillWait 30.
SlurmctldTimeout=10
SlurmdTimeout=15
KillWait=3
InactiveLimit=0
MinJobAge=300
MessageTimeout=10
TCPTimeout=2
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,bf_resolution=10,sched_interval=2,sched_min_interval=0,batch_sched_delay=0,preempt_youngest_first
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PriorityType=priority/multifactor
JobCompType=jobcomp/filetxt
JobCompLoc=$ROOT/log/jobcomp.log
NodeName=$gpu NodeHostname=$host NodeAddr=127.0.0.1 Port=[$gpu_ports] CPUs=64 Boards=1 SocketsPerBoard=2 CoresPerSocket=32 ThreadsPerCore=1 RealMemory=2000000 Gres=gpu:h200:$GPUS Feature=h200 State=UNKNOWN
NodeName=$cpu NodeHostname=$host NodeAddr=127.0.0.1 Port=[$cpu_ports] CPUs=64 Boards=1 SocketsPerBoard=2 CoresPerSocket=32 ThreadsPerCore=1 RealMemory=256000 Feature=cpu State=UNKNOWN
PartitionName=cpu Nodes=$cpu Default=YES MaxTime=7-0 DefaultTime=60 PriorityTier=5 State=UP
PartitionName=h200 Nodes=$gpu MaxTime=7-0 DefaultTime=60 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=h200-preempt Nodes=$gpu MaxTime=7-0 DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=5 State=UP
TEXT
    # AccountingStoragePass is the munge socket for slurmdbd: AuthInfo alone is not used there.
    ((ACCOUNTING == 0)) || cat <<TEXT
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 1))
AccountingStoragePass=$ROOT/run/munge.sock
AccountingStoreFlags=job_comment
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=qos
TEXT
}

# slurmdbd.conf on standard output.
slurmdbd_conf() {
    cat <<TEXT
AuthType=auth/munge
AuthInfo=socket=$ROOT/run/munge.sock
DbdHost=$(hostname -s)
DbdAddr=127.0.0.1
DbdPort=$((PORT + 1))
SlurmUser=root
LogFile=$ROOT/log/slurmdbd.log
PidFile=$ROOT/run/slurmdbd.pid
CommunicationParameters=NoInAddrAny
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 2))
StorageUser=slurm
StoragePass=aevo
StorageLoc=slurm_acct_db
TEXT
}

"""tools/reproduce.py with a real Slurm: a controller and two nodes of one CPU each."""

import contextlib
import functools
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ra_mm.datasets import shapes as drawn_shapes
from reproduction.ledger import Ledger

REPO = Path(__file__).parents[2]
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SchedulerParameters=bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=2
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} Gres=gpu:1
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1
PartitionName=high Nodes=n1,n2 PriorityTier=2
"""
# Two rows of Table 9 with two seeds each, on 16 pictures.
ROWS = ('table9', '--rows', 'ResNet18', '--scale', 'demo', '--seeds', '2')
FIRST, SECOND = 'ra_r18_no_annealing-seed0', 'ra_r18_no_annealing-seed1'
THIRD, FOURTH = 'ra_r18-seed0', 'ra_r18-seed1'


def call(*command, status=0):
    done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    return output


def wait_for(condition):
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, call('squeue')
        time.sleep(0.2)  # leaves the cores to the jobs


def queue():
    """State and reason by job."""
    lines = call('squeue', '--noheader', '--array', '--format=%F_%K %T %r').split('\n')
    return {words[0]: words[1:] for line in lines if (words := line.split())}


def resume(job):
    """Let a job that was requeued start now, not in two minutes."""
    wait_for(lambda: queue()[job][0] == 'PENDING')
    call('scontrol', 'update', f'jobid={job}', 'StartTime=now')


def pause(*folders):
    """Stop the processes of trainings after the first epoch, and return their ids."""
    running, stopped = {*folders}, []

    def pause_those_in_time():
        for folder in [*running]:
            if [*folder.glob('epoch_*.pth')]:
                running.remove(folder)
                for process in Path('/proc').glob('[0-9]*'):
                    with contextlib.suppress(OSError):
                        command = (process / 'cmdline').read_bytes().split(b'\0')
                        if str(folder).encode() in command:
                            stopped.append(int(process.name))
                            os.kill(stopped[-1], signal.SIGSTOP)
        return not running

    wait_for(pause_those_in_time)
    return stopped


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(('127.0.0.1', 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    """The folder of a running Slurm, to which all commands then speak."""
    programs = ('munged', 'mungekey', 'slurmctld', 'slurmd', 'sbatch')
    path = f'{os.environ["PATH"]}:/usr/sbin'
    if not all(shutil.which(program, path=path) for program in programs):
        pytest.skip('needs Slurm: apt-get install slurm-wlm munge')
    folder = tmp_path_factory.mktemp('slurm')
    conf = SLURM_CONF.format(
        folder=folder,
        host=socket.gethostname(),
        user=getpass.getuser(),
        ports=free_ports(3),
    )
    (folder / 'slurm.conf').write_text(conf)
    (folder / 'gres.conf').write_text('Name=gpu File=/dev/null\n')
    patch = pytest.MonkeyPatch()
    patch.setenv('PATH', path)
    patch.setenv('SLURM_CONF', str(folder / 'slurm.conf'))
    munge = {
        name: folder / f'munge.{name}' for name in ('key', 'socket', 'pid', 'seed')
    }
    call('mungekey', '--create', f'--keyfile={munge["key"]}')
    options = ('socket', 'key-file', 'pid-file', 'seed-file')
    values = (f'--{o}={munge[o.split("-")[0]]}' for o in options)
    call('munged', '--force', *values, f'--log-file={folder}/munge.log')
    try:
        try:
            call('slurmctld')
            for node in ('n1', 'n2'):
                call('slurmd', '-N', node)
            wait_for(lambda: call('sinfo', '-hN', '-plow', '-o%T') == 'idle\nidle\n')
        except AssertionError as e:  # such as in a container without the rights
            pytest.skip(f'Slurm does not start here: {e}')
        yield folder
    finally:
        for file in folder.glob('*.pid'):
            subprocess.run(['kill', file.read_text().strip()])
        patch.undo()


@pytest.fixture
def reproduce(tool, capsys, monkeypatch):
    """Call the tool in this process, and return what it prints; it draws no data."""
    monkeypatch.setattr(drawn_shapes, 'write_shapes', lambda *_, **__: None)
    main = tool('reproduce')

    def reproduce(*argv, status=0):
        code = 0
        try:
            main(*argv)
        except SystemExit as e:
            code = e.code
        output = ''.join(capsys.readouterr())
        assert code == status, output
        return output

    return reproduce


@pytest.fixture
def submit(reproduce):
    return functools.partial(reproduce, '--submit', 'slurm')


@pytest.fixture
def out(cluster, tmp_path):
    """A folder for results, whose jobs are cancelled."""
    yield tmp_path / 'out'
    call('scancel', f'--user={getpass.getuser()}')
    wait_for(lambda: not queue())


def test_jobs_that_are_killed_preempted_or_fail(
    cluster, shapes, out, tmp_path, reproduce, submit
):
    """All jobs end as in two processes side by side on this machine."""
    command = (*ROWS, '--data', shapes / 'classes', '--out')
    runs = out / 'runs'
    # A file of initial weights that cannot be read: this run fails.
    (runs / FOURTH).mkdir(parents=True)
    (runs / FOURTH / 'initial.pth').write_text('nothing')
    submitted = submit(*command, out)
    array = {
        name: re.search(rf'job (\d+): {name}', submitted)[1] for name in (FIRST, THIRD)
    }
    first, second = (f'{array[FIRST]}_{seed}' for seed in (0, 1))
    pause(runs / FIRST, runs / SECOND)
    node = call('squeue', '-hr', '-o%N', '-j', second).strip()
    flags = '--parsable', '-phigh', '-o/dev/null', f'-w{node}'
    high = call('sbatch', *flags, '--wrap=sleep 600').strip()
    wait_for(lambda: queue()[f'{high}_N/A'][0] == 'RUNNING')
    call('scancel', '--signal=KILL', '--full', first)
    wait_for(lambda: first not in queue())
    controller = int((cluster / 'slurmctld.pid').read_text())
    call('scontrol', 'shutdown', 'slurmctld')
    wait_for(lambda: not Path(f'/proc/{controller}').exists())
    assert 'squeue' in reproduce('status', out, status=1)
    call('slurmctld')
    assert re.search(f'{FIRST} has failed: .*\n', reproduce('status', out))
    submitted = submit(*command, out)
    assert re.search(rf'job \d+: {FIRST}\n', submitted)
    assert f'{SECOND} is submitted already' in submitted
    assert f'cancel {out}' in reproduce(*command, out, status=1)  # trains nothing
    call('scancel', high)
    resume(second)
    wait_for(lambda: not queue())

    status = reproduce('status', out)
    assert all(re.search(f'{run} +done', status) for run in (FIRST, SECOND, THIRD))
    assert re.search(f'{FOURTH} has failed: .*(\n.*)*load_from', status), status
    shutil.rmtree(runs / FOURTH)
    submitted = submit(*command, out)
    assert not any(run in submitted for run in (FIRST, SECOND, THIRD))
    fourth = re.search(rf'job (\d+): {FOURTH}', submitted)[1] + '_1'
    stopped = pause(runs / FOURTH)
    call('scancel', '--signal=USR1', '--batch', fourth)  # as before the time limit
    for process in stopped:
        os.kill(process, signal.SIGCONT)
    resume(fourth)
    wait_for(lambda: not queue())
    for run in (FIRST, SECOND, FOURTH):
        assert 'resumed from' in (out / f'slurm/{run}.log').read_text()

    reproduce('report', out)
    assert '4 done, 0 running' in (out / 'report.html').read_text()
    tool = REPO / 'tools/reproduce.py'
    here = tmp_path / 'local', '--jobs', '2', '--rows', 'RA-ResNet18, with Temp'
    call(sys.executable, tool, *command, *here)
    remote, local = (Ledger.read(f).runs for f in (out, tmp_path / 'local'))
    assert remote.keys() > local.keys() == {THIRD, FOURTH}
    # FOURTH was resumed, and mmengine does not restore the state of augmentations.
    assert {remote[run].status for run in remote} == {'done'}
    assert remote[THIRD].curves == local[THIRD].curves
    assert remote[THIRD].metrics == local[THIRD].metrics


def test_dependencies(out, reproduce, submit):
    """A detector waits for its backbone, and is not trained without it."""
    command = ('table4', '--rows', 'Baseline', '--scale', 'demo', '--out', out)
    later = ('--slurm', 'begin=now+1hour', 'cpus-per-task=1')
    submitted = submit(*command, *later)
    backbone = re.search(r'job (\d+): r50-seed0', submitted)[1]
    assert submitted.count(f'after job {backbone}') == 2  # Faster and Mask R-CNN
    reasons = ['BeginTime', 'Dependency', 'Dependency']
    wait_for(lambda: sorted(reason for _, reason in queue().values()) == reasons)
    status = reproduce('status', out)
    assert 'BeginTime' in status and '3 waiting' in status
    call('scancel', backbone)
    wait_for(lambda: not queue())
    status = reproduce('status', out)
    assert '3 failed' in status and 'needs' in status
    submit(*command, *later)
    assert backbone not in reproduce('cancel', out)
    wait_for(lambda: not queue())


def test_job_that_slurm_refuses(submit, shapes, out):
    argv = *ROWS, '--data', shapes / 'classes', '--out', out
    output = submit(*argv, '--slurm', 'partition=nowhere', status=1)
    assert 'sbatch' in output and 'partition specified: nowhere' in output
    assert not queue()


def test_job_that_never_starts(reproduce, submit, shapes, out):
    argv = *ROWS, '--data', shapes / 'classes', '--out', out, '--slurm', 'nodes=3'
    submit(*argv)
    wait_for(lambda: 'PartitionConfig' in reproduce('status', out))


def test_folder_that_the_nodes_do_not_have(reproduce, submit, shapes, out):
    argv = *ROWS, '--data', shapes / 'classes', '--out', out
    submit(*argv, '--slurm', 'begin=now+1hour')
    away = out.rename(out.with_name('away'))
    for job in queue():
        call('scontrol', 'update', f'jobid={job}', 'StartTime=now')
    wait_for(lambda: not queue())
    shutil.rmtree(out, ignore_errors=True)
    away.rename(out)
    status = reproduce('status', out)
    assert '4 failed' in status and 'does not have' in status.replace('\n', ' ')

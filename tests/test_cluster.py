"""Training by several processes through TF_CONFIG, all on this machine."""
import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT, SECONDS, train_flags, wait_for
from histology.files import InputError
from histology.progress import Stopped
from input_pipeline import queues
from nets.tf1 import tf
from training import checkpoints, cluster, loop, records

# Enough for a worker that comes back to join before the last.
STEPS = 600
EVALUATOR = {'type': 'evaluator', 'index': 0}  # a task


@pytest.fixture
def free_port():
    """A function that gives a port of this machine which no one else gets."""
    with contextlib.ExitStack() as sockets:
        def reserve():
            held = sockets.enter_context(socket.socket())
            # A server may bind to the port too while nobody listens there.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(('127.0.0.1', 0))
            return held.getsockname()[1]
        yield reserve


def begun(log):
    """What the processes of a log said when they began to train."""
    return re.findall(f'training {STEPS} steps|resuming at step', log)


@pytest.fixture
def start_task(data_dir, tmp_path, free_port):
    """A function that starts a task, of one of each kind, with more flags.

    What a task says is in tmp_path/TASK.log.
    """
    jobs = {job: [f'127.0.0.1:{free_port()}']
            for job in ('chief', 'worker', 'ps')}
    flags = (*train_flags(data_dir, tmp_path, 'unet', STEPS), '--width=4',
             '--evaluate_every=100')

    def start(task, *more):
        config = {'cluster': jobs, 'task': {'type': task, 'index': 0}}
        with open(tmp_path / f'{task}.log', 'a') as log:
            return subprocess.Popen(
                [sys.executable, 'main.py', *flags, *more], cwd=ROOT,
                stdout=log, stderr=log,
                env=dict(os.environ, TF_CONFIG=json.dumps(config)))

    return start


@pytest.mark.long
def test_a_cluster_trains_and_a_killed_worker_comes_back(start_task, tmp_path):
    processes = {task: start_task(task)
                 for task in ('ps', 'chief', 'worker', 'evaluator')}
    try:
        folder = tmp_path / 'unet'
        # As the evaluator sees it: a checkpoint's files are there before.
        wait_for(lambda: checkpoints.latest_step(str(folder)) and begun(
            (tmp_path / 'worker.log').read_text()), *processes.values())
        # Nobody trains until the worker is back.
        processes['chief'].send_signal(signal.SIGSTOP)
        processes['worker'].kill()
        processes['worker'].wait()
        others = [process for task, process in processes.items()
                  if task != 'worker']
        wait_for((folder / 'weights.h5').exists, *others)
        # It does all steps that are left, while the chief stands still. After
        # the chief's last one it might find no server.
        processes['worker'] = start_task('worker')
        wait_for(lambda: processes['worker'].poll() is not None, *others)
        processes['chief'].send_signal(signal.SIGCONT)
        for process in processes.values():
            process.wait(timeout=SECONDS)
    finally:
        for process in processes.values():
            process.kill()
    logs = {task: (tmp_path / f'{task}.log').read_text()
            for task in processes}
    assert {task: process.returncode for task, process in processes.items()
            } == dict.fromkeys(processes, 0), logs
    # Some steps are under way when the last is taken.
    last = checkpoints.checkpoint_step(checkpoints.latest_valid(str(folder)))
    assert STEPS <= last < STEPS + 10
    # No checkpoint was evaluated twice.
    evaluated = [int(step) for step in re.findall(
        r'step (\d+): validation', logs['evaluator'])]
    assert len(evaluated) == len(set(evaluated)) > 1
    assert STEPS <= evaluated[-1] < STEPS + 10
    assert checkpoints.best_record(str(folder))['step'] in evaluated
    # The first may find the chief's first checkpoint.
    assert len(begun(logs['worker'])) == 2
    assert 'resuming at step' in logs['worker']


@pytest.mark.long
def test_a_signal_to_all_tasks_loses_nothing(start_task, tmp_path):
    """As Ctrl-C, or a batch system's end: the server waits for the chief."""
    processes = {task: start_task(task, '--steps=100000',
                                  '--evaluate_every=100000')
                 for task in ('ps', 'chief')}
    try:
        folder = str(tmp_path / 'unet')
        wait_for(lambda: checkpoints.latest_step(folder) == 0,
                 *processes.values())
        # The server first, as it may well be.
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        status = {task: process.wait(timeout=SECONDS)
                  for task, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    log = (tmp_path / 'chief.log').read_text()
    assert status == dict.fromkeys(processes, 128 + signal.SIGTERM), log
    assert 'stopped;' in log
    assert checkpoints.checkpoint_step(checkpoints.latest_valid(folder)) > 0


def test_workers_read_their_own_patches(data_dir):
    """18 patches are 6 for each of three workers, no patch for two."""
    path = str(data_dir / 'train.h5')
    seen = []
    for worker in range(3):
        blocks = queues.patch_blocks(path, seed=worker, shard=(worker, 3))
        block = next(blocks)  # an epoch: fewer than BLOCK patches
        assert len(block) == 6
        seen.extend(patch.tobytes() for patch in block)
    everything = queues.patch_blocks(path, seed=0)
    whole = [patch.tobytes() for patch in np.concatenate(
        [next(everything), next(everything)])]
    assert sorted(seen) == sorted(whole)


def test_a_chief_at_an_ipv6_address_is_found(tmp_path, monkeypatch):
    with socket.socket(socket.AF_INET6) as chief:
        try:
            chief.bind(('::1', 0))
        except OSError:
            pytest.skip('no IPv6 here')
        chief.listen()
        chief.settimeout(SECONDS)
        address = f'[::1]:{chief.getsockname()[1]}'
        monkeypatch.setenv('TF_CONFIG', json.dumps(
            {'cluster': {'chief': [address], 'ps': [address]},
             'task': EVALUATOR}))
        # The step is there once the chief was asked for.
        steps = iter([0, 9])
        monkeypatch.setattr(checkpoints, 'latest_step',
                            lambda folder: next(steps))
        monkeypatch.setattr(cluster, 'POLL_SECONDS', 0.1)
        cluster.watch(cluster.task(str(tmp_path)), 9)
        chief.accept()[0].close()


def test_an_evaluator_ends_by_a_signal(trained, monkeypatch):
    """The evaluation is not taken for done."""
    folder = str(trained / 'unet')
    record = records.read_record(folder, 'unet')
    del record['changes']
    training = loop.Training(records.TrainConfig(**record),
                             tf.estimator.RunConfig(folder), 0)

    def evaluate(*_, **__):
        raise Stopped

    monkeypatch.setattr(tf.estimator.Estimator, 'evaluate', evaluate)
    with pytest.raises(Stopped):
        training.evaluate(6)


@pytest.mark.parametrize('job', ['chief', 'ps'])
def test_a_task_gives_up_without_another(job, tmp_path, free_port, monkeypatch,
                                         capsys):
    missing = f'127.0.0.1:{free_port()}'
    there = socket.socket()
    there.bind(('127.0.0.1', 0))
    there.listen(100)
    jobs = dict.fromkeys(('chief', 'ps'),
                         [f'127.0.0.1:{there.getsockname()[1]}'])
    monkeypatch.setenv('TF_CONFIG', json.dumps(
        {'cluster': {**jobs, job: [missing]}, 'task': EVALUATOR}))
    monkeypatch.setattr(cluster, 'POLL_SECONDS', 0.1)
    monkeypatch.setattr(cluster, 'MISSED', 0.3)
    # The end of the process, which is that of the tests.
    monkeypatch.setattr(os, '_exit', sys.exit)
    with there, pytest.raises(SystemExit) as end:
        cluster.watch(cluster.task(str(tmp_path)), 9)
    assert end.value.code == 1
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f'error: TF_CONFIG: no {job} at {missing} for 0.3 s;')


def test_a_worker_ends_after_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, 'latest_step', lambda folder: 9)
    monkeypatch.setattr(cluster, 'WORKER_STAYS', 0.1)
    monkeypatch.setenv('TF_CONFIG', json.dumps(
        {'cluster': {'chief': ['a:1'], 'ps': ['a:2'], 'worker': ['a:3']},
         'task': {'type': 'worker', 'index': 0}}))
    monkeypatch.setattr(os, '_exit', sys.exit)
    with pytest.raises(SystemExit) as end:
        cluster.watch(cluster.task(str(tmp_path)), 9)
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(
        f'{tmp_path}: the training has ended; ')


def test_tasks_on_other_data_than_the_chiefs_are_refused(tmp_path):
    config = records.TrainConfig(net='unet', data_dir='own', data_fold='0',
                                 trained_on=['a', 'b'])
    records.write_record(str(tmp_path), config, None, 0)
    cluster.check_as_chief(config, str(tmp_path))
    for change in ({'data_fold': '1'}, {'trained_on': ['a', 'c']}):
        other = dataclasses.replace(config, **change)
        for check in (
                lambda: cluster.check_as_chief(other, str(tmp_path)),
                cluster.SameDataHook(other,
                                     str(tmp_path)).after_create_session):
            with pytest.raises(InputError, match='--data_dir=own: .*other'):
                check()
    with pytest.raises(InputError, match='width 16, not 4'):
        cluster.check_as_chief(dataclasses.replace(config, width=4),
                               str(tmp_path))


@pytest.mark.parametrize('config', [
    '{', '{"cluster": {"worker": ["a:1"]}}',
    '{"cluster": {"chief": ["a:1"]}, "task": {"type": "x"}}',
    '{"cluster": {"chief": ["a:1"], "worker": ["a:2"]}, '
    '"task": {"type": "worker", "index": 0}}',
    '{"cluster": {"chief": ["a"], "ps": ["a:2"]}, '
    '"task": {"type": "ps", "index": 0}}',
    '{"cluster": {"chief": ["a:1"], "ps": []}, '
    '"task": {"type": "chief", "index": 0}}',
    '{"model_dir": "there"}',
    '{"cluster": {"chief": ["grpc://a:1"], "ps": ["a:2"]}, '
    '"task": {"type": "ps", "index": 0}}',
    '{"cluster": {"master": ["a:1"], "ps": ["a:2"]}, '
    '"task": {"type": "ps", "index": 0}}'])
def test_a_wrong_tf_config_is_refused(monkeypatch, config):
    monkeypatch.setenv('TF_CONFIG', config)
    with pytest.raises(InputError, match=r'\ATF_CONFIG: [^\n]*\Z'):
        cluster.task('here')


def test_a_server_on_a_taken_port_is_refused(monkeypatch, free_port):
    port = free_port()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(('127.0.0.1', port))
        taken.listen()
        monkeypatch.setenv('TF_CONFIG', json.dumps({
            'cluster': {'chief': ['127.0.0.1:1'],
                        'ps': [f'127.0.0.1:{port}']},
            'task': {'type': 'ps', 'index': 0}}))
        with pytest.raises(InputError, match='TF_CONFIG: the port of '
                           f'127.0.0.1:{port} cannot be used'):
            cluster.start_server(cluster.task('here'))


def test_a_server_on_a_port_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv('TF_CONFIG', json.dumps({
        'cluster': {'chief': ['a:1'], 'ps': ['localhost:70000']},
        'task': {'type': 'ps', 'index': 0}}))
    with pytest.raises(InputError, match='the port of localhost:70000 cannot'):
        cluster.start_server(cluster.task('here'))

"""Training by several processes through TF_CONFIG, all on this machine."""
import contextlib
import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT, SECONDS, one_line, run, train_flags, wait_for
from input_pipeline import queues
from training import checkpoints

# Enough for a killed worker to come back before the last.
STEPS = 2000


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


@pytest.mark.long
def test_a_cluster_trains_and_a_killed_worker_comes_back(
        data_dir, tmp_path, free_port):
    cluster = {job: [f'127.0.0.1:{free_port()}']
               for job in ('chief', 'worker', 'ps')}
    flags = (*train_flags(data_dir, tmp_path, 'unet', STEPS), '--width=4',
             '--evaluate_every=100')

    def start(task):
        config = {'cluster': cluster, 'task': {'type': task, 'index': 0}}
        with open(tmp_path / f'{task}.log', 'a') as log:
            return subprocess.Popen(
                [sys.executable, 'main.py', *flags], cwd=ROOT, stdout=log,
                stderr=log, env=dict(os.environ,
                                     TF_CONFIG=json.dumps(config)))

    processes = {task: start(task)
                 for task in ('ps', 'chief', 'worker', 'evaluator')}
    try:
        folder = tmp_path / 'unet'
        wait_for((folder / 'best' / 'best.json').exists, *processes.values())
        processes['worker'].kill()
        processes['worker'].wait()
        processes['worker'] = start('worker')
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
    best = checkpoints.read_best(str(folder))
    assert STEPS <= best['evaluated'] <= last
    # No checkpoint was evaluated twice.
    evaluated = re.findall(r'step \d+: validation', logs['evaluator'])
    assert len(evaluated) == len(set(evaluated)) > 1
    assert checkpoints.record_of_weights(
        str(folder / 'weights.h5'))['step'] == best['step']
    assert logs['worker'].count(f'training {STEPS} steps') == 1
    assert 'resuming at step' in logs['worker']


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


SERVE = '''
from training import cluster
cluster.serve_parameters(cluster.task(), {folder!r}, 9, patience=1)
'''


def test_a_parameter_server_gives_up_without_a_chief(tmp_path, free_port):
    chief, ps = free_port(), free_port()
    process = run(
        sys.executable, '-c', SERVE.format(folder=str(tmp_path)),
        TF_CONFIG=json.dumps({
            'cluster': {'chief': [f'127.0.0.1:{chief}'],
                        'ps': [f'127.0.0.1:{ps}']},
            'task': {'type': 'ps', 'index': 0}}))
    assert process.returncode == 1
    assert f'InputError: TF_CONFIG: no chief at 127.0.0.1:{chief}' in (
        process.stderr)


def test_a_wrong_tf_config_ends_in_one_line(data_dir, tmp_path):
    for config in ('{', '{"cluster": {"worker": ["a:1"]}}',
                   '{"cluster": {"chief": ["a:1"]}, "task": {"type": "x"}}'):
        one_line(run(sys.executable, 'main.py',
                     *train_flags(data_dir, tmp_path, 'unet', 1),
                     TF_CONFIG=config), 'TF_CONFIG')

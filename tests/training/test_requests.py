"""What a run is asked while it trains, what it tells of its time, and how batches reach devices in any order."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from bioclip_jax.errors import UsageError
from bioclip_jax.parallel.mesh import BATCH_AXES, make_mesh
from bioclip_jax.parallel.sharding import batch_sharding
from bioclip_jax.training.feed import place
from bioclip_jax.training.goodput import Goodput, first_start
from bioclip_jax.training.profiling import parse_steps
from bioclip_jax.training.requests import CTRL_C, TERMINATED, Requests
from bioclip_jax.training.signals import ABORT, PROFILE, REPLACED, SAVE, SIGNALS, STOP, WAITED, place_signals, reduced

pytestmark = pytest.mark.core


def test_checkpoint_is_due_when_its_minutes_have_passed_since_the_last():
    clock = [100.0]
    requests = Requests(2, lambda: clock[0])
    clock[0] += 119
    assert not requests.flags()[SAVE]
    clock[0] += 1
    assert requests.flags()[SAVE]
    requests.saved()
    assert not requests.flags()[SAVE]
    assert not Requests(0, lambda: clock[0]).flags()[SAVE]


def test_signals_ask_and_a_second_ctrl_c_does_not_wait(capfd):
    requests = Requests()
    before = signal.getsignal(signal.SIGTERM)
    with requests.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert requests.flags()[PROFILE]
        assert not requests.flags()[PROFILE]  # asked for once
        os.kill(os.getpid(), signal.SIGINT)
        assert requests.flags()[STOP] == CTRL_C
        os.kill(os.getpid(), signal.SIGTERM)
        assert requests.flags()[STOP] == TERMINATED
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
    assert capfd.readouterr().err.count("stopping after this step") == 1


def test_signals_of_a_process_lie_in_the_rows_of_its_devices():
    mesh = make_mesh(2, 2)
    with jax.transfer_guard("disallow"):
        signals = place_signals({STOP: 2, ABORT: 1, REPLACED: 3}, mesh)
    assert signals.sharding == batch_sharding(mesh)
    np.testing.assert_array_equal(signals[:, :WAITED], [[2, 0, 0, 1]] * 4)
    assert sorted(signals[:, REPLACED].tolist()) == [0, 0, 0, 3]
    np.testing.assert_array_equal(reduced(signals), [2, 0, 0, 1, 0, 3])
    assert signals.shape == (4, SIGNALS)


def test_rows_reach_their_devices_whatever_the_order_of_the_mesh():
    devices = np.array(jax.devices())[[2, 0, 3, 1]].reshape(2, 2)
    mesh = Mesh(devices, BATCH_AXES, axis_types=(AxisType.Auto,) * 2)
    rows = np.arange(16).reshape(8, 2)
    placed = place(rows, batch_sharding(mesh))
    np.testing.assert_array_equal(placed, rows)
    on_first = next(shard for shard in placed.addressable_shards if shard.device == devices[0, 0])
    np.testing.assert_array_equal(on_first.data, rows[:2])


def test_goodput_counts_the_steps_that_were_kept_over_all_time_since_the_first_start(tmp_path):
    assert first_start(tmp_path, lambda: 1000.0) == 1000.0
    assert first_start(tmp_path, lambda: 2000.0) == 1000.0
    goodput = Goodput(1000.0, [{"seconds": 10.0, "data_wait_share": 0.5}, {"seconds": 5.0}], lambda: 1100.0)
    assert goodput.add(15.0) == pytest.approx(0.25)
    assert json.loads((tmp_path / "first_start.json").read_text()) == {"seconds_since_1970": 1000.0}


def test_steps_to_profile_are_a_first_one_and_how_many():
    assert parse_steps("100:5") == range(100, 105)
    assert len(parse_steps(None)) == 0
    for text in ("5", "a:3", "3:0", "3:-1"):
        with pytest.raises(UsageError, match="has to be FIRST:COUNT"):
            parse_steps(text)

"""What follows from a compiler's answer: arithmetic, text and JSON."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError
from bioclip_jax.models.flops import image_flops, step_flops, text_flops
from bioclip_jax.planning.answer import Answer, Exchange
from bioclip_jax.planning.inputs import Rates, Stream
from bioclip_jax.planning.machine import Machine
from bioclip_jax.planning.plan import Assumptions, make_plan
from bioclip_jax.planning.price import Prices
from bioclip_jax.planning.question import Reply
from bioclip_jax.planning.study import Study, check_divides
from bioclip_jax.planning.text import block, report
from bioclip_jax.planning.work import again_flops, exchange_seconds, step_time

pytestmark = pytest.mark.core

TOKENS = {"bio": 32, "replay": 77}
GPUS = Machine("h100x32", "h100", 32, 32, 4, 4, 989e12, 450e9, 400e9, 96)


def printed(renderable):
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable, highlight=False)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def test_days_chip_hours_and_price_are_the_step_times_the_steps(config, machine, streams, reply):
    prices = Prices("EUR", {"v5e": 1.5}, "prices.yaml")
    run = make_plan(config, machine, streams, reply, Assumptions(prices=prices)).run
    assert run.step_seconds[0] == pytest.approx(1.52)
    assert run.step_seconds[1] == pytest.approx(1.57 + run.exchange_seconds)
    for place, seconds in enumerate(run.step_seconds):
        assert run.days[place] == pytest.approx(seconds * 71_280 / 86_400)
        assert run.chip_hours[place] == pytest.approx(seconds * 71_280 * 256 / 3_600)
        assert run.price[place] == pytest.approx(1.5 * run.chip_hours[place])
        assert run.images_per_second[place] == pytest.approx(100_352 / seconds)
        assert run.utilization[place] == pytest.approx(step_flops(config, TOKENS) / (seconds * 256 * 197e12))
    assert run.currency == "EUR"


def test_a_step_is_never_quicker_than_its_arithmetic_or_its_exchanges(config, machine, answer):
    quick = dataclasses.replace(answer, parts={"vision mlp": (0.01, 0.02)})
    at_peak = (step_flops(config, TOKENS) + again_flops(config, TOKENS)) / (256 * 197e12)
    step = step_time(config, TOKENS, quick, machine)
    assert (step.low, step.low_is) == (at_peak, "all FLOPs at peak")
    slow = dataclasses.replace(quick, exchanges=(Exchange("all-gather", "fast", "f32", 256, 1, 900_000_000_000),))
    step = step_time(config, TOKENS, slow, machine)
    assert step.low_is == "all exchanges at full bandwidth"
    assert step.high == pytest.approx(at_peak + step.low)


def test_without_an_estimate_a_share_of_the_peak_is_assumed(config, answer):
    plain = dataclasses.replace(answer, parts={}, exchanges=())
    at_peak = (step_flops(config, TOKENS) + again_flops(config, TOKENS)) / (32 * 989e12)
    step = step_time(config, TOKENS, plain, GPUS, (0.25, 0.5))
    assert (step.low, step.high) == (pytest.approx(2 * at_peak), pytest.approx(4 * at_peak))
    assert step.low_is == "all FLOPs at an assumed 50 % of the peak"


def test_remat_full_computes_all_but_a_blocks_last_product_again(config):
    model, config = config.model, dataclasses.replace(config, replay_batch_size=0)
    forward = image_flops(model) + text_flops(model, 32)
    last = 2 * (257 * 24 * 4 * 1024**2 + 32 * 12 * 4 * 768**2)
    ends = 2 * (256 * 3 * 14**2 * 1024 + 1024 * 768 + 768 * 768)
    assert again_flops(config, {"bio": 32}) == pytest.approx(90_112 * (forward - last - ends), rel=1e-6)
    parts = dataclasses.replace(config, micro_batches=4, remat_policy="none")
    assert again_flops(parts, {"bio": 32}) == pytest.approx(90_112 * forward)


@pytest.mark.parametrize(
    ("exchange", "seconds"),
    [
        # Within a network: a ring moves (n - 1) / n of what is gathered, twice that of what is reduced.
        (Exchange("all-gather", "fast", "f32", 8, 1, 8_000), 7_000 / 450e9),
        (Exchange("all-reduce", "fast", "f32", 8, 1, 8_000), 14_000 / 450e9),
        (Exchange("reduce-scatter", "fast", "f32", 8, 1, 1_000), 7_000 / 450e9),
        (Exchange("collective-permute", "fast", "f32", 2, 1, 8_000), 8_000 / 450e9),
        # Over all: each node sends through its network card, and shares within.
        (Exchange("all-reduce", "slow", "f32", 32, 1, 8_000), 2 * 6_000 / 400e9 + 2 * 7_000 / 450e9),
        # One GPU of each node: eight such groups share a node's network card.
        (Exchange("all-reduce", "slow", "f32", 4, 1, 8_000), 8 * 2 * 6_000 / 400e9),
        (Exchange("send", "slow", "f32", 0, 1, 8_000), 8 * 8_000 / 400e9),
    ],
)
def test_exchanges_take_their_bytes_over_the_bandwidth(exchange, seconds):
    assert exchange_seconds(exchange, GPUS) == pytest.approx(seconds)


def test_hosts_are_asked_for_what_the_shortest_step_needs(config, machine, streams, reply):
    rates = Rates(decode=500.0, record_bytes=20_000.0, storage=2e9)
    i = make_plan(config, machine, streams, reply, Assumptions(rates)).run.inputs
    assert i.images_per_second == pytest.approx(100_352 / 1.52 / 32)
    assert (i.cores_needed, i.cores, i.is_enough) == (5, 112, True)
    assert i.bytes_per_second == pytest.approx(20_000 * i.images_per_second)
    assert i.checkpoint_seconds == pytest.approx(5_140_835_352 / 2e9)
    # Four steps, a save that has begun, the one that is asked for, half a minute: up to whole half minutes.
    assert i.grace_seconds == 60


def test_record_sizes_of_manifests_are_weighted_by_the_streams_rows(config, machine, streams, reply):
    known = {name: dataclasses.replace(stream, record_bytes=1e4) for name, stream in streams.items()}
    known["replay"] = Stream(77, "by the data", 5e4)
    i = make_plan(config, machine, known, reply, Assumptions()).run.inputs
    assert i.record_bytes == pytest.approx((90_112 * 1e4 + 10_240 * 5e4) / 100_352)
    assert i.is_record_size_known
    assert not make_plan(config, machine, streams, reply, Assumptions()).run.inputs.is_record_size_known


def test_json_has_every_byte(config, machine, streams, reply):
    content = json.loads(json.dumps(make_plan(config, machine, streams, reply, Assumptions()).to_json()))
    memory = content["answer"]["memory"]
    assert memory["batch"] == 2**27 + 512
    assert memory["total"] == reply.answer.memory.total
    assert content["answer"]["exchanges"][1]["bytes"] == 6_700_000
    assert content["run"]["inputs"]["checkpoint_bytes"] == 5_140_835_352
    assert content["mesh"] == {"data": 256, "fsdp": 1}
    assert content["config"]["global_batch_size"] == 90_112
    assert Reply.from_json({"answer": reply.to_json()["answer"], "checkpoint_bytes": 1}).answer == reply.answer


def test_a_step_that_does_not_fit_is_an_answer(config, machine, streams):
    refused = Reply(Answer("v5e:16x16", "made up", False, 94 * 2**30, 16 * 2**30, 18.2), 1)
    plan = make_plan(config, machine, streams, refused, Assumptions())
    assert plan.run is None
    assert plan.to_json()["fits"] is False
    text = printed(block(plan))
    assert "v5e:16x16: does not fit" in text
    assert "94.00 GiB needed of 16.00 on each device" in text
    assert "chip-hours" not in text


def test_several_topologies_are_compared_in_a_table(config, machine, streams, reply):
    refused = Reply(Answer("v5e:4x4", "made up", False, 94 * 2**30, 16 * 2**30, 18.2), 1)
    small = dataclasses.replace(machine, topology="v5e:4x4", chips=16, devices=16, hosts=2)
    plans = [
        make_plan(config, where, streams, what, Assumptions()) for where, what in ((machine, reply), (small, refused))
    ]
    tried = {"batch": (plans[1], plans[0])}
    lines = printed(report([Study(plans[0], tried), Study(plans[1], {})])).splitlines()
    rows = [line.split() for line in lines[lines.index("side by side") :] if line.startswith(" v5e:")]
    assert rows[0][:5] == ["v5e:16x16", "yes", "12.00", "of", "16.00"]
    assert rows[1] == ["v5e:4x4", "no", "94.00", "of", "16.00", "-", "-", "-", "-"]
    assert "v5e:16x16: search for the largest batch that fits" in lines


def test_a_batch_that_does_not_divide_is_refused_with_the_ones_that_would(config, machine):
    with pytest.raises(UsageError, match=r"global_batch_size 1000 does not divide over the 256 .* 768 or 1024 would"):
        check_divides(dataclasses.replace(config, global_batch_size=1000), machine)


def test_hosts_that_cannot_decode_enough_are_named(config, machine, streams, reply):
    few = dataclasses.replace(machine, cores=1)
    text = " ".join(printed(block(make_plan(config, few, streams, reply, Assumptions()))).split())
    assert "2 of 1 cores at 1,945 each; too few, the devices would wait" in text
    slow = Assumptions(Rates(decode=100.0))
    text = " ".join(printed(block(make_plan(config, machine, streams, reply, slow))).split())
    assert "21 of 112 cores at 100 each; the config decodes with 4, give data.threads" in text


def test_the_printed_block_is_as_it_was(config, machine, streams, reply):
    assert printed(block(make_plan(config, machine, streams, reply, Assumptions()))) == BLOCK


BLOCK = """\
v5e:16x16: fits; 256 chips v5e, 32 hosts
  batch          90,112 + 10,240 pairs a step, 352 + 40 on each device; tokens: bio 32 (--tokens
                 bio=32); replay 77 (the whole context: the data are not here)
  settings       mesh 256 x 1, remat full, micro_batches 1, optimizer sharded
  compiled       the whole step, compiled by a made-up compiler; in 131 s
  memory         12.00 of 16.00 GiB on each device, by the compiler; at the same time at most 10.00
    parameters       2.00  ###
    optimizer        0.25
    batch            0.13
    activations      6.00  #########
    temporaries      3.50  #####
    program          0.12
    free             4.00  ------
  exchanges      reduce-scatter f32, fast network, 29 times among 256  6.7 MB  19.0 ms at best
                 all-gather f32, fast network, 27 times among 256      1.7 GB  18.8 ms at best
                 all-reduce f32, fast network, 9 times among 256       72 B    0.0 ms at best
  gradients      added up in f32
  FLOPs          50.7 PFLOP a step by the mathematics; 23 % more is computed again
  estimate       vision mlp                                    900 ms
                 vision attention                       600 to 650 ms
                 optimizer                                    20.0 ms
                 together, the compiler's estimate  1,520 to 1,570 ms
  step           1.52 to 1.61 s: from the compiler's low estimate to the compiler's high estimate,
                 plus all exchanges
  speed          62,416 to 66,021 images/s, MFU 62 to 66 %
  run            1.25 to 1.33 days for 71,280 steps, 7,705 to 8,150 chip-hours
  decoding       2,063 images/s on each host at the shortest step: 2 of 112 cores at 1,945 each
  reading        47.5 MB/s on each host, of records of 23,000 bytes (assumed)
  checkpoint     5,140,835,352 bytes, 5.1 s to write; a grace period of 60 s holds one save after
                 another
  arithmetic     the compiler says fits, memory, exchanges and gradients, and the estimate by part;
                 all else is arithmetic with public figures of v5e (docs/plan.md). Nothing was run
"""

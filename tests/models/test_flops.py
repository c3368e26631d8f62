"""The FLOPs that a step is said to need are those of its traced program: all products of the loss and its gradient."""

import dataclasses
import math

import jax
import pytest
from jax.interpreters import partial_eval

from bioclip_jax.config import CLIPConfig, DataConfig, LossConfig, OptimizerConfig, TrainConfig
from bioclip_jax.models.flops import step_flops
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.recipes import load_recipe
from bioclip_jax.training.step import make_program

pytestmark = pytest.mark.core

TOKENS = {"bio": 32, "replay": 77}
REPLAY = DataConfig(dataset="replay", text_types=("caption",))
SLOW = pytest.mark.slow  # together
PRESETS = (
    "tiny",
    *(pytest.param(name, marks=SLOW) for name in ("vit_s16", "vit_b32", "vit_b16", "vit_l14", "vit_h14")),
)
RECIPES = ("bioclip2", *(pytest.param(name, marks=SLOW) for name in ("bioclip", "bioclip25")))


def jaxpr_flops(jaxpr):
    """Of all matrix products, a multiply-add being two; bodies of loops as often as they turn."""
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        assert name not in ("while", "conv_general_dilated"), "loops say how often they turn, and patches are products"
        if name == "dot_general":
            left, right = (variable.aval.shape for variable in equation.invars)
            (_, contracted), (_, batched) = equation.params["dimension_numbers"]
            others = [size for axis, size in enumerate(right) if axis not in (*contracted, *batched)]
            total += 2 * math.prod((*left, *others))
            continue
        times = equation.params["length"] if name == "scan" else 1
        total += times * sum(jaxpr_flops(inner) for inner in inner_jaxprs(equation.params))
    return total


def inner_jaxprs(parameters):
    values = jax.tree.leaves(list(parameters.values()), is_leaf=lambda value: hasattr(value, "eqns"))
    return [getattr(value, "jaxpr", value) for value in values if hasattr(value, "eqns")]


def traced_flops(config, tokens):
    """Of value and gradient of a config's loss, recomputing nothing and computing all logits at once."""
    config = dataclasses.replace(
        config,
        remat_policy="none",
        micro_batches=1,
        attention="xla",
        loss=dataclasses.replace(config.loss, column_chunk=0),
    )
    program = make_program(config, make_mesh(devices=jax.devices()[:1]), species=1)
    batch = program.abstract_batch(tokens)
    traced = jax.make_jaxpr(jax.value_and_grad(lambda *arguments: program.losses(*arguments)["loss"]))(
        program.abstract_state.parameters, batch
    )
    # Gradients that nobody asks for, as of pixels, are traced all the same; compilers leave them out.
    return jaxpr_flops(partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_presets_flops_are_those_of_its_traced_step(preset):
    config = TrainConfig(model=getattr(CLIPConfig, preset)(), global_batch_size=4096)
    assert step_flops(config, {"bio": 32}) == pytest.approx(traced_flops(config, {"bio": 32}), rel=0.01)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipes_flops_are_those_of_its_traced_step(recipe):
    config = load_recipe("configs", recipe).config
    tokens = TOKENS if config.replay_batch_size else {"bio": 77}
    assert step_flops(config, tokens) == pytest.approx(traced_flops(config, tokens), rel=0.01)


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": OptimizerConfig(locked=("visual",)), "loss": LossConfig(kind="sigmoid")},
        {"loss": LossConfig(kind="species"), "replay": REPLAY, "replay_batch_size": 64},
    ],
)
def test_what_is_not_trained_needs_less(fields):
    config = TrainConfig(model=CLIPConfig.tiny(), global_batch_size=256, **fields)
    tokens = TOKENS if config.replay_batch_size else {"bio": 32}
    assert step_flops(config, tokens) == pytest.approx(traced_flops(config, tokens), rel=0.01)

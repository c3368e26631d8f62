"""Loading straight to the devices of a mesh: the same numbers, every byte read once, no whole tensor anywhere."""

import math
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import bioclip_jax
from bioclip_jax.config import CLIPConfig, TextConfig, VisionConfig
from bioclip_jax.convert.mesh import factored, load_on_mesh, share_dimensions
from bioclip_jax.convert.names import parameters_of
from bioclip_jax.convert.safetensors_files import SafetensorsFiles
from bioclip_jax.convert.weights import Cast, flatten, read_tree, shapes_of
from bioclip_jax.errors import UserError
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.training.sources import open_model

# Every sharded dimension divides by 8.
DIVISIBLE = CLIPConfig(64, VisionConfig(32, 16, 64, 2, 2), TextConfig(width=32, layers=3, heads=2))


@pytest.mark.parametrize("fsdp", [1, 2, pytest.param(4, marks=pytest.mark.core)])
@pytest.mark.parametrize(("to", "dtype"), [("open_clip", "float16"), ("hugging_face", "float32"), ("orbax", "float32")])
def test_parameters_on_a_mesh_are_those_on_one_device(tmp_path, write, to, dtype, fsdp):
    """With widths (60 among them) that do not divide, too."""
    source, _ = open_model(write(tmp_path / "model", to, dtype=dtype))
    whole = flatten(read_tree(source, Cast("float32")))
    mesh = make_mesh(fsdp=fsdp)
    placed = flatten(load_on_mesh(source, mesh))
    assert placed.keys() == whole.keys()
    for path, array in placed.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(array), whole[path], err_msg=path)
    kernel = placed["text/blocks/qkv/kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", None)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 32 // fsdp, 96)}


def test_a_model_on_a_mesh_gives_the_same_features(tmp_path, write):
    folder = write(tmp_path / "model", config=DIVISIBLE)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    one, spread = bioclip_jax.load(folder), bioclip_jax.load(folder, mesh=make_mesh(fsdp=4))
    np.testing.assert_allclose(spread.encode_image(pixels), one.encode_image(pixels), rtol=0, atol=1e-6)
    np.testing.assert_allclose(spread.encode_text(["a", "b"]), one.encode_text(["a", "b"]), rtol=0, atol=1e-6)


@pytest.mark.core
def test_numbers_that_are_not_finite_are_named(tmp_path, write):
    folder = write(tmp_path / "model", config=DIVISIBLE)
    path = folder / "open_clip_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(UserError, match="NaN or infinity in visual/"):
        load_on_mesh(open_model(folder)[0], make_mesh(fsdp=4))


@pytest.mark.core
@pytest.mark.parametrize("to", ["open_clip", "hugging_face"])
@pytest.mark.parametrize("fsdp", [1, 4])
def test_every_byte_of_a_file_is_read_about_once(tmp_path, write, monkeypatch, to, fsdp):
    """Also where each device holds everything, as with fsdp 1."""
    read, rows_read = SafetensorsFiles.read, []

    def counted(self, *arguments):
        array = read(self, *arguments)
        rows_read.append(array.nbytes)
        return array

    source, _ = open_model(write(tmp_path / "model", to, DIVISIBLE))
    monkeypatch.setattr(SafetensorsFiles, "read", counted)
    load_on_mesh(source, make_mesh(fsdp=fsdp))
    total = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    assert total * 0.99 < sum(rows_read) < total * 1.01
    assert max(rows_read) <= 49408 * 32 * 4 // 4  # the token table, of which every device reads a quarter


NO_WHOLE_TENSOR = """
import math, re, sys
import jax, numpy as np
from bioclip_jax.config import CLIPConfig
from bioclip_jax.convert.mesh import layout_program, reading_sharding
from bioclip_jax.convert.names import parameters_of
from bioclip_jax.convert.weights import flatten
from bioclip_jax.models import clip
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.parallel.sharding import ShardingRules

config, checked = CLIPConfig.vit_b16(), 0
_, shapes, axes = clip.abstract(config)
for fsdp in (8, 4):
    mesh = make_mesh(fsdp=fsdp)
    shardings = flatten(ShardingRules().tree(mesh, axes, shapes))
    for parameter in parameters_of(config):
        target, form = shardings[parameter.path], sys.argv[1]
        if target.is_fully_replicated or math.prod(parameter.full_shape) < 2**16:
            continue
        shape = (len(parameter.layer_indices()), *parameter.file_shape(form))
        leading = "one" if parameter.layers is None else "layers"
        program = layout_program(parameter.layouts[form], leading, target)
        rows = jax.ShapeDtypeStruct(shape, np.float32, sharding=reading_sharding(target, shape, leading))
        compiled = program.lower(rows).compile()
        largest = max(
            math.prod(int(n) for n in dimensions.split(",") if n)
            for dimensions in re.findall(r"(?:f32|pred)\\[([\\d,]*)\\]", compiled.as_text())
        )
        assert largest * 4 <= 4 * math.prod(shape) // fsdp, (parameter.path, fsdp, largest, shape)
        checked += 1
print(checked)
"""


@pytest.mark.parametrize("form", ["open_clip", "hugging_face"])
def test_no_device_of_eight_allocates_a_whole_tensor_that_is_sharded(form):
    """In the compiled programs no array, on any device, is larger than what is to lie there."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    command = [sys.executable, "-c", NO_WHOLE_TENSOR, form]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert int(shown.stdout) > 20


@pytest.mark.core
@pytest.mark.parametrize("config", [CLIPConfig.vit_l14(), CLIPConfig.vit_h14()], ids=["L/14", "H/14"])
@pytest.mark.parametrize(
    ("data", "fsdp", "bound"),
    [
        (8, 1, 1.001),
        (1, 8, 1.001),
        (3, 8, 3),
        (12, 2, 3),
        (64, 8, 1.001),
        (512, 1, 1.001),
        (1, 512, 1.001),
        (7, 8, 7),
    ],
)
def test_however_many_devices_read_a_file_they_read_it_about_once(config, data, fsdp, bound):
    """But for odd numbers of groups, which divide few widths: there at most once in each group."""
    axes = {f"{name}{i}": f for name, fs in factored({"data": data, "fsdp": fsdp}).items() for i, f in enumerate(fs)}
    read = stored = 0
    for parameter in parameters_of(config):
        shape = (len(parameter.layer_indices()), *parameter.file_shape("open_clip"))
        parts = math.prod(axes[name] for names in share_dimensions(shape, axes) for name in names)
        stored += math.prod(shape)
        read += math.prod(shape) * data * fsdp / parts
    assert 1 <= read / stored <= bound


TWO_PROCESSES = """
import re, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_compilation_cache", False)  # which would be read, too
jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, int(sys.argv[3]))
import numpy as np
from jax.sharding import AxisType, Mesh
from bioclip_jax.convert.mesh import load_on_mesh
from bioclip_jax.convert.weights import Cast, flatten, read_tree
from bioclip_jax.training.sources import open_model

def read():
    return int(re.search(r"rchar: (\\d+)", Path("/proc/self/io").read_text())[1])

source, _ = open_model(sys.argv[1])
whole = flatten(read_tree(source, Cast("float32")))
for shape in ((1, 8), (1, 8), (2, 4), (8, 1)):  # the first also reads programs and libraries
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    before = read()
    parameters = flatten(load_on_mesh(source, mesh))
    print("read", read() - before)
    for path, array in parameters.items():
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), whole[path][shard.index])
"""


def in_two_processes(code, *arguments):
    """Standard output and exit code of two processes that know of each other."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments), port, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    return [(process.communicate(timeout=300)[0], process.returncode) for process in processes]


@pytest.mark.parametrize(("to", "most"), [("open_clip", 0.55), pytest.param("orbax", 0.85, marks=pytest.mark.slow)])
def test_two_processes_read_about_half_of_a_model_each(tmp_path, write, to, most):
    """Of Orbax's, whole chunks, and what lies in small gaps between them."""
    config = CLIPConfig(64, VisionConfig(32, 16, 256, 2, 4), TextConfig(width=256, layers=2, heads=4))
    folder = write(tmp_path / "model", to, config)
    total = 4 * sum(math.prod(shape) for shape in shapes_of(config).values())
    for out, status in in_two_processes(TWO_PROCESSES, folder):
        assert status == 0, out
        counts = [int(line.split()[1]) for line in out.splitlines() if line.startswith("read")]
        assert len(counts) == 4
        assert all(0.45 * total < count < most * total for count in counts[1:]), (counts, total)


ONE_FAILS = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, int(sys.argv[3]))
from bioclip_jax.convert.mesh import load_on_mesh
from bioclip_jax.convert.safetensors_files import SafetensorsFiles
from bioclip_jax.errors import UserError
from bioclip_jax.parallel.mesh import BATCH_AXES
from bioclip_jax.training.sources import open_model
from jax.sharding import Mesh
import numpy as np

def fail(self, *arguments):
    raise UserError("the disk is gone")

source, _ = open_model(sys.argv[1])
if sys.argv[3] == "1":
    SafetensorsFiles.read = fail
try:
    load_on_mesh(source, Mesh(np.array(jax.devices()).reshape(1, 8), BATCH_AXES))
except UserError as error:
    print("said:", error)
"""


def test_a_process_that_cannot_read_does_not_leave_the_others_waiting(tmp_path, write):
    (first, _), (second, _) = in_two_processes(ONE_FAILS, write(tmp_path / "model", config=DIVISIBLE))
    assert "or another process could not read the file" in first
    assert "said: the disk is gone" in second

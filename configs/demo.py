r"""A small CLIP on the synthetic tree of life: about three minutes on two CPU cores.

`make demo` runs this, and draws a contact sheet:

bioclip-jax data build synthetic demo/data --num-species 48 --image-size 48 --num-images 6000 \
    --test-images-per-species 20
bioclip-jax train demo --work-dir demo/run
bioclip-jax eval demo/run synthetic --root demo/data
bioclip-jax report demo/run --out demo/report.html
bioclip-jax convert demo/run demo/open_clip --to open_clip
"""

from bioclip_jax.config import (
    CheckpointConfig,
    CLIPConfig,
    DataConfig,
    OptimizerConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)

config = TrainConfig(
    model=CLIPConfig(
        embed_dim=64,
        vision=VisionConfig(image_size=48, patch_size=8, width=128, layers=4, heads=2),
        text=TextConfig(width=64, layers=2, heads=1),
    ),
    data=DataConfig(dataset="demo/data", threads=2),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, weight_decay=0.1),
    checkpoint=CheckpointConfig(every_steps=200),
    global_batch_size=64,
    total_steps=900,
    dtype="float32",
    remat_policy="dots",
)

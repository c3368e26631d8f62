"""A small CLIP on the synthetic tree of life: about three minutes on two CPU cores.

bioclip-jax data build synthetic demo/data --num-images 20000
bioclip-jax train demo --work-dir demo/run
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
        vision=VisionConfig(image_size=64, patch_size=8, width=128, layers=4, heads=4),
        text=TextConfig(width=64, layers=2, heads=2),
    ),
    data=DataConfig(dataset="demo/data"),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=30, weight_decay=0.1),
    checkpoint=CheckpointConfig(every_steps=100),
    global_batch_size=128,
    total_steps=300,
    dtype="float32",
)

"""A small CLIP from scratch on 2,656 photographs of 883 species, for CPUs.

bioclip-jax data build photo_table organisms/data --table PHOTOS/metadata.csv
bioclip-jax train organisms --work-dir organisms/run
bioclip-jax eval organisms/run organisms --root organisms/data
bioclip-jax report organisms/run --out organisms/report.html

So few photos ask for more augmentation than the published recipe has: small crops and mirroring. Evaluation squashes
photos to a square, so that nothing of them is cut off. Every caption names the lineage: what can be learnt here.
"""

from bioclip_jax.config import (
    CheckpointConfig,
    CLIPConfig,
    DataConfig,
    OptimizerConfig,
    Preprocessing,
    TextConfig,
    TrainConfig,
    VisionConfig,
)

config = TrainConfig(
    model=CLIPConfig(
        embed_dim=64,
        vision=VisionConfig(image_size=64, patch_size=8, width=128, layers=4, heads=2),
        text=TextConfig(width=64, layers=2, heads=1),
    ),
    preprocessing=Preprocessing(geometry="squash"),
    data=DataConfig(
        dataset="organisms/data",
        text_types=("taxon", "taxon_com"),
        crop_scale=(0.25, 1.0),
        horizontal_flip=True,
        threads=2,
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, weight_decay=0.5),
    checkpoint=CheckpointConfig(every_steps=200),
    global_batch_size=128,
    total_steps=1000,
    dtype="float32",
    remat_policy="dots",
    log_every=20,
)

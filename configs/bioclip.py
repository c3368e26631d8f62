"""BioCLIP (Stevens et al., CVPR 2024): ViT-B/16 on TreeOfLife-10M, from OpenAI's weights.

bioclip-jax train bioclip --work-dir RUN --data.dataset TREEOFLIFE

The published run had 8 x 4,096 pairs a step for up to 100 epochs in half precision, and kept the epoch of the lowest
validation loss; give `--evaluation.validation-split`, `--evaluation.every-steps 302`, `--checkpoint.best-metric
validation_loss` and `--checkpoint.best-is lowest` for that. An epoch is ceil(9.88 M / 32,768) = 302 steps: 10.4 million
photos less the 5 % held out for validation.

OpenAI's weights are for QuickGELU, which the published run trained with too; its weights were then published, and
scored, as a model with the exact GELU.
"""

import dataclasses

from bioclip_jax.config import CheckpointConfig, CLIPConfig, DataConfig, OptimizerConfig, TrainConfig

STEPS_PER_EPOCH = 302

config = TrainConfig(
    model=dataclasses.replace(CLIPConfig.vit_b16(), activation="quick_gelu"),
    normalization="imagenet",
    initial_weights="hf-hub:openai/clip-vit-base-patch16",
    data=DataConfig(dataset="treeoflife-10m"),
    optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.2, warmup_steps=1_000),
    checkpoint=CheckpointConfig(every_steps=500, every_minutes=20),
    global_batch_size=32_768,
    total_steps=100 * STEPS_PER_EPOCH,
    steps_per_epoch=STEPS_PER_EPOCH,
    remat_policy="full",
)

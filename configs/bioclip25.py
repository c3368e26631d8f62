"""BioCLIP 2.5 Huge: ViT-H/14 on the updated TreeOfLife-200M of 233 million photos, with the replay of BioCLIP 2.

bioclip-jax train bioclip25 --work-dir RUN --data.dataset TREEOFLIFE --replay.dataset LAION

Published are the shape, the initial weights and the data. Batch, rate and schedule were not published: they are those
of `bioclip2.py` here, and an epoch is ceil(233 M / 90,112) = 2,586 steps, rounded up to a multiple of 8 as there.
"""

import dataclasses

from bioclip_jax.config import CLIPConfig
from bioclip_jax.recipes import load_recipe

STEPS_PER_EPOCH = 2_592

_bioclip2 = load_recipe("configs", "bioclip2").config

config = dataclasses.replace(
    _bioclip2,
    model=dataclasses.replace(CLIPConfig.vit_h14(), replay_projector=True),
    initial_weights="hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    data=dataclasses.replace(_bioclip2.data, dataset="treeoflife-233m"),
    checkpoint=dataclasses.replace(_bioclip2.checkpoint, keep_every_steps=5 * STEPS_PER_EPOCH),
    total_steps=30 * STEPS_PER_EPOCH,
    steps_per_epoch=STEPS_PER_EPOCH,
)

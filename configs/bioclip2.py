"""BioCLIP 2 (Gu et al., NeurIPS 2025): ViT-L/14 on TreeOfLife-200M, with experience replay of LAION-2B.

bioclip-jax train bioclip2 --dry-run
bioclip-jax train bioclip2 --work-dir RUN --data.dataset TREEOFLIFE --replay.dataset LAION

TREEOFLIFE and LAION are dataset directories (docs/treeoflife.md tells how to make them); on several hosts RUN is a
folder that all of them see. docs/training.md says what to type on which machine.

The batches are those of the published run, 32 x 2,816 and 32 x 320. Its epoch is ceil(214 M / 90,112) = 2,375 steps,
which its loader rounds up to a multiple of its 8 workers. Each of these is one field away from it:

    without replay                   --replay-batch-size 0
    one projector for both           --model.no-replay-projector
    flat species instead of captions --loss.kind species
    one text type                    --data.text-types taxon
    a text type for each photo       --data.text-type-per-sample
    equal captions are no negatives  --loss.several-positives
    sigmoid loss                     --loss.kind sigmoid
    constant rate with a cool-down   --optimizer.schedule constant --optimizer.cooldown-steps 7128
    a locked tower                   --optimizer.locked visual
    moving average of the weights    --optimizer.ema-decay 0.9999
    its own normalisation            --normalization preprocessing

What upstream does by mistake, or for want of memory, is off here, and one field away for comparison:

    replay restarts every epoch      --replay.restart-every-steps 2376
    shards drawn with replacement    --data.with-replacement
    pure_bf16, as its later script   --parameter-dtype bfloat16
    all captions as 77 tokens        --data.no-trim-text
"""

import dataclasses

from bioclip_jax.config import (
    CheckpointConfig,
    CLIPConfig,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)

STEPS_PER_EPOCH = 2_376

config = TrainConfig(
    model=dataclasses.replace(CLIPConfig.vit_l14(), replay_projector=True),
    # Upstream trained with ImageNet's mean and deviation, and published OpenAI's with the weights.
    normalization="imagenet",
    initial_weights="hf-hub:laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    data=DataConfig(dataset="treeoflife-200m"),
    replay=DataConfig(dataset="laion-2b-replay", text_types=("caption",)),
    optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.2, warmup_steps=1_875),
    mesh=MeshConfig(shard_optimizer=True),
    checkpoint=CheckpointConfig(every_steps=500, every_minutes=20, keep=3, keep_every_steps=5 * STEPS_PER_EPOCH),
    global_batch_size=90_112,
    replay_batch_size=10_240,
    total_steps=30 * STEPS_PER_EPOCH,
    steps_per_epoch=STEPS_PER_EPOCH,
    remat_policy="full",
)

"""Body plans: how each kind of organism is drawn from its traits."""

from bioclip_jax.pipeline.synthetic.plans.table import PLANS, BodyPlan

__all__ = ["PLANS", "BodyPlan"]

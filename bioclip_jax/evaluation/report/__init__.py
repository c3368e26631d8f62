"""One self-contained HTML page of a results database: no network, no script, every text escaped."""

from bioclip_jax.evaluation.report.page import write_report

__all__ = ["write_report"]

import hashlib

import pytest

from bioclip_jax.text.templates import OPENAI_IMAGENET_TEMPLATES, TEMPLATES

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("templates", "count", "digest"),
    [
        (OPENAI_IMAGENET_TEMPLATES, 80, "594f98a56e7af82b48805f2801515b385496071266ec194bc78fb0fdf2ee3377"),
        (TEMPLATES, 81, "8e8c795813ac4672b2815ef860976bdfa0086f5ff9df355fb4ee2ba49eefa3ef"),
    ],
)
def test_templates_are_the_published_ones_in_their_order(templates, count, digest):
    assert len(templates) == count
    assert hashlib.sha256("\n".join(template.format("X") for template in templates).encode()).hexdigest() == digest

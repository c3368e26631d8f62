"""Addresses in object stores where a path on a disk is needed: one line, and no folder called `gs:`."""

import pytest

from bioclip_jax.cli import main
from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.local_paths import require_local

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("launch local demo --work-dir {url}", "--work-dir"),
        ("train demo --work-dir {url}", "--work-dir"),
        ("eval {url} nabirds", "MODEL"),
        ("eval run nabirds --results {url}", "--results"),
        ("emergence {url}", "MODEL"),
        ("emergence run --results {url}", "--results"),
        ("emergence run --picture {url}", "--picture"),
        ("convert {url} out --to orbax", "SOURCE"),
        ("convert run {url} --to orbax", "DESTINATION"),
        ("embed {url} photos", "MODEL"),
        ("embed run photos --out {url}", "--out"),
        ("predict {url} photos --labels labels.txt", "MODEL"),
        ("predict run photos --labels labels.txt --out {url}", "--out"),
    ],
)
def test_runs_in_an_object_store_are_refused_with_what_to_do(capsys, monkeypatch, tmp_path, command, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(command.format(url="gs://bucket/run").split())
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert f"error: {name} gs://bucket/run is in an object store" in shown
    assert "mount" in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["gs:/bucket/run", "S3://bucket", "gs://", "abfss://a@b/run"])
def test_every_form_of_such_an_address_is_known(path):
    with pytest.raises(UsageError, match=r"MODEL .*://.* is in an object store"):
        require_local(path, "MODEL")


@pytest.mark.parametrize("path", [None, "run", "/runs/2026-11-29T10:00/x", "hf-hub:owner/name", "a:b/c", "C:/runs"])
def test_other_paths_are_taken_for_what_they_are(path):
    require_local(path, "MODEL")

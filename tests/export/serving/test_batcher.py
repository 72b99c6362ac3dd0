"""The threads of the service without the service."""

import pytest

from export.serving.batcher import Batcher
from export.session import Classifier


@pytest.mark.timeout(60)
def test_a_model_without_memory_for_a_batch_ends_the_start_by_its_error(model, monkeypatch):
    def refused(classifier, workers):
        raise RuntimeError("no memory on the GPU")

    monkeypatch.setattr(Classifier, "buffer", refused)
    batcher = Batcher(Classifier(model, "cpu"), runners=2, max_pixels=10**6, metrics=None)
    with pytest.raises(RuntimeError, match="no memory on the GPU"):
        batcher.start()
    assert not any(thread.is_alive() for thread in batcher.threads)

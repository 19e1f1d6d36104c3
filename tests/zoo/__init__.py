"""The model zoo: real architectures and awkward little models, with their inputs and dynamic dims.

    from tests.zoo import MODELS, select

    model = MODELS["hf-bert"].build()
    args, kwargs = MODELS["hf-bert"].inputs(batch=2)
    for entry in select("cnn", without=("large",)): ...

`python -m tests.zoo` exports every model and prints a table.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.zoo import huggingface_audio, huggingface_text, huggingface_vision, own, trained
from tests.zoo import minilm as _minilm
from tests.zoo.minilm import SentenceEncoder, minilm, tokenize
from tests.zoo.model import Inputs, ZooModel, seeded
from tests.zoo.trained import Dataset, Trained, accuracy, trained_lenet, trained_resnet8

MODELS: dict[str, ZooModel] = {
    entry.name: entry
    for module in (huggingface_vision, huggingface_text, huggingface_audio, own, trained, _minilm)
    for entry in module.MODELS
}


def select(*tags: str, without: Iterable[str] = ()) -> list[ZooModel]:
    """The entries that carry all of `tags` and none of `without`, in the order of the zoo."""
    unwanted = set(without)
    return [entry for entry in MODELS.values() if entry.tags.issuperset(tags) and not entry.tags & unwanted]


__all__ = [
    "MODELS",
    "Dataset",
    "Inputs",
    "SentenceEncoder",
    "Trained",
    "ZooModel",
    "accuracy",
    "minilm",
    "seeded",
    "select",
    "tokenize",
    "trained_lenet",
    "trained_resnet8",
]

import pytest
from tiny_text import language_model

from diffpo.lab.rewrites.build import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    """One that has learned nothing yet."""
    return language_model(vocabulary=len(tokenizer)).eval()

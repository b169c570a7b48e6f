"""What several tests of methods start from: data in double precision, and a network that knows them."""

from __future__ import annotations

import pytest
from method_cases import double, knowing

from unlearnbench.data.tensors import Data
from unlearnbench.training.models import Classifier


@pytest.fixture
def exact(data: Data) -> Data:
    return double(data)


@pytest.fixture
def model(exact: Data) -> Classifier:
    return knowing(exact)

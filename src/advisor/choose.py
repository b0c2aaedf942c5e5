"""From the `llm` section to the advisor it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, Union

from src.advisor.mock import MockAdvisor
from src.advisor.settings import LLMSettings
from src.advisor.table import Advisor
from src.machine_limits import free_cores

if TYPE_CHECKING:
    from src.advisor.endpoint import EndpointModel

AnyAdvisor: TypeAlias = Union[MockAdvisor, "LanguageModel", "EndpointModel"]
"""Rules, a model on this machine, or one behind a server."""
MOCK = "mock"
BUNDLED = "bundled:smollm2"


@dataclass(frozen=True)
class LanguageModel:
    """A language model that is on this machine and not loaded yet."""

    name: str
    identity: str
    settings: LLMSettings

    def load(self) -> Advisor:
        """Load the model. Raises UserErrors for what the user can fix."""
        from src.advisor.models import load_model
        from src.advisor.prompts import load_prompts
        from src.advisor.scoring import LLMScorer

        llm = self.settings
        loaded = load_model(
            llm.model,
            quantization=llm.quantization,
            device=llm.llm_device,
            threads=llm.llm_threads or free_cores(),  # its layers are large: here a second thread pays
        )
        return LLMScorer(loaded, load_prompts(), batch_size=llm.advice_batch_size)

    def weight_bytes(self) -> int:
        """What its weights take once loaded, from its files alone. Raises UserErrors as `load`."""
        from src.advisor.models import weight_bytes

        return weight_bytes(self.name, quantization=self.settings.quantization, device=self.settings.llm_device)

    def in_full_precision(self) -> LanguageModel:
        """The same model without quantization."""
        return _language_model(self.settings.model_copy(update={"quantization": "none"}))


def make_advisor(settings: LLMSettings) -> AnyAdvisor:
    """The advisor of `llm.model`, a language model not loaded yet. ConfigError for one that is not on this machine, and
    with `llm.endpoint` for one that its server does not have."""
    if settings.model == MOCK:
        return MockAdvisor()
    if settings.endpoint is not None:
        from src.advisor.endpoint import endpoint_model

        return endpoint_model(settings)
    return _language_model(settings)


def _language_model(settings: LLMSettings) -> LanguageModel:
    from src.advisor.prompts import load_prompts
    from src.advisor.scoring import identity_of

    identity = identity_of(
        settings.model, load_prompts(), quantization=settings.quantization, device=settings.llm_device
    )
    return LanguageModel(settings.model, identity, settings)

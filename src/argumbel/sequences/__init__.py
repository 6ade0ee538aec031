"""Language models: the race at every token of a text, and what it tells about the text."""

from ._beams import Beams, expand, stochastic_beam_search
from ._counterfactual import counterfactual_text
from ._diffusion import Unmasked, unmask
from ._drafts import Speculation, accepted, speculative_decode
from ._texts import Step
from ._tokens import next_tokens, seed_tensor, truncate
from ._watermark import WatermarkScores, context_rows, watermark, watermark_p_value, watermark_scores

__all__ = [
    "Beams",
    "Speculation",
    "Step",
    "Unmasked",
    "WatermarkScores",
    "accepted",
    "context_rows",
    "counterfactual_text",
    "expand",
    "next_tokens",
    "speculative_decode",
    "stochastic_beam_search",
    "truncate",
    "unmask",
    "watermark",
    "watermark_p_value",
    "watermark_scores",
]

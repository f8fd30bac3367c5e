"""Z-Image: a transformer that takes pictures and prompts as lists, and is told how much picture there is.

Its text encoder is a language model, asked as in a conversation; a prompt has as many states as tokens.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from train.model.families.family import Conditioning, Family, TextEncoder, TextStates, Tokens

TOKENS = 512  # the pipeline's longest prompt


class ZImageConditioning(Conditioning):
    def denoise(self, denoiser: torch.nn.Module, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The flow. The denoiser counts time from noise to picture, 0 to 1, and predicts the way in that direction."""
        texts = list(self.prompt_embeds)
        if self.mask is not None:
            texts = [states[:length] for states, length in zip(texts, self.mask.sum(1).tolist(), strict=True)]
        pictures = list(noisy.unsqueeze(2))  # of one frame
        found = denoiser(pictures, (1000 - timesteps) / 1000, texts, return_dict=False)[0]
        return -torch.stack(found).squeeze(2)


class ZImage(Family):
    name = "zimage"
    example = "Tongyi-MAI/Z-Image"
    pipeline = "ZImagePipeline"
    denoiser = "ZImageTransformer2DModel"
    text: ClassVar[tuple[TextEncoder, ...]] = (TextEncoder("Qwen3Model", "Qwen2Tokenizer", tokens=TOKENS, ragged=True),)
    conditioning = ZImageConditioning
    half = torch.bfloat16
    guidance = 5.0

    def patch(self, denoiser: Any) -> int:
        return int(denoiser["all_patch_size"][0])

    def text_shapes(self, denoiser: Any) -> list[tuple[int, int, int | None]]:
        return [(TOKENS, denoiser["cap_feat_dim"], None)]

    def asked(self, tokenizer: Any, prompt: str) -> str:
        message = [{"role": "user", "content": prompt}]
        asked: str = tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return asked

    def text_states(self, encoder: Any, index: int, tokens: Tokens) -> TextStates:
        output = encoder(tokens.ids, attention_mask=tokens.mask.bool(), output_hidden_states=True, use_cache=False)
        return TextStates(output.hidden_states[-2])

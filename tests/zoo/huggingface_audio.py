"""Audio and multimodal architectures of transformers, small and with random weights.

Left out because torch.export refuses them: EnCodec, whose padding branches on the value of a tensor.
"""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo.huggingface_text import RANGES, VOCABULARY, ids_and_mask
from tests.zoo.huggingface_vision import build, encoder
from tests.zoo.model import BATCH, LENGTH, Inputs, ZooModel, tokens

WAVE = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
TEXT_TOWER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 80,
    "bos_token_id": 1,
    "eos_token_id": 98,
    "projection_dim": 24,
}


def waveform(generator: torch.Generator, batch: int, length: int) -> Inputs:
    """A mono waveform `[batch, length]`."""
    return (torch.randn(batch, length, generator=generator),), {}


def wave_model(name: str, model_class: str, config_class: str, smallest_batch: int = 1, **options: object) -> ZooModel:
    """A model `input_values [batch, length] -> output object`; its convolutions shorten it tenfold."""
    return ZooModel(
        name=name,
        make=lambda: build(model_class, config_class, **options),
        make_inputs=waveform,
        tags=frozenset({"transformers", "audio", "encoder"}),
        dynamic={"input_values": {0: BATCH, 1: LENGTH}},
        ranges={BATCH: (smallest_batch, 64), LENGTH: (80, 4000)},
        steps={LENGTH: 10},
        length=400,
        strengthen=True,
    )


def whisper_inputs(generator: torch.Generator, batch: int, length: int) -> Inputs:
    """A log-mel spectrogram `[batch, 16, 40]` and decoder tokens."""
    features = torch.randn(batch, 16, 40, generator=generator)
    return (features,), {
        "decoder_input_ids": tokens(generator, batch, length, VOCABULARY),
        "use_cache": False,
    }


def clip() -> nn.Module:
    """Text and image towers with a shared embedding space."""
    return build(
        "CLIPModel",
        "CLIPConfig",
        text_config=TEXT_TOWER,
        vision_config=encoder(projection_dim=24),
        projection_dim=24,
    )


def siglip() -> nn.Module:
    """CLIP's successor with attention pooling."""
    text = {key: value for key, value in TEXT_TOWER.items() if key != "projection_dim"}
    return build("SiglipModel", "SiglipConfig", text_config=text, vision_config=encoder())


def text_and_image(generator: torch.Generator, batch: int, length: int) -> Inputs:
    """Token ids with mask and one image for each text."""
    (ids,), kwargs = ids_and_mask(generator, batch, length)
    return (), {
        "input_ids": ids,
        "pixel_values": torch.randn(batch, 3, 32, 32, generator=generator),
        **kwargs,
    }


def spectrogram(generator: torch.Generator, batch: int, length: int) -> Inputs:
    """A spectrogram `[batch, time, frequency]`."""
    return (torch.randn(batch, 48, 24, generator=generator),), {}


MODELS = [
    wave_model("hf-wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", **WAVE),
    wave_model("hf-hubert", "HubertModel", "HubertConfig", **WAVE),
    wave_model("hf-wavlm", "WavLMModel", "WavLMConfig", smallest_batch=2, **WAVE),
    ZooModel(
        name="hf-whisper",
        make=lambda: build(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            vocab_size=VOCABULARY,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_mel_bins=16,
            max_source_positions=20,
            max_target_positions=70,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        make_inputs=whisper_inputs,
        tags=frozenset({"transformers", "audio", "encoder-decoder", "tied"}),
        dynamic={"input_features": {0: BATCH}, "decoder_input_ids": {0: BATCH, 1: LENGTH}},
        ranges=RANGES,
        length=6,
        strengthen=True,
    ),
    ZooModel(
        name="hf-ast",
        make=lambda: build(
            "ASTForAudioClassification",
            "ASTConfig",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            patch_size=8,
            max_length=48,
            num_mel_bins=24,
            frequency_stride=6,
            time_stride=6,
        ),
        make_inputs=spectrogram,
        tags=frozenset({"transformers", "audio", "encoder"}),
        dynamic={"input_values": {0: BATCH}},
        strengthen=True,
    ),
    ZooModel(
        name="hf-clip",
        make=clip,
        make_inputs=text_and_image,
        tags=frozenset({"transformers", "text", "vision", "multimodal"}),
        dynamic={
            "input_ids": {0: BATCH, 1: LENGTH},
            "attention_mask": {0: BATCH, 1: LENGTH},
            "pixel_values": {0: BATCH},
        },
        ranges=RANGES,
        length=12,
        strengthen=True,
    ),
    ZooModel(
        name="hf-siglip",
        make=siglip,
        make_inputs=text_and_image,
        tags=frozenset({"transformers", "text", "vision", "multimodal"}),
        dynamic={
            "input_ids": {0: BATCH, 1: LENGTH},
            "attention_mask": {0: BATCH, 1: LENGTH},
            "pixel_values": {0: BATCH},
        },
        ranges=RANGES,
        length=12,
        strengthen=True,
    ),
]

"""Text architectures of transformers: encoders, decoders, encoder-decoders, mixtures of experts, state space.

The mixtures of experts export with the default, batched experts; the eager ones loop over the experts that
the data hit, which torch.export refuses.
"""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.huggingface_vision import build
from tests.zoo.model import BATCH, LENGTH, Inputs, ZooModel, tokens

VOCABULARY = 99
RANGES = {LENGTH: (2, 64)}
AXES = {0: BATCH, 1: LENGTH}
# State-space models run a loop over time in Python, which export unrolls: only their batch is dynamic.
UNROLLED = {0: BATCH}

ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
}
DECODER = {**ENCODER, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = {**DECODER, "num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2}


def ids_and_mask(generator: torch.Generator, batch: int, length: int) -> Inputs:
    """Token ids with an attention mask that hides the tail of every second row."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[1::2, length - length // 3 :] = 0
    return (tokens(generator, batch, length, VOCABULARY),), {"attention_mask": mask}


def ids_without_cache(generator: torch.Generator, batch: int, length: int) -> Inputs:
    """Token ids; without `use_cache=False` the output holds a cache object that torch.export can't return."""
    return (tokens(generator, batch, length, VOCABULARY),), {"use_cache": False}


def source_and_target(generator: torch.Generator, batch: int, length: int) -> Inputs:
    """Token ids of an encoder-decoder, the target five tokens long."""
    source, target = tokens(generator, batch, length, VOCABULARY), tokens(generator, batch, 5, VOCABULARY)
    return (), {"input_ids": source, "decoder_input_ids": target, "use_cache": False}


def text_encoder(name: str, model_class: str, config_class: str, *tags: str, **options: Any) -> ZooModel:
    """An encoder `(input_ids, attention_mask) -> output object`."""
    return ZooModel(
        name=name,
        make=lambda: build(model_class, config_class, **options),
        make_inputs=ids_and_mask,
        tags=frozenset({"transformers", "text", "encoder", *tags}),
        dynamic={"input_ids": AXES, "attention_mask": AXES},
        ranges=RANGES,
        length=12,
        strengthen=True,
    )


def decoder(
    name: str, model_class: str, config_class: str, *tags: str, axes: dict[int, str] = AXES, **options: Any
) -> ZooModel:
    """A causal language model `input_ids -> output object with logits`."""
    return ZooModel(
        name=name,
        make=lambda: build(model_class, config_class, **options),
        make_inputs=ids_without_cache,
        tags=frozenset({"transformers", "text", "decoder", *tags}),
        dynamic={"input_ids": axes},
        ranges=RANGES,
        length=10,
        strengthen=True,
    )


def encoder_decoder(name: str, model_class: str, config_class: str, *tags: str, **options: Any) -> ZooModel:
    """A sequence-to-sequence model with the source length dynamic."""
    return ZooModel(
        name=name,
        make=lambda: build(model_class, config_class, **options),
        make_inputs=source_and_target,
        tags=frozenset({"transformers", "text", "encoder-decoder", *tags}),
        dynamic={"input_ids": AXES, "decoder_input_ids": {0: BATCH}},
        ranges=RANGES,
        length=9,
        strengthen=True,
    )


BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 80,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

ENCODERS = [
    text_encoder("hf-bert", "BertForSequenceClassification", "BertConfig", **ENCODER),
    text_encoder(
        "hf-distilbert",
        "DistilBertModel",
        "DistilBertConfig",
        vocab_size=VOCABULARY,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=48,
        max_position_embeddings=80,
    ),
    text_encoder("hf-roberta", "RobertaForTokenClassification", "RobertaConfig", **ENCODER),
    text_encoder("hf-albert", "AlbertModel", "AlbertConfig", "tied", embedding_size=16, **ENCODER),
    text_encoder("hf-electra", "ElectraForPreTraining", "ElectraConfig", embedding_size=16, **ENCODER),
    text_encoder("hf-mpnet", "MPNetModel", "MPNetConfig", **ENCODER),
    text_encoder(
        "hf-deberta-v2",
        "DebertaV2Model",
        "DebertaV2Config",
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        **ENCODER,
    ),
    text_encoder(
        "hf-modernbert",
        "ModernBertModel",
        "ModernBertConfig",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=3,
        sep_token_id=4,
        local_attention=8,
        global_attn_every_n_layers=2,
        **ENCODER,
    ),
    text_encoder("hf-nystromformer", "NystromformerModel", "NystromformerConfig", **ENCODER),
]

DECODERS = [
    decoder(
        "hf-gpt2",
        "GPT2LMHeadModel",
        "GPT2Config",
        "tied",
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=80,
        bos_token_id=1,
        eos_token_id=2,
    ),
    decoder(
        "hf-gpt-neo",
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=6,
        max_position_embeddings=80,
        bos_token_id=1,
        eos_token_id=2,
    ),
    decoder("hf-gpt-neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", **DECODER),
    decoder(
        "hf-opt",
        "OPTForCausalLM",
        "OPTConfig",
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=80,
        word_embed_proj_dim=32,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    decoder(
        "hf-bloom",
        "BloomForCausalLM",
        "BloomConfig",
        vocab_size=VOCABULARY,
        hidden_size=32,
        n_layer=2,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    decoder(
        "hf-falcon",
        "FalconForCausalLM",
        "FalconConfig",
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=2,
    ),
    decoder("hf-llama", "LlamaForCausalLM", "LlamaConfig", **GROUPED),
    decoder("hf-mistral", "MistralForCausalLM", "MistralConfig", sliding_window=6, **GROUPED),
    decoder("hf-qwen2", "Qwen2ForCausalLM", "Qwen2Config", **GROUPED),
    decoder("hf-qwen3", "Qwen3ForCausalLM", "Qwen3Config", head_dim=8, **GROUPED),
    decoder(
        "hf-gemma2",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        head_dim=8,
        sliding_window=6,
        query_pre_attn_scalar=8,
        **GROUPED,
    ),
    decoder("hf-phi", "PhiForCausalLM", "PhiConfig", **DECODER),
    decoder("hf-phi3", "Phi3ForCausalLM", "Phi3Config", **GROUPED),
    decoder("hf-stablelm", "StableLmForCausalLM", "StableLmConfig", **GROUPED),
    decoder("hf-mixtral", "MixtralForCausalLM", "MixtralConfig", "moe", num_local_experts=4, **EXPERTS, **GROUPED),
    decoder(
        "hf-qwen2-moe",
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        "moe",
        num_experts=4,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        **EXPERTS,
        **GROUPED,
    ),
    decoder(
        "hf-mamba",
        "MambaForCausalLM",
        "MambaConfig",
        "ssm",
        axes=UNROLLED,
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        state_size=4,
        num_hidden_layers=2,
        time_step_rank=2,
    ),
    decoder(
        "hf-mamba2",
        "Mamba2ForCausalLM",
        "Mamba2Config",
        "ssm",
        axes=UNROLLED,
        vocab_size=VOCABULARY,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        num_heads=4,
        head_dim=8,
        n_groups=1,
        chunk_size=8,
    ),
    decoder(
        "hf-rwkv",
        "RwkvForCausalLM",
        "RwkvConfig",
        "ssm",
        axes=UNROLLED,
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        context_length=64,
    ),
]

ENCODER_DECODERS = [
    encoder_decoder(
        "hf-t5",
        "T5ForConditionalGeneration",
        "T5Config",
        "tied",
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    ),
    encoder_decoder("hf-bart", "BartForConditionalGeneration", "BartConfig", "tied", **BART),
    encoder_decoder("hf-marian", "MarianMTModel", "MarianConfig", "tied", **BART),
    encoder_decoder("hf-pegasus", "PegasusForConditionalGeneration", "PegasusConfig", "tied", **BART),
]

MODELS = [*ENCODERS, *DECODERS, *ENCODER_DECODERS]
